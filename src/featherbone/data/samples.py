"""Images and annotations as training samples: on one canvas, augmented by (seed, epoch, index)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from featherbone.data.augment import Augmentation, Sample
from featherbone.data.formats.panoptic import PanopticSplit
from featherbone.data.frames import Frame, fit, scale_image
from featherbone.data.loading import Key, seeded
from featherbone.data.objects import Objects
from featherbone.data.skipped import Reader
from featherbone.data.split import PanopticTruth, Split
from featherbone.data.transforms import Preprocessing
from featherbone.ops.boxes import Target
from featherbone.ops.label_maps import PanopticTarget


@dataclass(eq=False)
class DenseSamples(Dataset[tuple[Tensor, Any]], ABC):
    """Normalised image (C, H, W) and target by (epoch, index)."""

    images: Split[Any]
    preprocessing: Preprocessing
    augmentation: Augmentation | None
    seed: int

    def __post_init__(self) -> None:
        training, channels = self.augmentation is not None, self.preprocessing.channels
        self.reader = Reader(self.images, self.seed, training, channels)

    def __getitem__(self, key: Key) -> tuple[Tensor, Any]:
        epoch, index, *_ = key
        p, read = self.preprocessing, partial(self.read, epoch)
        if self.augmentation is None:
            sample = read(index)
        else:
            with seeded(self.seed, *key):
                fill = [float(value if p.channels else round(255 * value)) for value in p.mean]
                sample = self.augmentation(read, index, len(self.images), p.height, p.width, fill)
        h, w = sample.size
        height, width = p.canvas(h, w)
        edges = (0, width - w, 0, height - h)
        return F.pad(p.normalise(sample.image), edges), self.target(sample, edges)

    def read(self, epoch: int, index: int, factor: float = 1.0) -> Sample:
        """An image and its annotations, scaled to a canvas `factor` times as large as the input."""
        p = self.preprocessing
        image, truth = self.reader(epoch, index)
        if factor == 1:
            frame = p.frame(image.height, image.width)
        else:
            frame = fit(image.height, image.width, round(p.height * factor), round(p.width * factor))
        return self.annotate(truth, scale_image(image, frame, p.interpolation), frame)

    @abstractmethod
    def annotate(self, truth: Any, pixels: Tensor, frame: Frame) -> Sample:
        """The sample of an image; `pixels` (C, h, w) are the image at the scale of `frame`."""

    @abstractmethod
    def target(self, sample: Sample, edges: tuple[int, int, int, int]) -> Any:
        """The target on the canvas; `edges` are the pixels to pad left, right, above and below."""


@dataclass(eq=False)
class DetectionSamples(DenseSamples):
    """Targets are objects, with their masks if `masks`; crowds are left out."""

    masks: bool

    def annotate(self, truth: Objects, pixels: Tensor, frame: Frame) -> Sample:
        return object_sample(truth, pixels, frame, self.masks)

    def target(self, sample: Sample, edges: tuple[int, int, int, int]) -> Target:
        masks = None if sample.masks is None else F.pad(sample.masks, edges).bool()
        return Target(sample.boxes, sample.labels, masks)


class SemanticSamples(DenseSamples):
    """Targets are class indices (H, W), int64, 255 where unlabelled."""

    def annotate(self, truth: NDArray[np.uint8], pixels: Tensor, frame: Frame) -> Sample:
        classes = scale_classes(truth, frame)
        return Sample(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None, classes)

    def target(self, sample: Sample, edges: tuple[int, int, int, int]) -> Tensor:
        assert sample.classes is not None, "set above"
        return (F.pad(sample.classes, edges) - 1).long()  # in uint8, 0 (unlabelled) becomes 255


class PanopticSamples(DenseSamples):
    """Targets are things with their masks, without crowds, and a map of stuff."""

    images: PanopticSplit

    def annotate(self, truth: PanopticTruth, pixels: Tensor, frame: Frame) -> Sample:
        sample = object_sample(self.images.objects(truth), pixels, frame, masks=True)
        return replace(sample, classes=scale_classes(self.images.stuff_labels(truth), frame))

    def target(self, sample: Sample, edges: tuple[int, int, int, int]) -> PanopticTarget:
        assert sample.classes is not None and sample.masks is not None, "set above"
        things = Target(sample.boxes, sample.labels, F.pad(sample.masks, edges).bool())
        return PanopticTarget(things, (F.pad(sample.classes, edges) - 1).long())


def object_sample(objects: Objects, pixels: Tensor, frame: Frame, masks: bool) -> Sample:
    """Objects of an image, without crowds, at the scale of the frame."""
    scale = torch.tensor([frame.inner_width / frame.width, frame.inner_height / frame.height] * 2)
    kept = np.flatnonzero(~objects.crowd)
    shapes = None
    if masks:
        rows = [_resize(objects.mask(i).astype(np.uint8), frame)[None] for i in kept.tolist()]
        shapes = torch.cat([*rows, torch.zeros(0, *frame.inner, dtype=torch.uint8)])
    boxes, labels = torch.from_numpy(objects.boxes[kept]) * scale, torch.from_numpy(objects.labels[kept])
    return Sample(pixels, boxes.float(), labels, shapes)


def scale_classes(labels: NDArray[np.uint8], frame: Frame) -> Tensor:
    """1 + class (h, w), uint8, at the scale of the frame; 0 where unlabelled."""
    return _resize(labels, frame) + 1  # in uint8, 255 becomes 0


def _resize(values: NDArray[np.uint8], frame: Frame) -> Tensor:
    """Values (H, W) at the scale of the frame, by nearest centres."""
    return F.interpolate(torch.from_numpy(values)[None, None], size=frame.inner, mode="nearest-exact")[0, 0]


def collate(samples: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, list[Any]]:
    """Samples as a batch of images (B, C, H, W) and a list of targets."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)


def to_device(targets: Any, device: torch.device) -> Any:
    """Tensors in lists and named tuples, on a device."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, list):
        return [to_device(target, device) for target in targets]
    return targets if targets is None else type(targets)(*(to_device(part, device) for part in targets))
