"""Random changes of an image and its objects, by torchvision's transforms: pixels, boxes and masks together."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from featherbone.data.frames import fit

VISIBLE = 0.1
"""Least share of an object's box that a cut must leave of it."""
LEAST = 1.0
"""Least side of a box in pixels."""
CROPPED = 32
"""Least side of an image that is cropped."""
TRIES = 10
"""Windows that are tried for one in which no class has more than its share."""


@dataclass(frozen=True)
class Marking:
    """An image with n objects on it."""

    image: Tensor
    """(3, h, w), uint8."""
    boxes: Tensor
    """(n, 4), float32, in its pixels."""
    labels: Tensor
    """(n,), int64."""
    masks: Tensor | None = None
    """(n, h, w), uint8."""
    classes: Tensor | None = None
    """1 + the class of each pixel (h, w), uint8; 0 where none is known, as beyond the image."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[1], self.image.shape[2]

    def through(self, transform: Callable[..., dict[str, Tensor]]) -> "Marking":
        """What a transform of torchvision's makes of it."""
        parts = {"image": tv_tensors.Image(self.image)}
        parts["boxes"] = tv_tensors.BoundingBoxes(self.boxes, format="XYXY", canvas_size=self.size)
        for name in ("masks", "classes"):
            if (given := getattr(self, name)) is not None:
                parts[name] = tv_tensors.Mask(given)
        done = {name: part.as_subclass(Tensor) for name, part in transform(parts).items()}
        return replace(self, **done)

    def window(self, top: int, left: int, height: int, width: int) -> "Marking":
        """The part of that size at that place, which may reach beyond the image: 0 there. Boxes are cut."""
        return self.through(lambda parts: {k: T.crop(part, top, left, height, width) for k, part in parts.items()})

    def resized(self, height: int, width: int) -> "Marking":
        """The whole at another size."""
        if (height, width) == self.size:
            return self
        return self.through(lambda parts: {k: T.resize(part, [height, width]) for k, part in parts.items()})

    def kept_of(self, before: "Marking") -> "Marking":
        """Without the objects of which a cut, which gave this, left too little."""
        size, old = self.boxes[:, 2:] - self.boxes[:, :2], before.boxes[:, 2:] - before.boxes[:, :2]
        kept = (size >= LEAST).all(1) & (size.prod(1) >= VISIBLE * old.prod(1))
        return self.take(kept)

    def take(self, kept: Tensor) -> "Marking":
        """Only the objects that bool (n,) says."""
        masks = None if self.masks is None else self.masks[kept]
        return replace(self, boxes=self.boxes[kept], labels=self.labels[kept], masks=masks)

    def tight(self) -> "Marking":
        """Boxes drawn round what is seen of the masks; objects of which nothing is seen are left out."""
        if self.masks is None:
            return self
        shows = (self.masks > 0).flatten(1).any(1)
        return replace(self.take(shows), boxes=masks_to_boxes(self.masks[shows]) + torch.tensor([0.0, 0, 1, 1]))


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image, as the settings of the same names say."""

    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    photometric: float = 0.0
    expand: float = 1.0
    iou_crop: float = 0.0
    mosaic: float = 0.0
    class_share: float = 1.0

    def __call__(
        self, read: Callable[[int, float], Marking], index: int, count: int, height: int, width: int, fill: list[int]
    ) -> Marking:
        """One of `count` images, changed at random and no larger than `height` x `width`; `fill` is its ground.

        `read(index, factor)` gives an image that fits a canvas `factor` times as large. Randomness is torch's.
        """
        if _chance(self.mosaic):
            places = [index, *torch.randint(count, (3,)).tolist()]
            seen = stitch([read(place, self._factor()) for place in places], height, width, fill)
            return self._flipped(self._distorted(seen))
        factor, cropping = self._factor(), _chance(self.iou_crop)
        seen = self._distorted(read(index, 2 * factor if cropping else factor))  # a part is shown larger
        seen = seen.through(v2.RandomZoomOut({tv_tensors.Image: fill, "others": 0}, (1.0, self.expand)))
        if cropping and len(seen.boxes) and min(seen.size) >= CROPPED:
            seen = seen.through(v2.RandomIoUCrop()).kept_of(seen)
        frame = fit(*seen.size, round(height * factor), round(width * factor))
        seen = self._flipped(seen).resized(frame.inner_height, frame.inner_width)
        h, w = min(seen.size[0], height), min(seen.size[1], width)
        for _ in range(TRIES if self.class_share < 1 else 1):
            top, left = (int(torch.randint(more + 1, ())) for more in (seen.size[0] - h, seen.size[1] - w))
            if _largest_share(seen.classes, top, left, h, w) <= self.class_share:
                break
        return seen.window(top, left, h, w).kept_of(seen).tight()

    def _factor(self) -> float:
        low, high = self.scale
        return low + (high - low) * float(torch.rand(()))

    def _distorted(self, seen: Marking) -> Marking:
        return seen.through(v2.RandomPhotometricDistort()) if _chance(self.photometric) else seen

    def _flipped(self, seen: Marking) -> Marking:
        return seen.through(v2.RandomHorizontalFlip(1.0)) if _chance(self.flip) else seen


def stitch(parts: list[Marking], height: int, width: int, fill: list[int]) -> Marking:
    """Four images that meet in a random point of the middle of one of `height` x `width` (arXiv 2004.10934)."""
    y, x = (round(side * (0.25 + 0.5 * float(torch.rand(())))) for side in (height, width))
    placed = []
    for place, part in enumerate(parts):
        h, w = part.size
        top, left = (h - y if place < 2 else -y), (w - x if place % 2 == 0 else -x)
        placed.append(part.window(top, left, height, width).kept_of(part))
    image = torch.tensor(fill, dtype=torch.uint8)[:, None, None].repeat(1, height, width)
    for place, (part, shown) in enumerate(zip(parts, placed, strict=True)):
        h, w = part.size
        rows = slice(max(y - h, 0), y) if place < 2 else slice(y, y + h)
        columns = slice(max(x - w, 0), x) if place % 2 == 0 else slice(x, x + w)
        image[:, rows, columns] = shown.image[:, rows, columns]
    masks = None if parts[0].masks is None else torch.cat([part.masks for part in placed if part.masks is not None])
    boxes, labels = torch.cat([part.boxes for part in placed]), torch.cat([part.labels for part in placed])
    return Marking(image, boxes, labels, masks).tight()


def _largest_share(classes: Tensor | None, top: int, left: int, height: int, width: int) -> float:
    """Of the known pixels of a window, those of the most frequent class; 0 where there are none, or no map."""
    if classes is None:
        return 0.0
    counts = classes[top : top + height, left : left + width].flatten().bincount(minlength=2)[1:]
    return float(counts.max() / counts.sum().clamp(min=1))


def _chance(share: float) -> bool:
    return share > 0 and float(torch.rand(())) < share
