"""The annotated objects of many images in columns: arrays, which the processes that read images share."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.objects import Annotation, Objects, parse_json, to_json
from featherbone.data.text_array import TextArray, TextWriter

Ints = NDArray[np.int64]
MAX_SIDE, MAX_ID = 2**31, 2**63 - 1
"""Largest annotated side of an image, and largest number of a class, that are kept; larger ones are mistakes."""


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """I images and their N annotated objects, as the files state them."""

    paths: TextArray
    """Image files below the data folder (I,)."""
    image_ids: Ints
    """Numbers of the images in their file (I,); their places, from 1, in formats without numbers."""
    sizes: Ints
    """Annotated height and width (I, 2); 0 where none is stated, and the image file decides."""
    first: Ints
    """Objects of image i are the rows `first[i]` to `first[i + 1]` (I + 1,)."""
    boxes: NDArray[np.float64]
    """x y width height in pixels (N, 4); x1 y1 x2 y2 in shares of the image in a `relative` table."""
    labels: Ints
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    """Stated areas in pixels (N,), NaN where there is none."""
    category_ids: Ints
    ids: TextArray
    """Numbers of the annotations as JSON (N,)."""
    shapes: TextArray
    """Masks in COCO's form as JSON (N,), empty where there is none; in a `relative` table in shares of the image."""
    errors: Mapping[int, tuple[str, ...]]
    """By image, its annotations that cannot be read and are not among the N: place, reason and remedy of each."""
    relative: bool = False

    @classmethod
    def of(
        cls, images: Iterable[tuple[str, int, tuple[int, int] | None, Iterable[Annotation]]], relative: bool = False
    ) -> Self:
        """The table of images, each given as its path, number, height and width if they are stated, and objects."""
        writer = TableWriter()
        for path, image_id, size, rows in images:
            image = writer.add_image(path, image_id, size)
            for row in rows:
                writer.add(image, row)
        return writer.finish(cls, relative)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def owners(self) -> Ints:
        """Image of each object (N,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    @property
    def has_shape(self) -> NDArray[np.bool_]:
        """Whether each object has a mask (N,)."""
        return np.diff(self.shapes.bounds) > 0

    def boxes_xywh(self, rows: slice, sizes: Ints) -> NDArray[np.float64]:
        """Boxes (n, 4) in pixels, x y width height, of objects in images of these heights and widths (n, 2)."""
        boxes = self.boxes[rows]
        if not self.relative:
            return boxes
        corners = boxes * np.tile(sizes[:, ::-1], 2)
        return np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])

    def shape(self, row: int, size: tuple[int, int]) -> Any:
        """The mask of an object in COCO's form, in an image of that height and width; None where there is none."""
        text = self.shapes.encoded(row)
        shape = parse_json(text) if text else None
        if not self.relative or shape is None:
            return shape
        height, width = size
        return [[share * (height if at % 2 else width) for at, share in enumerate(polygon)] for polygon in shape]

    def objects(self, image: int, size: tuple[int, int]) -> Objects:
        """The objects of an image of that height and width."""
        rows = slice(int(self.first[image]), int(self.first[image + 1]))
        places = range(rows.start, rows.stop)
        return Objects(
            *size,
            boxes_xywh=self.boxes_xywh(rows, np.tile(np.array(size), (len(places), 1))),
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            stated_areas=self.areas[rows],
            segmentations=tuple(
                self.shape(row, size) if self.relative else self.shapes.encoded(row) or None for row in places
            ),
            path=self.paths[image],
            image_id=int(self.image_ids[image]),
            ids=tuple(parse_json(self.ids.encoded(row)) for row in places),
            category_ids=tuple(self.category_ids[rows].tolist()),
            errors=self.errors.get(image, ()),
        )

    def labelled(self, category_ids: Sequence[int]) -> Self:
        """The same objects with the index of their class among the numbers of all classes, -1 where it has none."""
        labels = {number: label for label, number in enumerate(category_ids)}
        known, places = np.unique(self.category_ids, return_inverse=True)
        table = np.array([labels.get(number, -1) for number in known.tolist()], np.int64)
        return replace(self, labels=table[places])

    def take(self, images: Sequence[int]) -> Self:
        """The table of these images, in that order."""
        chosen = np.asarray(images, np.int64)
        starts, counts = self.first[:-1][chosen], np.diff(self.first)[chosen]
        first = np.concatenate((np.zeros(1, np.int64), counts.cumsum()))
        rows = np.repeat(starts - first[:-1], counts) + np.arange(first[-1])
        return replace(
            self,
            paths=self.paths.take(chosen),
            image_ids=self.image_ids[chosen],
            sizes=self.sizes[chosen],
            first=first,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            category_ids=self.category_ids[rows],
            ids=self.ids.take(rows),
            shapes=self.shapes.take(rows),
            errors={new: self.errors[old] for new, old in enumerate(chosen.tolist()) if old in self.errors},
        )

    def content(self) -> list[bytes]:
        """Everything that a fingerprint is taken of."""
        arrays = (self.sizes, self.first, self.boxes, self.labels, self.crowd, self.paths.bounds, self.shapes.bounds)
        return [bytes(self.paths.content), bytes(self.shapes.content), *(array.tobytes() for array in arrays)]


class TableWriter:
    """Columns that grow, object by object in any order."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.image_ids, self.sizes = array("q"), array("q")
        self.owners, self.labels, self.category_ids = array("q"), array("q"), array("q")
        self.crowd, self.boxes, self.areas = array("b"), array("d"), array("d")
        self.ids, self.shapes = TextWriter(), TextWriter()
        self.errors: dict[int, tuple[str, ...]] = {}

    def add_image(self, path: str, image_id: int, size: tuple[int, int] | None) -> int:
        """Add an image; its place."""
        self.paths.append(path)
        self.image_ids.append(image_id)
        self.sizes.extend(min(side, MAX_SIDE) for side in size or (0, 0))
        return len(self.paths) - 1

    def add(self, image: int, row: Annotation) -> None:
        """Add an object of an image, or the error in its place."""
        if row.error:
            self.errors[image] = (*self.errors.get(image, ()), row.error)
            return
        self.owners.append(image)
        self.boxes.extend(row.box)
        self.labels.append(row.label)
        self.crowd.append(row.crowd)
        self.areas.append(row.area)
        self.category_ids.append(min(row.category_id, MAX_ID))
        self.ids.add(b"%d" % row.id if type(row.id) is int else to_json(row.id))
        shape = row.segmentation
        self.shapes.add(shape if isinstance(shape, bytes) else b"" if shape is None else to_json(shape))

    def finish(self, kind: type[Any] = ObjectTable, relative: bool = False) -> Any:
        """The table."""
        owners, count = np.array(self.owners, np.int64), len(self.paths)
        order = np.argsort(owners, kind="stable")
        first = np.concatenate((np.zeros(1, np.int64), np.bincount(owners, minlength=count).cumsum()))
        return kind(
            paths=TextArray(self.paths),
            image_ids=np.array(self.image_ids, np.int64),
            sizes=np.array(self.sizes, np.int64).reshape(-1, 2),
            first=first.astype(np.int64),
            boxes=np.array(self.boxes, np.float64).reshape(-1, 4)[order],
            labels=np.array(self.labels, np.int64)[order],
            crowd=np.array(self.crowd, bool)[order],
            areas=np.array(self.areas, np.float64)[order],
            category_ids=np.array(self.category_ids, np.int64)[order],
            ids=self.ids.finish().take(order),
            shapes=self.shapes.finish().take(order),
            errors=self.errors,
            relative=relative,
        )
