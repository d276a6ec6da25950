"""The second stage of Mask R-CNN (arXiv 1703.06870): class, refined box and mask of each proposed box."""

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from featherbone.heads.anchors import match
from featherbone.heads.levels import Level
from featherbone.heads.rpn import is_used, sample
from featherbone.ops.boxes import Target, clip_boxes, decode_deltas, encode_deltas, keep_nms

BOX_CELLS, MASK_CELLS = 7, 14
"""Rows and columns of a box's features in the box and mask heads; a mask has twice as many."""
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Standard deviations of the box deltas, inverted."""


class MaskRaw(NamedTuple):
    """Objects by descending score; unused rows up to the limit have score 0, empty boxes and masks of 0."""

    boxes: Tensor
    """(B, limit, 4), in pixels."""
    scores: Tensor
    """(B, limit), from 0 to 1."""
    labels: Tensor
    """Classes (B, limit), int64."""
    masks: Tensor
    """Probabilities over each box (B, limit, 28, 28)."""


class Samples(NamedTuple):
    """The proposals of one image that have a loss."""

    boxes: Tensor
    """(n, 4), the p positive ones first."""
    labels: Tensor
    """Classes (n,), the number of classes for background."""
    objects: Tensor
    """Of the positive ones the index of their object (p,)."""


def align(maps: Sequence[Tensor], levels: Sequence[Level], boxes: Sequence[Tensor], cells: int) -> Tensor:
    """Read maps (B, C, h, w) in the boxes (n, 4) of each image, image by image: (R, C, cells, cells).

    Each box is read from one of the `levels`: octave floor(4 + log2(sqrt(area) / 224)), or the nearest available one
    (arXiv 1612.03144, Eq. 1).
    """
    rois, places = _assign_levels(levels, boxes)
    pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], cells, cells)
    for x, level, here in zip(maps, levels, places, strict=True):
        index = here.nonzero()[:, 0]
        pooled[index] = _align(x, level, rois[index], cells)
    return pooled


def align_all(maps: Sequence[Tensor], levels: Sequence[Level], boxes: Sequence[Tensor], cells: int) -> Tensor:
    """The same for graphs, with known shapes: every box is read on every level, where boxes of others are empty."""
    rois, places = _assign_levels(levels, boxes)
    pooled = _align(maps[0], levels[0], rois * places[0][:, None], cells)
    for x, level, here in zip(maps[1:], levels[1:], places[1:], strict=True):
        part = _align(x, level, rois * here[:, None], cells)
        pooled = torch.where(here[:, None, None, None], part, pooled)
    return pooled


def _assign_levels(levels: Sequence[Level], boxes: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Boxes as (R, 5), the image first, and for each level which of them (R,) are read from it."""
    rois = torch.cat([F.pad(x, (1, 0), value=i) for i, x in enumerate(boxes)])
    areas = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    bounds = [-inf, *((224 * 2.0 ** (level.octave - 4)) ** 2 for level in levels[1:]), inf]
    return rois, [(areas >= low) & (areas < high) for low, high in pairwise(bounds)]


def _align(x: Tensor, level: Level, rois: Tensor, cells: int) -> Tensor:
    return roi_align(x.to(rois.dtype), rois, cells, 1 / level.stride, sampling_ratio=0, aligned=True).to(x.dtype)


def read_used(
    head: nn.Module, maps: Sequence[Tensor], levels: Sequence[Level], boxes: Tensor, used: Tensor, cells: int
) -> tuple[Tensor, ...]:
    """Outputs (B * N, ...) of a head on the features of boxes (B, N, 4); 0 where they are not `used` (B, N)."""
    outputs = head(align(maps, levels, [own[rows] for own, rows in zip(boxes, used, strict=True)], cells))
    places = used.flatten().nonzero()[:, 0]
    return tuple(x.new_zeros(used.numel(), *x.shape[1:]).index_copy(0, places, x) for x in outputs)


