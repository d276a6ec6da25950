"""A run as a predictor: any image in, records out."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from featherbone.data.classification import open_splits
from featherbone.data.detection import open_detection
from featherbone.data.images import ImageSource, read_image
from featherbone.data.listing import SUFFIXES, list_images
from featherbone.data.sampling import spread, spread_classes
from featherbone.data.segmentation import open_segmentation
from featherbone.devices import find_device
from featherbone.errors import BadImage, BadOption
from featherbone.results import Record
from featherbone.tasks.card import Card
from featherbone.tasks.detection import SURE
from featherbone.tasks.exported import open_task
from featherbone.tasks.panoptic import KEPT
from featherbone.tasks.testing import Testing, decode_tested
from featherbone.tasks.tiling import check_tiles, decode_tiled

MEANT = {
    "score": ("detection", "instance", "panoptic"),
    "tile": ("detection", "instance"),
    **dict.fromkeys(("slide", "scales", "mirror"), ("semantic",)),
}
"""Options, and the tasks that they mean something to."""


class Predictor:
    """The model of a run with everything it needs to read an image.

    Objects below `score` are not told; by default below the limit that balanced precision and recall best on the run's
    validation images, and for panoptic segmentation below 0.6. With `tile`, large images are searched in tiles of so
    many pixels a side, too, `overlap` of which neighbours share. `slide`, `scales` and `mirror` are of `Testing`, for
    semantic segmentation.

    >>> predictor = featherbone.load("runs/flowers5-lvt")
    >>> predictor("rose.jpg").name
    """

    def __init__(
        self,
        card: Card,
        task: Any,
        device: torch.device,
        score: float | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
        slide: bool = False,
        scales: tuple[float, ...] = (1.0,),
        mirror: bool = False,
    ) -> None:
        self.card, self.device = card, device
        self.task = task.to(device).eval()
        self.transform = card.preprocessing.transform()
        self.testing = Testing(slide, tuple(scales), mirror)
        given = {"score": score is not None, "tile": tile is not None, "slide": slide}
        given |= {"scales": self.testing.scales != (1.0,), "mirror": mirror}
        for name in (name for name, is_given in given.items() if is_given and card.task not in MEANT[name]):
            raise BadOption(f"{name} means nothing to {card.task}; leave it out, or give a run for {MEANT[name][0]}")
        if score is not None and not 0 <= score <= 1:
            raise BadOption(f"score {score} is outside 0 to 1")
        if tile is not None:
            check_tiles(tile, overlap)
        best = KEPT if card.task == "panoptic" else card.metrics.get("best_score") or SURE
        self.score = best if score is None else score
        self.tile, self.overlap = tile, overlap

    def __call__(self, image: ImageSource) -> Record:
        """The record of one image: a path, encoded bytes, PIL image, array (H, W, 3) or tensor (3, H, W)."""
        return self.predict([image])[0]

    @torch.inference_mode()
    def predict(self, images: Sequence[ImageSource]) -> list[Record]:
        """Records of several images, computed as one batch. Raises `BadImage`."""
        pictures = [read_image(image) for image in images]
        if not pictures:
            return []
        if self.tile is not None:
            about = (self.tile, self.overlap, self.device, self.score)
            return [decode_tiled(self.task, self.card.preprocessing, picture, *about) for picture in pictures]
        if not self.testing.plain:
            seen = (self.task, self.card.preprocessing)
            return [decode_tested(*seen, picture, self.testing, self.device) for picture in pictures]
        raw = self.task(torch.stack([self.transform(picture) for picture in pictures]).to(self.device))
        frames = [self.card.preprocessing.frame(picture.height, picture.width) for picture in pictures]
        return self.task.decode(raw, frames, *((self.score,) if self.card.task in MEANT["score"] else ()))


def load(
    run: str | Path,
    device: str = "auto",
    score: float | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    slide: bool = False,
    scales: tuple[float, ...] = (1.0,),
    mirror: bool = False,
) -> Predictor:
    """The predictor of a run folder or an exported file; the options are those of `Predictor`.

    A file runs in its own runtime, on the CPU. Raises `BadRun` where it is none, or damaged, and `BadOption` for an
    option that does not suit it.
    """
    card, task = open_task(Path(run))
    return Predictor(card, task, find_device(device), score, tile, overlap, slide, scales, mirror)


def find_images(paths: Iterable[Path], without: Path | None = None) -> list[Path]:
    """The paths themselves, and of folders the pictures below them, in order, each once.

    Pictures of a folder `without` inside of a given one are not taken: results that were written there. Raises
    `BadImage` for what is missing.
    """
    found: list[Path] = []
    results = without and without.resolve()
    for path in paths:
        if path.is_dir():
            inside = list_images(path)
            if results and path.resolve() in results.parents:
                inside = [picture for picture in inside if results not in picture.resolve().parents]
            if not inside:
                raise BadImage(f"{path}: no pictures in this folder; they end in {', '.join(sorted(SUFFIXES))}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise BadImage(f"{path}: there is no such file or folder")
    return list(dict.fromkeys(found))


def in_batches(paths: Sequence[Path], size: int) -> Iterator[list[Path]]:
    """The paths in lists of at most `size`."""
    rest = iter(paths)
    while batch := list(islice(rest, size)):
        yield batch


def open_images(card: Card) -> Any:
    """The images that a run learned from and was measured on, as `train` and `val`."""
    data, s = Path(card.data["path"]), card.settings
    split = s["val_share"], s["seed"]
    if card.task == "classification":
        return open_splits(data, *split)
    if card.task in ("detection", "instance"):
        return open_detection(data, *split, s["unlabelled"], card.task == "instance", s.get("crowds", "ignore"))
    return open_segmentation(data, card.task, *split, s["ignore_index"], s["zero_ignored"])


def some_images(card: Card, folder: Path | None, count: int, split: str = "val") -> list[Image.Image]:
    """The readable ones of `count` pictures that are spread over the folder, or over a split of the run's images.

    Where images have classes, every class is reached if `count` allows.
    """
    if folder is not None:
        paths = find_images([folder])
        readers = [lambda path=paths[i]: read_image(path) for i in spread(len(paths), count)]
    else:
        own = getattr(open_images(card), split)
        chosen = spread_classes(own.labels, count) if card.task == "classification" else spread(len(own), count)
        readers = [lambda i=i: own.read(i) for i in chosen]
    pictures: list[Image.Image] = []
    for reader in readers:
        with suppress(BadImage):
            pictures.append(reader())
    return pictures
