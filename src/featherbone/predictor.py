"""A run as a predictor: any image in, records out."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from featherbone.data.classification import open_splits
from featherbone.data.images import SUFFIXES, ImageSource, read_image
from featherbone.devices import find_device
from featherbone.errors import BadImage
from featherbone.results import Record
from featherbone.tasks.card import Card
from featherbone.tasks.classification import Classifier
from featherbone.tasks.run import load_task


class Predictor:
    """The model of a run with everything it needs to read an image.

    >>> predictor = featherbone.load("runs/flowers5-lvt")
    >>> predictor("rose.jpg").name
    """

    def __init__(self, card: Card, task: Classifier, device: torch.device) -> None:
        self.card, self.device = card, device
        self.task = task.to(device).eval()
        self.transform = card.preprocessing.transform()

    def __call__(self, image: ImageSource) -> Record:
        """The record of one image: a path, encoded bytes, PIL image, array (H, W, 3) or tensor (3, H, W)."""
        return self.predict([image])[0]

    def predict(self, images: Sequence[ImageSource]) -> list[Record]:
        """Records of several images, computed as one batch. Raises `BadImage`."""
        return self.decode(self.batch(images)) if images else []

    def batch(self, images: Sequence[ImageSource]) -> Tensor:
        """The network's input (B, 3, H, W) for these images."""
        return torch.stack([self.transform(read_image(image)) for image in images])

    @torch.inference_mode()
    def decode(self, batch: Tensor) -> list[Record]:
        """Records of a batch of the network's input."""
        return self.task.decode(self.task(batch.to(self.device)))


def load(run: str | Path, device: str = "auto") -> Predictor:
    """The predictor of a run folder. Raises `BadRun` where it is none, or damaged."""
    card, task = load_task(Path(run))
    return Predictor(card, task, find_device(device))


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The paths themselves, and of folders the pictures below them, in order. Raises `BadImage` for what is missing."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise BadImage(f"{path}: no pictures in this folder; they end in {', '.join(sorted(SUFFIXES))}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise BadImage(f"{path}: there is no such file or folder")
    return found


def in_batches(paths: Sequence[Path], size: int) -> Iterator[list[Path]]:
    """The paths in lists of at most `size`."""
    rest = iter(paths)
    while batch := list(islice(rest, size)):
        yield batch


def proof_images(card: Card, folder: Path | None, count: int) -> list[Image.Image]:
    """Up to `count` readable pictures, spread over the folder, or over the validation images a run was measured on."""
    if folder is not None:
        paths = find_images([folder])
        readers = [lambda path=path: read_image(path) for path in paths]
    else:
        val = open_splits(Path(card.data["path"]), card.settings["val_share"], card.settings["seed"]).val
        readers = [lambda i=i: val.read(i) for i in range(len(val))]
    pictures: list[Image.Image] = []
    for reader in readers[:: max(len(readers) // count, 1)]:
        with suppress(BadImage):
            pictures.append(reader())
    return pictures[:count]