def read_all(
    head: nn.Module, maps: Sequence[Tensor], levels: Sequence[Level], boxes: Tensor, used: Tensor, cells: int
) -> tuple[Tensor, ...]:
    """The same for graphs, with known shapes: boxes that are not used are read, too."""
    return head(align_all(maps, levels, boxes.unbind(), cells))


class RoIReader(nn.Module):
    """`read_used` as a module, which graphs replace by `read_all`."""

    read = staticmethod(read_used)

    def forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        return self.read(*arguments)


class RoIHeads(nn.Module):
    """Boxes and masks of `num_classes` classes from maps of `levels`, which have the same channels, and proposals.

    Of the `candidates` highest-scoring pairs of proposal and class, boxes that overlap a higher-scoring one of their
    class by more than `nms` in IoU are dropped; at most `limit` remain. In training, `samples` proposals of each image
    have a loss, at most a quarter of them positive.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        num_classes: int,
        fc_dim: int = 1024,
        mask_dim: int = 256,
        *,
        candidates: int = 2000,
        nms: float = 0.5,
        limit: int = 100,
        samples: int = 512,
    ) -> None:
        super().__init__()
        self.levels, self.num_classes = list(levels), num_classes
        self.candidates, self.nms, self.limit, self.samples = candidates, nms, limit, samples
        self.read = RoIReader()
        self.box = BoxHead(levels[0].channels, num_classes, fc_dim)
        self.mask = MaskHead(levels[0].channels, num_classes, mask_dim)

    def forward(self, maps: Sequence[Tensor], proposals: Tensor, sizes: Tensor, score: float = 0.0) -> MaskRaw:
        """From maps (B, C, h, w) and `RPN.propose`'s boxes (B, N, 4) of images of `sizes` (B, 2) to objects.

        Only objects with a score above `score` have masks; graphs compute all.
        """
        used = is_used(proposals)
        logits, deltas = self.read(self.box, maps, self.levels, proposals, used, BOX_CELLS)
        b, n, _ = proposals.shape
        scores = logits.float().softmax(1)[:, :-1].reshape(b, n, -1) * used[..., None]
        scores, index = scores.flatten(1).topk(min(self.candidates, n * self.num_classes))
        places = index[..., None].expand(-1, -1, 4)
        shifts = deltas.float().reshape(b, -1, 4).gather(1, places)
        boxes = decode_deltas(shifts, proposals.gather(1, places // self.num_classes), WEIGHTS)
        images = zip(clip_boxes(boxes, sizes), scores, index % self.num_classes, strict=True)
        boxes, scores, labels = (torch.stack(x) for x in zip(*(self._select(*image) for image in images), strict=True))
        shown = scores > score
        (masks,) = self.read(self.mask, maps, self.levels, boxes, shown, MASK_CELLS)
        masks = masks.gather(1, labels.reshape(-1, 1, 1, 1).expand(-1, -1, *masks.shape[2:]))
        masks = masks.float().sigmoid().reshape(*labels.shape, *masks.shape[2:])
        return MaskRaw(boxes, scores, labels, masks * shown[..., None, None])

    def _select(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The highest-scoring of one image's candidates (n, 4), (n,), (n,) after NMS."""
        kept = keep_nms(boxes, scores, self.nms, labels)
        scores, index = scores.where(kept, 0).topk(min(self.limit, len(scores)))
        found = scores > 0
        return boxes[index] * found[:, None], scores, labels[index] * found

    def losses(self, maps: Sequence[Tensor], proposals: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy of the sampled proposals' classes, L1 of the positive ones' deltas, and cross-entropy of masks.

        The objects' own boxes join the proposals (B, N, 4); a box is positive from IoU 0.5 on. The first two sums of an
        image are divided by its samples, the third is the mean over its positives; then the mean over the images.
        """
        with torch.no_grad():
            images = [self._sample(boxes, target) for boxes, target in zip(proposals, targets, strict=True)]
        counts, positives = [len(x.boxes) for x in images], [len(x.objects) for x in images]
        logits, deltas = self.box(align(maps, self.levels, [x.boxes for x in images], BOX_CELLS))
        labels = torch.cat([x.labels for x in images])
        entropy = F.cross_entropy(logits.float(), labels, reduction="none")

        positive = (labels < self.num_classes).nonzero()[:, 0]
        found = [x.boxes[: len(x.objects)] for x in images]
        pairs = list(zip(found, targets, images, strict=True))
        wanted = torch.cat([encode_deltas(target.boxes[x.objects], boxes, WEIGHTS) for boxes, target, x in pairs])
        distance = (deltas[positive, labels[positive]].float() - wanted).abs().sum(1)

        (masks,) = self.mask(align(maps, self.levels, found, MASK_CELLS))
        masks = masks[torch.arange(len(masks), device=masks.device), labels[positive]].float()
        shapes = torch.cat([crop_masks(target, x.objects, boxes, masks.shape[-1]) for boxes, target, x in pairs])
        pixels = F.binary_cross_entropy_with_logits(masks, shapes, reduction="none").mean((1, 2))
        return {
            "class": _mean(entropy, counts, counts),
            "box": _mean(distance, positives, counts),
            "mask": _mean(pixels, positives, positives),
        }

    def _sample(self, proposals: Tensor, target: Target) -> Samples:
        boxes = torch.cat((target.boxes, proposals[is_used(proposals)]))
        matched = match(target.boxes, boxes, positive=0.5, negative=0.5, best=False)
        positive, negative = sample(matched, self.samples, 0.25)
        objects = matched[positive]
        background = torch.full_like(negative, self.num_classes)
        return Samples(boxes[torch.cat((positive, negative))], torch.cat((target.labels[objects], background)), objects)


class BoxHead(nn.Module):
    """Two fully connected layers of `dim` on the features of a box; on them its class and box deltas."""

    def __init__(self, channels: int, num_classes: int, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels * BOX_CELLS**2, dim), nn.Linear(dim, dim)
        self.classes, self.boxes = nn.Linear(dim, num_classes + 1), nn.Linear(dim, 4 * num_classes)
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.xavier_uniform_(self.second.weight)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.boxes.weight, std=0.001)
        for layer in (self.first, self.second, self.classes, self.boxes):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (R, C, 7, 7) to logits (R, K + 1), background last, and for each class deltas (R, K, 4)."""
        x = torch.relu(self.second(torch.relu(self.first(x.flatten(1)))))
        return self.classes(x), self.boxes(x).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """Four 3x3 convolutions of `dim` channels on the features of a box, and a transposed one that doubles the size."""

    def __init__(self, channels: int, num_classes: int, dim: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, dim, 3, padding=1) for width in (channels, dim, dim, dim))
        self.finer = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.classes = nn.Conv2d(dim, num_classes, 1)
        for layer in (*self.convolutions, self.finer, self.classes):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classes.weight, std=0.001)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Boxes (R, C, 14, 14) to logits of each class's mask (R, K, 28, 28), as a tuple of one."""
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return (self.classes(torch.relu(self.finer(x))),)


def crop_masks(target: Target, objects: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """The masks of the `objects` (p,) within boxes (p, 4), as zeros and ones: (p, cells, cells)."""
    if target.masks is None:
        raise ValueError("a target has no masks, which this head needs; annotate them, or use RetinaNet")
    rois = torch.cat((objects[:, None].to(boxes), boxes), 1)
    shares = roi_align(target.masks[:, None].to(boxes), rois, cells, 1.0, sampling_ratio=0, aligned=True)
    return (shares[:, 0] >= 0.5).to(boxes)


def _mean(terms: Tensor, sizes: list[int], counts: list[int]) -> Tensor:
    """The mean over images of the sum of an image's terms, of which there are `sizes`, by its count."""
    parts = zip(terms.split(sizes), counts, strict=True)
    return torch.stack([part.sum() / max(count, 1) for part, count in parts]).mean()
