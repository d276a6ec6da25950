"""Images and what is marked on them, as a network learns it: on one canvas, changed by (seed, epoch, index)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import str_to_pil_interp
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from featherbone.data.augment import Augmentation, Marking
from featherbone.data.frames import Frame, fit, lay
from featherbone.data.loading import seeded
from featherbone.data.objects import MarkedImages, Objects
from featherbone.data.transforms import Preprocessing
from featherbone.ops import rle
from featherbone.ops.boxes import Target
from featherbone.ops.label_maps import PanopticTarget


class DenseSamples(Dataset[tuple[Tensor, Any]], ABC):
    """Normalised image (3, H, W) and what it should give, by (epoch, index)."""

    def __init__(self, images: Any, preprocessing: Preprocessing, augmentation: Augmentation | None, seed: int) -> None:
        self.images, self.preprocessing, self.augmentation, self.seed = images, preprocessing, augmentation, seed
        self.resample = str_to_pil_interp(preprocessing.interpolation)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Any]:
        epoch, index = key
        p = self.preprocessing
        if self.augmentation is None:
            seen = self.read(index)
        else:
            with seeded(self.seed, epoch, index):
                fill = [round(255 * value) for value in p.mean]
                seen = self.augmentation(self.read, index, len(self.images), p.height, p.width, fill)
        h, w = seen.size
        edges = (0, p.width - w, 0, p.height - h)
        return F.pad(p.normalise(seen.image), edges), self.target(seen, edges)

    def read(self, index: int, factor: float = 1.0) -> Marking:
        """An image that fits a canvas `factor` times as large as the input, and what is marked on it."""
        p = self.preprocessing
        image = self.images.read(index)
        frame = fit(image.height, image.width, round(p.height * factor), round(p.width * factor))
        return self.mark(index, lay(image, frame, self.resample), frame)

    @abstractmethod
    def mark(self, index: int, pixels: Tensor, frame: Frame) -> Marking:
        """What is marked on an image, of which `pixels` (3, h, w) are what the frame shows."""

    @abstractmethod
    def target(self, seen: Marking, edges: tuple[int, int, int, int]) -> Any:
        """What the head should give; `edges` are the pixels that are added left, right, above and below."""


class DetectionSamples(DenseSamples):
    """Targets are objects, with their masks on request; crowds are left out."""

    def __init__(
        self,
        images: MarkedImages,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        seed: int,
        masks: bool,
    ) -> None:
        super().__init__(images, preprocessing, augmentation, seed)
        self.masks = masks

    def mark(self, index: int, pixels: Tensor, frame: Frame) -> Marking:
        return mark_objects(self.images.objects(index, self.masks), pixels, frame)

    def target(self, seen: Marking, edges: tuple[int, int, int, int]) -> Target:
        masks = None if seen.masks is None else F.pad(seen.masks, edges).bool()
        return Target(seen.boxes, seen.labels, masks)


class SemanticSamples(DenseSamples):
    """Targets are classes (H, W), int64, 255 where none is known."""

    def mark(self, index: int, pixels: Tensor, frame: Frame) -> Marking:
        classes = mark_classes(self.images.labels(index), frame)
        return Marking(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None, classes)

    def target(self, seen: Marking, edges: tuple[int, int, int, int]) -> Tensor:
        assert seen.classes is not None, "marked above"
        return (F.pad(seen.classes, edges) - 1).long()  # bytes: what is not known, 0, becomes 255


class PanopticSamples(DenseSamples):
    """Targets are things with their masks, crowds left out, and a map of stuff and any thing."""

    def mark(self, index: int, pixels: Tensor, frame: Frame) -> Marking:
        classes = mark_classes(self.images.stuff_labels(index), frame)
        return replace(mark_objects(self.images.objects(index), pixels, frame), classes=classes)

    def target(self, seen: Marking, edges: tuple[int, int, int, int]) -> PanopticTarget:
        assert seen.classes is not None and seen.masks is not None, "marked above"
        things = Target(seen.boxes, seen.labels, F.pad(seen.masks, edges).bool())
        return PanopticTarget(things, (F.pad(seen.classes, edges) - 1).long())


def mark_objects(objects: Objects, pixels: Tensor, frame: Frame) -> Marking:
    """Objects of an image, without crowds, on what the frame shows of it."""
    scale = torch.tensor([frame.inner_width / frame.width, frame.inner_height / frame.height] * 2)
    asked = ~objects.crowd
    masks = None
    if objects.masks is not None:
        kept = [mask for mask, one in zip(objects.masks, asked, strict=True) if one]
        shapes = [_resize(rle.decode(mask).astype(np.uint8), frame)[None] for mask in kept]
        masks = torch.cat([*shapes, torch.zeros(0, *frame.inner, dtype=torch.uint8)])
    boxes, labels = torch.from_numpy(objects.boxes[asked]) * scale, torch.from_numpy(objects.labels[asked])
    return Marking(pixels, boxes.float(), labels, masks)


def mark_classes(labels: NDArray[np.uint8], frame: Frame) -> Tensor:
    """1 + class (h, w), uint8, of what the frame shows of an image; 0 where none is known."""
    return _resize(labels, frame) + 1  # bytes: 255 becomes 0


def _resize(values: NDArray[np.uint8], frame: Frame) -> Tensor:
    """Values (H, W) of an image's pixels at those the frame shows, by the nearest centre."""
    return F.interpolate(torch.from_numpy(values)[None, None], size=frame.inner, mode="nearest-exact")[0, 0]


def collate(samples: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, list[Any]]:
    """Samples as a batch of images (B, 3, H, W) and a list."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)


def to_device(targets: Any, device: torch.device) -> Any:
    """Tensors in lists and named tuples, on a device."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, list):
        return [to_device(target, device) for target in targets]
    return targets if targets is None else type(targets)(*(to_device(part, device) for part in targets))
