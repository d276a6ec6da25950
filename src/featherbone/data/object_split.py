"""Images of one split with annotated objects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.bands import AnyImage
from featherbone.data.findings import Finding, listed
from featherbone.data.object_table import ObjectTable
from featherbone.data.objects import Objects
from featherbone.data.split import FileSplit, Split, hash_listing
from featherbone.data.text_array import TextArray
from featherbone.errors import BadData, BadImage


@dataclass(frozen=True, eq=False)
class ObjectSplit(FileSplit[Objects]):
    """Images of one split with annotated objects, or known to have none."""

    root: Path
    table: ObjectTable
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The number of each class in the files."""

    def image(self, index: int, channels: int | None = None) -> AnyImage:
        """As `Split.image`; raises `BadImage` also where its size is not the annotated one."""
        image = super().image(index, channels)
        self._check_size(index, image.height, image.width)
        return image

    @property
    def paths(self) -> TextArray:  # type: ignore[override]  # a property serves as the attribute
        """Paths of the images below `root`."""
        return self.table.paths

    def image_id(self, index: int) -> int:
        """The image's number in the file that lists it; in formats without numbers its place, from 1."""
        return int(self.table.image_ids[index])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width as annotated, else as the head of the file states them. Raises `BadImage`."""
        height, width = self.table.sizes[index].tolist()
        return (height, width) if height else super().size(index)

    def truth(self, index: int) -> Objects:
        return self.table.objects(index, self.size(index)).visible()

    def entry(self, index: int) -> Objects:
        """As `truth`, also with the objects that are not visible.

        An image of which neither annotations nor file state the size is taken for 1x1.
        """
        try:
            return self.table.objects(index, self.size(index))
        except BadImage:
            return self.table.objects(index, (1, 1))

    @property
    def entries(self) -> tuple[Objects, ...]:
        """`entry` of every image."""
        return tuple(map(self.entry, range(len(self))))

    @property
    def has_masks(self) -> bool:
        """Whether every object that is not a crowd has a mask."""
        return bool((self.table.has_shape | self.table.crowd).all())

    def shown_classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `Split.shown_classes`, by the objects that are no crowds; nothing is read."""
        kept = ~self.table.crowd & (self.table.labels >= 0)
        return self.table.owners[kept], self.table.labels[kept]

    def take(self, indices: Sequence[int]) -> Self:
        return replace(self, table=self.table.take(indices))

    def matched(self, train: Split[Any]) -> "tuple[Split[Any], ObjectSplit, list[Finding]]":
        if self.classes == train.classes:
            return train, self, []
        assert isinstance(train, ObjectSplit), "both splits are read by one format"
        try:
            images = self.named(train.classes, train.category_ids)
        except BadData as error:
            return train, self, [Finding("error", "classes-differ", str(error).removeprefix(f"{self.root}: "), 1)]
        message = "training and validation list other classes, or in another order: matched by name"
        return train, images, [Finding("note", "classes-matched", message, 1)]

    def with_crowds_as_objects(self) -> "ObjectSplit":
        """The same images with every crowd as a single object."""
        return replace(self, table=replace(self.table, crowd=np.zeros_like(self.table.crowd)))

    def named(self, classes: tuple[str, ...], category_ids: Sequence[int] = ()) -> "ObjectSplit":
        """As `Split.named`.

        The numbers in the files stay; a class that these files do not list has that of `category_ids` if it is free.
        """
        if self.classes == classes:
            return self
        places = {name: label for label, name in enumerate(classes)}
        used = np.unique(self.table.labels[self.table.labels >= 0]).tolist()
        if odd := [self.classes[label] for label in used if self.classes[label] not in places]:
            raise BadData(
                f"{self.root}: objects of classes that training does not list: {listed(odd)}; the training classes are "
                f"{listed(classes)}; list the same in both"
            )
        numbers = dict(zip(self.classes, self.category_ids, strict=True))
        for name, number in zip(classes, category_ids or range(len(classes)), strict=True):
            taken = set(numbers.values())
            numbers.setdefault(name, number if number not in taken else max(taken) + 1)
        table = np.array([*(places.get(name, -1) for name in self.classes), -1], np.int64)
        renumbered = replace(self.table, labels=table[self.table.labels])
        return replace(self, table=renumbered, classes=classes, category_ids=tuple(numbers[name] for name in classes))

    def fingerprint(self) -> str:
        return hash_listing(f"{len(self)} images of {self.classes}", *self.table.content())

    def check_size(self, index: int) -> None:
        """Raise `BadImage` where the image's size is not the annotated one, from the head of its file."""
        self._check_size(index, *super().size(index))

    def _check_size(self, index: int, height: int, width: int) -> None:
        stated_height, stated_width = self.table.sizes[index].tolist()
        if stated_height and (height, width) != (stated_height, stated_width):
            turned = ", turned by its EXIF orientation" if (width, height) == (stated_height, stated_width) else ""
            raise BadImage(
                f"{self.name(index)}: {width}x{height} pixels{turned}, but annotated as {stated_width}x"
                f"{stated_height}; annotate the upright image, or correct the size"
            )
