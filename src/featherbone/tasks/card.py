"""The card of a run: everything needed to use its weights, and where they come from."""

import io
import platform
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from featherbone.data.layouts import ALL
from featherbone.data.place import Url, root_of
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadRun
from featherbone.files import parse_value, read_json, write_bytes, write_json
from featherbone.metrics.operating_point import OperatingPoint

FORMAT = 1
"""Of `card.json`: raised by a change after which files have another meaning, or older versions cannot read them."""
CARD, WEIGHTS, CONFUSION = "card.json", "weights.safetensors", "confusion.npz"
MAX_CONFUSION = 100
"""Maximum number of classes for which the card holds the confusion matrix."""
MAX_CLASSES, MAX_NAME = 100_000, 1_000
DATA = ("fingerprint", "train", "val")
SETTINGS = ("val_share", "seed", "ignore_index", "zero_ignored", "unlabelled")
"""Entries that a card with the path of its data must have."""
DAMAGED = "restore the file or train again"


class DataFacts(TypedDict, total=False):
    """`data` of a card."""

    path: str
    fingerprint: str
    train: int
    val: int
    skipped: dict[str, str]
    category_ids: list[int]
    measured: int
    synsets: list[str]


class Reading(TypedDict, total=False):
    """The `settings` by which the data of a run is read."""

    val_share: float
    seed: int
    val_seed: int | None
    ignore_index: int | None
    zero_ignored: bool
    unlabelled: Literal["leave-out", "negative"]
    crowds: Literal["ignore", "objects"]


