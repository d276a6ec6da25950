"""A run as a predictor: any image in, records out."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from featherbone.data.bands import AnyImage, Bands, read_input
from featherbone.data.dataset import DataSet, open_data
from featherbone.data.formats.format import Reading
from featherbone.data.frames import Frame
from featherbone.data.images import Encoded, ImageSource
from featherbone.data.listing import SUFFIXES, is_stack, list_images
from featherbone.data.sampling import spread
from featherbone.data.sources import Entry
from featherbone.devices import find_device
from featherbone.errors import BadImage, BadRun
from featherbone.exporters.exported import open_task, weights_digest
from featherbone.results import Record
from featherbone.tasks.card import Card
from featherbone.tasks.inference import Inference
from featherbone.tasks.task import infer, kind_of

T = TypeVar("T")


@dataclass(frozen=True)
class PreparedImage:
    """An image as `Predictor.records` takes it."""

    frame: Frame
    input: Tensor | None
    """The network's input (C, H, W); None where it is cut from the picture."""
    picture: AnyImage | None


class Predictor:
    """The model of a run with everything it needs to read an image.

    Objects have a score above `inference.score`, by default that of the run's operating point, else the threshold with
    the highest F1 on its validation images, and 0.6 for panoptic segmentation. A classifier abstains below it.

    >>> predictor = featherbone.load("runs/flowers5-lvt")
    >>> predictor("rose.jpg").name
    """

    def __init__(self, card: Card, task: Any, device: torch.device, inference: Inference | None = None) -> None:
        self.card, self.device = card, device
        self.inference = inference or Inference()
        kind = kind_of(card)
        self.inference.require(kind)
        self.task = task.to(device).eval()
        self.transform = card.preprocessing.transform()
        self.score = kind.shown_score(card) if self.inference.score is None else self.inference.score
        self._lock = Lock()

    def __call__(self, image: ImageSource | Bands) -> Record:
        """The record of one image. Raises `BadImage`.

        It is a path, the bytes of an image file, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4), or a tensor
        (H, W), (3, H, W) or (4, H, W). Channels of arrays and tensors are RGB or RGBA; of OpenCV's BGR pass
        `array[..., ::-1]`. Values are uint8 from 0 to 255, uint16 from 0 to 65535, or floating point from 0 to 1,
        before any normalisation.

        A model of images with N channels (`train --channels`) takes values as stored: files as in training, arrays
        (H, W, N) and tensors (N, H, W) of any numbers.
        """
        return self.predict([image])[0]

    def predict(self, images: Iterable[ImageSource | Bands]) -> list[Record]:
        """Records of several images, computed as one batch: a list of what a call takes, or an array (B, H, W, 3).

        Several threads may share a predictor: they read images side by side, and the network computes one batch at a
        time, with all cores. Raises `BadImage`.
        """
        return self.records([self.prepare(image) for image in _listed(images)])

    @torch.inference_mode()
    def prepare(self, image: ImageSource | Bands, name: str | None = None, keep: bool = False) -> PreparedImage:
        """Read an image, which errors call `name`, for `records`. Raises `BadImage`.

        Its picture is kept only where the network needs it, or to `keep` it for drawing.
        """
        p, plain = self.card.preprocessing, self.inference.is_plain
        picture = read_input(image, p.channels, name)
        frame = p.frame(picture.height, picture.width)
        return PreparedImage(frame, self.transform(picture) if plain else None, picture if keep or not plain else None)

    @torch.inference_mode()
    def records(self, images: Sequence[PreparedImage]) -> list[Record]:
        """Records of prepared images, computed as one batch."""
        if not images:
            return []
        with self._lock:
            inputs = [image.input for image in images if image.input is not None]
            if inputs:
                return infer(self.task, inputs, [image.frame for image in images], self.device, self.score)
            p, pictures = self.card.preprocessing, [image.picture for image in images if image.picture]
            return [self.inference.record(self.task, p, picture, self.device, self.score) for picture in pictures]

    def description(self, run: Path) -> dict[str, Any]:
        """Everything that its records depend on but the picture, as plain values; `run` is what it was loaded from."""
        card = self.card
        return {
            **{name: getattr(card, name) for name in ("task", "backbone", "model_args", "head", "classes")},
            "weights": weights_digest(run, self.task),
            "preprocessing": asdict(card.preprocessing),
            **asdict(self.inference),
            "score": self.score,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = Lock()


@dataclass(frozen=True)
class EntryResult:
    """What became of an entry."""

    entry: Entry
    record: Record | BadImage
    """Its record, or why it cannot be read."""
    picture: AnyImage | None
    """Its picture, where it was kept."""


def predict_entries(
    predictor: Predictor, entries: Iterator[Entry], batch_size: int, workers: int, keep: bool = False
) -> Iterator[list[EntryResult]]:
    """The results of entries, in batches; with `keep`, also their pictures.

    `workers` threads read the next batch while the network computes one and the caller uses the last: three batches are
    in memory, however many there are.
    """

    def prepare(entry: Entry) -> PreparedImage | BadImage:
        try:
            return predictor.prepare(entry.read(), entry.name, keep)
        except BadImage as error:
            return error

    def compute(batch: list[tuple[Entry, Future[PreparedImage | BadImage]]]) -> list[EntryResult]:
        images = [(entry, future.result()) for entry, future in batch]
        records = iter(predictor.records([image for _, image in images if not isinstance(image, BadImage)]))
        return [
            EntryResult(entry, image, None)
            if isinstance(image, BadImage)
            else EntryResult(entry, next(records), image.picture)
            for entry, image in images
        ]

    with ThreadPoolExecutor(1) as listing, ThreadPoolExecutor(workers) as reading, ThreadPoolExecutor(1) as computing:
        batches = ([(e, reading.submit(prepare, e)) for e in batch] for batch in in_batches(entries, batch_size))
        yield from _one_ahead(computing, map(compute, _one_ahead(listing, batches)))


def _one_ahead(pool: ThreadPoolExecutor, items: Iterator[T]) -> Iterator[T]:
    """`items`, the next of which is made in the thread of `pool` while one is used."""
    upcoming = pool.submit(next, items, None)
    while (item := upcoming.result()) is not None:
        upcoming = pool.submit(next, items, None)
        yield item


def _listed(images: Iterable[ImageSource | Bands]) -> list[ImageSource | Bands]:
    """The images of a list. Raises `BadImage` for one image, whose rows or letters would be taken for images."""
    single = isinstance(images, str | os.PathLike | Encoded | Image.Image | Mapping)
    if isinstance(images, np.ndarray | torch.Tensor):
        single = images.ndim != 4
    if single or not isinstance(images, Iterable) or hasattr(images, "read"):
        raise BadImage(
            f"predict was given a {type(images).__name__}, and takes a list of pictures; give [picture], or call the "
            "predictor itself"
        )
    return list(images)


def load(
    run: str | os.PathLike[str],
    device: str | torch.device = "auto",
    score: float | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    slide: bool = False,
    scales: tuple[float, ...] = (1.0,),
    mirror: bool = False,
    trust: bool = False,
    accept_licence: str | None = None,
) -> Predictor:
    """The predictor of a run folder, an exported file, or a published model by its name.

    Objects have a score above `score`. With `tile`, objects are also found in tiles of that many pixels per side, which
    overlap by the share `overlap`. Semantic segmentation with `slide` averages windows of an image that covers the
    input, over images of several `scales`, and with `mirror` over mirrored ones.

    It takes images as `Predictor.__call__` states: arrays and tensors are RGB. It can be pickled; an exported file is
    then opened again where it is used. A file runs in its runtime, on the CPU; one that holds machine code (an export
    for torch) only with `trust`. The weights of a published model are downloaded once; if their licence is not a
    permissive one, `accept_licence` is its name.

    Raises `BadRun` where it is not one, or damaged, `BadOption` for an option without effect for its task, and
    `BadCheckpoint` or `BadLicence` where the weights of a name are not available.
    """
    if not isinstance(run, str | os.PathLike):
        raise BadRun(f"a {type(run).__name__} is not a run; give a path or the name of a model")
    card, task = open_task(Path(run), trust, accept_licence)
    inference = Inference(score, tile, overlap, slide, scales, mirror)
    return Predictor(card, task, find_device(device), inference)


def find_images(paths: Iterable[Path], without: Path | None = None) -> list[Path]:
    """The paths themselves, and of folders the pictures below them, in order, each once.

    Pictures of a folder `without` inside of a given one are not taken: results that were written there. Raises
    `BadImage` for what is missing.
    """
    found: list[Path] = []
    results = without and without.resolve()
    for path in paths:
        if path.is_dir() and not is_stack(path):
            inside = list_images(path)
            if results and path.resolve() in results.parents:
                inside = [picture for picture in inside if results not in picture.resolve().parents]
            if not inside:
                raise BadImage(f"{path}: no pictures in this folder; they end in {', '.join(sorted(SUFFIXES))}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise BadImage(f"{path}: there is no such file or folder; check the path")
    return list(dict.fromkeys(found))


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def open_images(card: Card) -> DataSet:
    """The images that a run was trained and measured on."""
    data, s = card.data_folder("give a folder of pictures with --images DIR"), card.settings
    return open_data(data, card.task, s["val_share"], s["seed"], Reading.of(s))


def some_images(card: Card, folder: Path | None, count: int, split: str = "val") -> list[AnyImage]:
    """The readable ones of `count` pictures that are spread over the folder, or over a split of the run's images.

    Where images have classes, every class is reached if `count` allows.
    """
    channels = card.preprocessing.channels
    if folder is not None:
        paths = find_images([folder])
        readers = [lambda path=paths[i]: read_input(path, channels) for i in spread(len(paths), count)]
    else:
        own = getattr(open_images(card), split)
        chosen = kind_of(card).choose(own, count)
        readers = [lambda i=i: own.image(i, channels) for i in chosen]
    pictures: list[AnyImage] = []
    for reader in readers:
        with suppress(BadImage):
            pictures.append(reader())
    return pictures
