"""From a split to batches that depend only on the seed.

All randomness of an image follows from (seed, epoch, index), and the order of an epoch from (seed, epoch): there is no
state to save, and global batches are the same for any number of worker processes and ranks.
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from featherbone.data.bands import AnyImage
from featherbone.data.sampling import count_earlier
from featherbone.data.skipped import Reader, Unreadable
from featherbone.data.split import Split
from featherbone.errors import FeatherboneError

_SPARE: list[np.random.MT19937] = []
"""Spare generators for `seeded`: NumPy's state is slow to read and to set."""


@contextmanager
def seeded(*keys: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators by `keys`, and restore their states afterwards."""
    states = random.getstate(), torch.default_generator.get_state()
    own = _SPARE.pop() if _SPARE else np.random.MT19937()
    usual = np.random.get_bit_generator()  # type: ignore[attr-defined]  # NumPy's types lack both
    np.random.set_bit_generator(own)  # type: ignore[attr-defined]
    first, second = np.random.SeedSequence(keys).generate_state(2).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(first << 32 | second)
    try:
        yield
    finally:
        random.setstate(states[0])
        torch.default_generator.set_state(states[1])
        np.random.set_bit_generator(usual)  # type: ignore[attr-defined]
        _SPARE.append(own)


Collate = Callable[[list[Any]], Any] | None
"""Joins samples to a batch; None for torch's default."""
Key = tuple[int, ...]
"""Epoch and index of a sample; of a repeated image's further copies also their number in the epoch, from 1."""


class Samples(Dataset[tuple[Tensor, int]]):
    """Transformed image (C, H, W) and label of `(epoch, index)`."""

    def __init__(
        self,
        images: Split[int],
        transform: Callable[[AnyImage], Tensor],
        seed: int = 0,
        training: bool = False,
        channels: int | None = None,
    ) -> None:
        self.images, self.transform, self.seed = images, transform, seed
        self.reader = Reader(images, seed, training, channels)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        image, label = self.reader(*key[:2])
        with seeded(self.seed, *key):
            return self.transform(image), label


class Batch(NamedTuple):
    """Samples that were read together."""

    keys: list[Key]
    """Those of the samples; in evaluation images that cannot be read are omitted."""
    content: Any
    """The samples as the task joins them; None without any."""
    met: dict[str, str]
    """The reason for each image that could not be read, by name."""


class BatchReader(Dataset[Batch]):
    """Batches by the keys of their samples."""

    def __init__(self, samples: Any, collate: Collate = None) -> None:
        self.samples, self.collate = samples, collate or default_collate

    def __getitems__(self, keys: list[Key]) -> Batch:
        found = {}
        for key in keys:
            with suppress(Unreadable):
                found[key] = self.samples[key]
        content = self.collate(list(found.values())) if found else None
        return Batch(list(found), content, self.samples.reader.take_met())


def _same(batch: Any) -> Any:
    return batch


class Batches(Sampler[list[Key]]):
    """Batches of this rank, epoch by epoch, from any step on.

    An epoch is the images in their `order`, with repeat `factors` where there are some, cut into global batches of
    `batch_size`, without the remainder; a global batch is cut into `parts` micro-batches, and `rank` of `world` takes
    every world-th of those, in order.
    """

    def __init__(
        self,
        images: Split[Any],
        batch_size: int,
        parts: int,
        rank: int,
        world: int,
        seed: int,
        factors: NDArray[np.float64] | None = None,
    ) -> None:
        self.images, self.batch_size, self.parts = images, batch_size, parts
        self.rank, self.world, self.seed, self.factors = rank, world, seed, factors
        self.epoch = self.start = 0
        self.steps = (len(images) if factors is None else int(factors.sum())) // batch_size

    def begin(self, epoch: int, start: int) -> None:
        """Set the next pass: epoch `epoch` from its step `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return (self.steps - self.start) * self.parts // self.world

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.images.order(self.seed, self.epoch, self.factors)
        copies = count_earlier(order)
        for step in range(self.start, self.steps):
            places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
            for part in np.split(places, self.parts)[self.rank :: self.world]:
                rows = zip(order[part].tolist(), copies[part].tolist(), strict=True)
                yield [(self.epoch, index, copy) if copy else (self.epoch, index) for index, copy in rows]


@contextmanager
def explained_workers() -> Iterator[None]:
    """Raise errors of worker processes as if they came from this process, and explain a killed one."""
    try:
        yield
    except FeatherboneError as error:
        _, _, message = str(error).rpartition(f"\n{type(error).__module__}.{type(error).__qualname__}: ")
        if not (message and str(error).startswith("Caught ")):  # torch puts the worker's traceback into the message
            raise
        raise type(error)(message.rstrip("\n")) from None
    except RuntimeError as error:
        how = re.search(r"DataLoader worker \(pid.*\) (is killed by signal: [\w ]+|exited unexpectedly)", str(error))
        if how is None:
            raise
        raise FeatherboneError(
            f"a process that reads images {how[1].strip()}: possibly out of memory; lower --workers (0 reads in "
            "this process) or --batch-size; a training run continues with: featherbone train --resume RUN"
        ) from None


def train_loader(
    samples: Any, batches: Batches, workers: int, device: torch.device, collate: Collate = None
) -> DataLoader[Any]:
    """`Batch`es of samples, read by `workers` processes."""
    return DataLoader(
        BatchReader(samples, collate),
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        collate_fn=_same,
    )


def eval_loader(
    samples: Any,
    batch_size: int,
    workers: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    collate: Collate = None,
) -> DataLoader[Any]:
    """`Batch`es of all samples in order, each once; `rank` of `world` takes every world-th."""
    indices = range(len(samples.images))[rank::world]
    batches = [[(0, i) for i in indices[at : at + batch_size]] for at in range(0, len(indices), batch_size)]
    return DataLoader(
        BatchReader(samples, collate),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        collate_fn=_same,
    )