class Metrics(TypedDict, total=False):
    """The `metrics` that are not only shown."""

    best_score: float | None
    operating_point: OperatingPoint
    top1: float | None
    epoch: int
    images: int
    split: str
    interval: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Card:
    """The card of a run; `card.json` holds the same fields."""

    task: str
    backbone: str
    """timm name."""
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    model_args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the backbone, apart from `num_classes`."""
    head: str | None = None
    """Head on the backbone's feature maps; None for classification."""
    head_args: dict[str, Any] = field(default_factory=dict)
    things: tuple[int, ...] = ()
    """Indices of the countable classes, for panoptic segmentation."""
    data: dict[str, Any] = field(default_factory=dict)
    """Path, fingerprint and counts of the data set."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the training run."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Validation metrics of the weights; empty before the first evaluation."""
    weights_licence: str = "yours: trained from scratch"
    """Licence of the weights that training started from."""
    starting_weights: str = ""
    """The published model, file or run that training started from; empty for random weights."""
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, run: Path) -> None:
        """Write the card into the run folder; a confusion matrix of many classes into `confusion.npz` beside it."""
        metrics = dict(self.metrics)
        if len(metrics.get("confusion", ())) > MAX_CONFUSION:
            content = io.BytesIO()
            np.savez_compressed(content, confusion=np.array(metrics.pop("confusion"), np.int64))
            write_bytes(run / CONFUSION, content.getvalue())
        write_json(run / CARD, asdict(replace(self, metrics=metrics)))

    def public(self) -> "Card":
        """The card for weights that are distributed: without paths, and without what concerns only training."""
        facts = "category_ids", "fingerprint", "val_fingerprint"
        return replace(
            self,
            settings={name: self.settings[name] for name in Reading.__annotations__ if name in self.settings},
            data={name: self.data[name] for name in facts if name in self.data},
            metrics={
                name: value
                for name, value in self.metrics.items()
                if isinstance(value, int | float | str) or name in ("interval", "operating_point")
            },
        )

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The number of each class in the files of its data; by default from 1."""
        return tuple(self.data.get("category_ids", range(1, len(self.classes) + 1)))

    def data_folder(self, remedy: str) -> Path:
        """The data folder that the run was trained on. Raises `BadRun` with the `remedy` where it does not exist."""
        if "path" not in self.data:
            raise BadRun(f"what is distributed does not state where its images are; {remedy}")
        folder = root_of(self.data["path"])
        if not isinstance(folder, Url) and not folder.is_dir():
            raise BadRun(f"{folder}: the run's data folder does not exist; {remedy}, or restore it")
        return folder

    @staticmethod
    def read(run: Path) -> "Card":
        """Read the card of a run folder. Raises `BadRun` where it is missing, damaged or from another version."""
        path = run / CARD
        if not path.is_file():
            raise BadRun(f"{run}: not a run folder, there is no {CARD}; give a folder that featherbone train wrote")
        values = read_json(path, str(path), dict[str, Any], BadRun, DAMAGED)
        require_format(values, FORMAT, str(path), "use the version that wrote it")
        return Card.parse(values, str(path), DAMAGED)

    @staticmethod
    def parse(values: dict[str, Any], name: str, remedy: str) -> "Card":
        """A card from plain values that were read from `name`. Raises `BadRun`, which ends with `remedy`."""
        unknown = values.keys() - {f.name for f in fields(Card)}
        if unknown:
            raise BadRun(f"{name}: unknown entries {', '.join(sorted(unknown))[:200]} of another version; {remedy}")
        card = parse_value(values, name, Card, BadRun, remedy)
        for entry, kind in (("data", DataFacts), ("settings", Reading), ("metrics", Metrics)):
            parse_value(values.get(entry, {}), f"{name}, {entry}", kind, BadRun, remedy)
        if fault := card.fault():
            raise BadRun(f"{name}: {fault}; {remedy}")
        return card

    def fault(self) -> str:
        """The first contradiction or value out of bounds; empty if there is none."""
        count = len(self.classes)
        if not 1 <= count <= MAX_CLASSES:
            return f"{count} classes; a model has 1 to {MAX_CLASSES}"
        if not all(name.strip() and len(name) <= MAX_NAME for name in self.classes):
            return f"a class name is empty or longer than {MAX_NAME} characters"
        if len(set(self.classes)) != count:
            return f"two classes are called {next(name for name in self.classes if self.classes.count(name) > 1)!r}"
        if len(set(self.things)) != len(self.things) or not all(0 <= label < count for label in self.things):
            return f"things {str(self.things)[:80]} are not distinct indices of the {count} classes"
        if len(self.category_ids) != count or len(set(self.category_ids)) != count:
            return f"category_ids {str(self.category_ids)[:80]} are not one for each of the {count} classes"
        point = self.metrics.get("operating_point")
        for name, score in (
            ("best_score", self.metrics.get("best_score")),
            ("operating point", point and point["score"]),
        ):
            if not 0 <= (score or 0) <= 1:
                return f"{name} {score} is outside 0 to 1"
        if "path" in self.data:
            missing = [f"data {key}" for key in DATA if key not in self.data]
            missing += [f"settings {key}" for key in SETTINGS if key not in self.settings]
            if missing:
                return f"without {', '.join(missing)}"
        return ""


def count_measured(metrics: dict[str, Any]) -> str:
    """How many images of which split the metrics are of."""
    split = metrics.get("split", "val")  # of runs before splits could be chosen
    return f"{metrics['images']} images" + (", all that there are" if split == ALL else f" of {split}")


def require_format(values: dict[str, Any], readable: int, name: str, remedy: str) -> None:
    """Raise `BadRun` unless the `format` among the values of a file is `readable`; a newer one needs an upgrade."""
    found = values.get("format")
    if found == readable:
        return
    if isinstance(found, int) and found > readable:
        stated = values.get("versions")
        writer = stated.get("featherbone", "") if isinstance(stated, dict) else ""
        raise BadRun(
            f"{name}: format {found}, written by a newer Featherbone {str(writer)[:40]}".rstrip()
            + f"; this one reads format {readable}; use that version or a newer one"
        )
    raise BadRun(f"{name}: format {str(found)[:80]}, this version reads {readable}; {remedy}")


def versions() -> dict[str, str]:
    """Python and the packages whose versions can change a result."""
    found = {"python": platform.python_version()}
    for package in ("featherbone", "torch", "torchvision", "timm", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
