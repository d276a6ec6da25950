"""Random augmentation of an image and its annotations, by torchvision's transforms."""

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
"""Minimum share of an object's box that a crop must keep; otherwise the object is dropped."""
MIN_SIDE = 1.0
"""Minimum side of a box in pixels."""
MIN_CROPPED = 32
"""Minimum side in pixels of an image that is cropped."""
TRIES = 10
"""Number of windows that are tried to find one in which no class exceeds `class_share`."""


@dataclass(frozen=True)
class Sample:
    """An image and its n objects on the canvas."""

    image: Tensor  # (C, h, w), uint8; float32 with stored values
    boxes: Tensor  # (n, 4), float32, in its pixels
    labels: Tensor  # (n,), int64
    masks: Tensor | None = None  # (n, h, w), uint8
    classes: Tensor | None = None  # 1 + the class of each pixel (h, w), uint8; 0: unlabelled or outside the image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[1], self.image.shape[2]

    def transformed(self, transform: Callable[..., dict[str, Tensor]]) -> "Sample":
        """The result of a transform of torchvision."""
        parts = {"image": tv_tensors.Image(self.image)}
        parts["boxes"] = tv_tensors.BoundingBoxes(self.boxes, format="XYXY", canvas_size=self.size)
        for name in ("masks", "classes"):
            if (given := getattr(self, name)) is not None:
                parts[name] = tv_tensors.Mask(given)
        done = {name: part.as_subclass(Tensor) for name, part in transform(parts).items()}
        return replace(self, **done)

    def window(self, top: int, left: int, height: int, width: int) -> "Sample":
        """A window, 0 where it reaches outside the image; boxes are clipped."""
        return self.transformed(lambda parts: {k: T.crop(part, top, left, height, width) for k, part in parts.items()})

    def resized(self, height: int, width: int) -> "Sample":
        """The sample at another size."""
        if (height, width) == self.size:
            return self
        return self.transformed(lambda parts: {k: T.resize(part, [height, width]) for k, part in parts.items()})

    def kept_of(self, before: "Sample") -> "Sample":
        """Without the objects of which the crop of `before` that gave this sample kept too little."""
        size, old = self.boxes[:, 2:] - self.boxes[:, :2], before.boxes[:, 2:] - before.boxes[:, :2]
        kept = (size >= MIN_SIDE).all(1) & (size.prod(1) >= VISIBLE * old.prod(1))
        return self.take(kept)

    def take(self, kept: Tensor) -> "Sample":
        """Only the objects where a mask (n,) is true."""
        masks = None if self.masks is None else self.masks[kept]
        return replace(self, boxes=self.boxes[kept], labels=self.labels[kept], masks=masks)

    def tight(self) -> "Sample":
        """Boxes around the masks; objects with empty masks are dropped."""
        if self.masks is None:
            return self
        kept = (self.masks > 0).flatten(1).any(1)
        return replace(self.take(kept), boxes=masks_to_boxes(self.masks[kept]) + torch.tensor([0.0, 0, 1, 1]))


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of a training image, by the settings of the same names."""

    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    photometric: float = 0.0
    expand: float = 1.0
    iou_crop: float = 0.0
    mosaic: float = 0.0
    class_share: float = 1.0

    def __call__(
        self, read: Callable[[int, float], Sample], index: int, count: int, height: int, width: int, fill: list[float]
    ) -> Sample:
        """One of `count` images, augmented, of at most `height` x `width` pixels; `fill` is the background (C,).

        `read(index, factor)` returns a sample scaled to a canvas `factor` times as large. Random numbers are torch's.
        """
        if _chance(self.mosaic):
            places = [index, *torch.randint(count, (3,)).tolist()]
            sample = stitch([read(place, self._factor()) for place in places], height, width, fill)
            return self._flipped(self._distorted(sample))
        factor, cropping = self._factor(), _chance(self.iou_crop)
        sample = self._distorted(read(index, 2 * factor if cropping else factor))  # a crop is enlarged
        sample = sample.transformed(v2.RandomZoomOut({tv_tensors.Image: fill, "others": 0}, (1.0, self.expand)))
        if cropping and len(sample.boxes) and min(sample.size) >= MIN_CROPPED:
            sample = sample.transformed(v2.RandomIoUCrop()).kept_of(sample)
        frame = fit(*sample.size, round(height * factor), round(width * factor))
        sample = self._flipped(sample).resized(frame.inner_height, frame.inner_width)
        h, w = min(sample.size[0], height), min(sample.size[1], width)
        for _ in range(TRIES if self.class_share < 1 else 1):
            top, left = (int(torch.randint(more + 1, ())) for more in (sample.size[0] - h, sample.size[1] - w))
            if _largest_share(sample.classes, top, left, h, w) <= self.class_share:
                break
        return sample.window(top, left, h, w).kept_of(sample).tight()

    def _factor(self) -> float:
        low, high = self.scale
        return low + (high - low) * float(torch.rand(()))

    def _distorted(self, sample: Sample) -> Sample:
        pictures = sample.image.dtype == torch.uint8
        return sample.transformed(v2.RandomPhotometricDistort()) if pictures and _chance(self.photometric) else sample

    def _flipped(self, sample: Sample) -> Sample:
        return sample.transformed(v2.RandomHorizontalFlip(1.0)) if _chance(self.flip) else sample


def stitch(parts: list[Sample], height: int, width: int, fill: list[float]) -> Sample:
    """A mosaic of four samples that meet in a random point near the centre (arXiv 2004.10934)."""
    y, x = (round(side * (0.25 + 0.5 * float(torch.rand(())))) for side in (height, width))
    image = torch.tensor(fill, dtype=parts[0].image.dtype)[:, None, None].repeat(1, height, width)
    placed = []
    for place, part in enumerate(parts):
        h, w = part.size
        top, left = (y - h if place < 2 else y), (x - w if place % 2 == 0 else x)
        shown = part.window(-top, -left, height, width).kept_of(part)
        rows, columns = slice(max(top, 0), top + h), slice(max(left, 0), left + w)
        image[:, rows, columns] = shown.image[:, rows, columns]
        placed.append(shown)
    masks = None if parts[0].masks is None else torch.cat([part.masks for part in placed if part.masks is not None])
    boxes, labels = torch.cat([part.boxes for part in placed]), torch.cat([part.labels for part in placed])
    return Sample(image, boxes, labels, masks).tight()


def _largest_share(classes: Tensor | None, top: int, left: int, height: int, width: int) -> float:
    """The share of the most frequent class among the labelled pixels of a window; 0 without any."""
    if classes is None:
        return 0.0
    counts = classes[top : top + height, left : left + width].flatten().bincount(minlength=2)[1:]
    return float(counts.max() / counts.sum().clamp(min=1))


def _chance(share: float) -> bool:
    return share > 0 and float(torch.rand(())) < share
