"""What differs from task to task in a run; everything else is the same for all."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import nn

from featherbone.data.loading import eval_loader
from featherbone.data.measured import Measured
from featherbone.data.scan import find_unreadable, leave_out
from featherbone.data.splits import Splits
from featherbone.engine.accelerator import count_workers
from featherbone.engine.settings import Settings
from featherbone.errors import BadData, BadOption
from featherbone.tasks.card import Card, versions
from featherbone.tasks.testing import Testing


class Job(ABC):
    """A task on a data set, opened without what cannot be read."""

    metric: ClassVar[str]
    """The validation metric by which weights are best."""
    collate: ClassVar[Callable[..., Any] | None] = None
    """How samples become a batch; None for torch's own way."""
    eval_batch: ClassVar[int] = 64
    """Images evaluated at a time, over all processes."""

    split = "val"
    """Name of the split that is measured."""

    def __init__(self, task: str, data: Path, settings: Settings, measured: Measured | None = None) -> None:
        """Open both splits, or only the one that is `measured`; then `train` is empty."""
        self.task, self.data, self.settings = task, data, settings
        self.is_training = measured is None
        if measured is None:
            splits = self.open()
        else:
            self.split = measured.split
            splits = Splits(measured.images.take([]), measured.images, measured.notices)
        self.classes: tuple[str, ...] = splits.classes
        bad = {split: find_unreadable(getattr(splits, split)) for split in ("train", "val")}
        self.skipped = {getattr(splits, split).name(i): why for split, found in bad.items() for i, why in found.items()}
        """The reason for each image that was left out, by name."""
        self.notices: tuple[str, ...] = (
            *splits.notices,
            *splits.warnings,
            *(f"left out: {reason}" for reason in self.skipped.values()),
        )
        self.train: Any = leave_out(splits.train, bad["train"])
        self.val: Any = leave_out(splits.val, bad["val"])
        if not all(map(len, self.parts.values())):
            raise BadData(f"{data}: no image of one split can be read; the first: {next(iter(self.skipped.values()))}")
        self.check()

    @property
    def parts(self) -> dict[str, Any]:
        """The images that are used, by split."""
        return {"train": self.train, "val": self.val} if self.is_training else {self.split: self.val}

    @abstractmethod
    def open(self) -> Any:
        """Both splits: `train`, `val`, `classes` and `notices`. Raises `BadData`."""

    def check(self) -> None:  # noqa: B027  # most tasks have nothing more to check
        """Raise `BadData` where what is left cannot be trained on."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all names and labels."""

    @abstractmethod
    def card(self, model: str) -> Card:
        """The card a run starts with."""

    @abstractmethod
    def build(self, card: Card, device: torch.device) -> Any:
        """The task to train, with the weights that it starts from."""

    @abstractmethod
    def samples(self, card: Card) -> Any:
        """Augmented training samples by (epoch, index); `images` are the split's."""

    @abstractmethod
    def preparer(self, card: Card, device: torch.device) -> Callable[[Any, tuple[int, int]], tuple[Any, Any]]:
        """What turns a loaded batch and (seed, step) into images and targets on the device."""

    @abstractmethod
    def eval_samples(self, card: Card) -> Any:
        """Validation samples by (0, index)."""

    @abstractmethod
    def measure(self, task: nn.Module, card: Card, loader: Any, accelerator: Accelerator) -> tuple[dict[str, Any], Any]:
        """Validation metrics of a task in evaluation mode, and what the report shows of single images."""

    @abstractmethod
    def headline(self, metrics: dict[str, Any]) -> str:
        """The metrics in a few words."""

    @abstractmethod
    def report(self, path: Path, card: Card, outcome: Any) -> None:
        """Write the page that tells how a run went."""

    @abstractmethod
    def show_batch(self, path: Path, samples: Any, keys: list[tuple[int, int]], card: Card) -> None:
        """Write a picture of augmented training images, as the network sees them."""

    def show_outcome(self, path: Path, outcome: Any) -> None:  # noqa: B027  # a choice, not a duty
        """Write a picture of what an evaluation found; by default none."""

    def set_tiles(self, size: int, overlap: float) -> None:
        """Seek objects of large images in tiles, too. Raises `BadOption` for a task that finds none."""
        raise BadOption(f"tiles mean nothing to {self.task}; leave --tile out")

    def set_testing(self, testing: Testing) -> None:
        """Look at images by windows, in several sizes, mirrored. Raises `BadOption` for a task that has one way."""
        raise BadOption(f"slide, scales and mirror mean nothing to {self.task}; leave them out")

    def about_data(self) -> dict[str, Any]:
        """What a card says of the data."""
        return {
            "path": str(self.data.resolve()),
            "fingerprint": self.fingerprint(),
            "val_fingerprint": self.val.fingerprint(),
            "train": len(self.train),
            "val": len(self.val),
            "skipped": self.skipped,
        }

    def first_card(self, **fields: Any) -> Card:
        """A card with what all tasks say alike; `fields` are the rest."""
        return Card(
            task=self.task,
            classes=self.classes,
            data=self.about_data(),
            settings=self.settings.to_dict(),
            versions=versions(),
            **fields,
        )

    def eval_loader(self, card: Card, batch_size: int, accelerator: Accelerator) -> Any:
        """The validation images in order, this process's share."""
        return eval_loader(
            self.eval_samples(card),
            batch_size,
            count_workers(self.settings.workers, accelerator.device),
            accelerator.device,
            accelerator.process_index,
            accelerator.num_processes,
            type(self).collate,
        )
