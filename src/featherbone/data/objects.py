"""The annotated objects of an image: one record from every format's files to the training target."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherbone.errors import BadData
from featherbone.ops import rle
from featherbone.results import Detections, Instances, Rle


class Annotation(NamedTuple):
    """One object while its file is parsed."""

    label: int = -1
    """Class index; -1 for a class that is not listed."""
    box: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    """x y width height in pixels."""
    segmentation: Any = None
    """The mask in COCO's form, polygons or run lengths, or as an array (height, width); None where there is none."""
    crowd: bool = False
    area: float = math.nan
    category_id: int = -1
    id: Any = None
    error: str = ""
    """Place, reason and remedy where the annotation cannot be read."""
    name: str = ""
    """The class, in formats with class names instead of numbers."""
    place: str = ""
    """File and place in it, in these formats."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The n annotated objects of one image of `height` x `width`, as its files state them."""

    height: int
    width: int
    boxes_xywh: NDArray[np.float64]
    """Boxes (n, 4), x y width height in pixels of the upright image, not cut at its borders."""
    labels: NDArray[np.int64]
    """Class indices (n,); -1 for a class that is not listed."""
    crowd: NDArray[np.bool_]
    """Groups that were not separated (n,): not trained on, and detections there are not counted as false."""
    stated_areas: NDArray[np.float64]
    """Areas in pixels (n,), NaN where the file states none."""
    segmentations: tuple[Any, ...]
    """Masks (n,) in COCO's form, also as JSON, or as arrays (height, width); None where there is none."""
    path: str = ""
    """The image file below the data folder."""
    image_id: int = 0
    """Number of the image in its file; its place, from 1, in formats without numbers."""
    ids: tuple[Any, ...] = ()
    """Numbers of the annotations (n,), None where the file has none."""
    category_ids: tuple[int, ...] = ()
    """Numbers of the classes (n,) in the file."""
    errors: tuple[str, ...] = ()
    """Annotations that cannot be read and are not among the n: place, reason and remedy of each."""

    @classmethod
    def parsed(cls, path: str, image_id: int, height: int, width: int, rows: Iterable[Annotation]) -> Self:
        """The record of an image from its annotations."""
        rows = list(rows)
        errors = tuple(row.error for row in rows if row.error)
        rows = [row for row in rows if not row.error]
        return cls(
            height=height,
            width=width,
            boxes_xywh=np.array([row.box for row in rows], np.float64).reshape(-1, 4),
            labels=np.array([row.label for row in rows], np.int64),
            crowd=np.array([row.crowd for row in rows], bool),
            stated_areas=np.array([row.area for row in rows], np.float64),
            segmentations=tuple(row.segmentation for row in rows),
            path=path,
            image_id=image_id,
            ids=tuple(row.id for row in rows),
            category_ids=tuple(row.category_id for row in rows),
            errors=errors,
        )

    @classmethod
    def of_boxes(
        cls,
        size: tuple[int, int],
        boxes: NDArray[np.floating],
        labels: NDArray[np.int64],
        crowd: NDArray[np.bool_] | None = None,
        areas: NDArray[np.float64] | None = None,
        masks: Sequence[Any] | None = None,
    ) -> Self:
        """The record of an image of `size`, height and width, with boxes (n, 4), x1 y1 x2 y2."""
        boxes = boxes.astype(np.float64).reshape(-1, 4)
        return cls(
            *size,
            boxes_xywh=np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]),
            labels=labels,
            crowd=np.zeros(len(labels), bool) if crowd is None else crowd,
            stated_areas=np.full(len(labels), np.nan) if areas is None else areas,
            segmentations=(None,) * len(labels) if masks is None else tuple(masks),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """Boxes x1 y1 x2 y2 in pixels (n, 4), cut at the borders of the image."""
        corners = np.column_stack([self.boxes_xywh[:, :2], self.boxes_xywh[:, :2] + self.boxes_xywh[:, 2:]])
        return corners.clip(0, (self.width, self.height) * 2).astype(np.float32)

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """Pixels (n,): as stated, else those of the mask, else those of the box."""
        areas = self.stated_areas.copy()
        sides = self.boxes[:, 2:].astype(np.float64) - self.boxes[:, :2]
        for i in np.flatnonzero(np.isnan(areas)).tolist():
            shape = self.shape(i)
            if shape is not None and not rle.fault(shape, self.height, self.width):
                areas[i] = rle.areas([rle.from_coco(shape, self.height, self.width)])[0]
            else:
                areas[i] = sides[i].prod()
        return areas

    @cached_property
    def masks(self) -> tuple[Rle, ...]:
        """Masks (n,), empty for objects without one. Raises `BadData` for a mask that cannot be read."""
        return tuple(map(self._mask, range(len(self))))

    def shape(self, index: int) -> Any:
        """The mask of an object in COCO's form, not decoded, or as an array (height, width); None for none."""
        shape = self.segmentations[index]
        return parse_json(shape) if isinstance(shape, bytes) else shape

    def mask(self, index: int) -> rle.Bools:
        """The mask of an object (height, width). Raises `BadData` for a mask that cannot be read."""
        shape = self.shape(index)
        return shape if isinstance(shape, np.ndarray) else rle.decode(self._mask(index))

    @property
    def has_masks(self) -> bool:
        """Whether every object that is not a crowd has a mask."""
        return all(self.segmentations[i] is not None for i in np.flatnonzero(~self.crowd).tolist())

    def take(self, kept: NDArray[np.int64]) -> Self:
        """Only the objects of these indices."""
        arrays = ("boxes_xywh", "labels", "crowd", "stated_areas")
        changes: dict[str, Any] = {name: getattr(self, name)[kept] for name in arrays}
        for name in ("segmentations", "ids", "category_ids"):
            if values := getattr(self, name):
                changes[name] = tuple(values[i] for i in kept.tolist())
        return replace(self, **changes)

    def visible(self) -> Self:
        """Without the objects whose boxes are empty within the image."""
        kept = (self.boxes[:, 2:] > self.boxes[:, :2]).all(1)
        return self if kept.all() else self.take(np.flatnonzero(kept))

    def record(self, classes: Sequence[str], masks: bool = False) -> Detections:
        """The objects as detections with score 1; `Instances` with `masks`."""
        boxes, labels = tuple(map(tuple, self.boxes.tolist())), tuple(self.labels.tolist())
        names, scores = tuple(classes[label] for label in labels), (1.0,) * len(labels)
        plain = Detections(self.height, self.width, boxes, labels, names, scores)
        return Instances(**plain.__dict__, masks=self.masks) if masks else plain

    def called(self, index: int) -> str:
        """Name of an object in messages."""
        if self.ids and self.ids[index] is not None:
            return f"annotation {self.ids[index]}"
        return f"the object at {self.boxes_xywh[index, :2].tolist()}"

    def _mask(self, index: int) -> Rle:
        shape = self.shape(index)
        if isinstance(shape, np.ndarray):
            return rle.encode(shape)
        try:
            return rle.from_coco([] if shape is None else shape, self.height, self.width)
        except ValueError as error:
            raise BadData(f"{self.path}: the mask of {self.called(index)}: {error}; correct or remove it") from None


def to_json(value: Any) -> bytes:
    """A value as JSON that `parse_json` reads, also with NaN and halves of letters."""
    return json.dumps(value, separators=(",", ":")).encode()


def parse_json(text: bytes) -> Any:
    """The value of JSON that was found to be JSON, with the NaN and Infinity that Python writes."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return json.loads(text.decode(errors="replace"))
