"""RetinaNet (arXiv 1708.02002): every anchor of five levels says what it shows and where, taught by focal loss."""

from collections.abc import Sequence
from math import log
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from featherbone.heads.anchors import IGNORED, base_anchors, by_anchor, grid_anchors, match
from featherbone.heads.fpn import FPN
from featherbone.heads.levels import Level
from featherbone.ops.boxes import (
    SELECTION,
    WIDEST,
    Found,
    Picked,
    Target,
    clip_boxes,
    decode_deltas,
    encode_deltas,
    pick_surest,
    select_surest,
)

SCALES = (1, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sizes of a cell's anchors, in fours of its stride."""
RATIOS = (0.5, 1, 2)
"""Height by width of its anchors."""
NUM_ANCHORS = len(SCALES) * len(RATIOS)
WEIGHTS = (1.0, 1.0, 1.0, 1.0)
"""Of the deltas."""
PRIOR = 0.01
"""Score that every class of every anchor starts from."""


class RetinaRaw(NamedTuple):
    """What the network gives: one map a level, strides 8 to 128; channels are those of the first anchor, then the next.

    Anchors of a cell are in the order of `base_anchors`.
    """

    logits: tuple[Tensor, ...]
    """Of the classes (B, 9 * K, h, w)."""
    deltas: tuple[Tensor, ...]
    """From anchors to boxes (B, 9 * 4, h, w)."""


class RetinaNet(nn.Module):
    """Objects of `num_classes` classes, from a pyramid of any strides.

    An FPN of `dim` channels, strides 8 to 128; on it two towers of `num_convs` 3x3 convolutions, the same for all
    levels, one for classes and one for boxes. Of each level the `candidates` surest answers are read; of those above
    `score`, boxes that overlap a surer one of their class by more than `nms` in IoU fall out, and the `limit` surest
    are found.
    """

    image_size: ClassVar[int] = 640
    """Default side of the input, in pixels."""
    raw: ClassVar[type] = RetinaRaw
    """Of what `forward` gives in evaluation."""

    def __init__(
        self,
        pyramid: Sequence[Level],
        num_classes: int,
        dim: int = 256,
        num_convs: int = 4,
        *,
        score: float = 0.05,
        candidates: int = 1000,
        nms: float = 0.5,
        limit: int = 100,
    ) -> None:
        super().__init__()
        self.score, self.candidates, self.nms, self.limit = score, candidates, nms, limit
        self.fpn = FPN(pyramid, dim, first=3, last=5, extra=2, kind="conv")
        self.classes = _tower(dim, num_convs, NUM_ANCHORS * num_classes, bias=-log((1 - PRIOR) / PRIOR))
        self.boxes = _tower(dim, num_convs, NUM_ANCHORS * 4)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> RetinaRaw:
        """Maps (B, C, h, w) of the pyramid to raw maps; the images' `size` is not needed."""
        levels = self.fpn(maps)
        return RetinaRaw(tuple(self.classes(x) for x in levels), tuple(self.boxes(x) for x in levels))

    def losses(self, raw: RetinaRaw, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Focal loss (alpha 0.25, gamma 2) of the classes and L1 of the positive anchors' deltas, weighted alike.

        An anchor is positive from IoU 0.5 on or as an object's best, negative below 0.4, else ignored. Sums of an
        image are divided by its positives, at least 1; then the mean over the images.
        """
        logits = torch.cat([by_anchor(x, x.shape[1] // NUM_ANCHORS) for x in raw.logits], 1).float()  # (B, N, K)
        deltas = torch.cat([by_anchor(x, 4) for x in raw.deltas], 1).float()  # (B, N, 4)
        anchors = torch.cat(self._anchors(raw))  # (N, 4)
        images = zip(logits, deltas, targets, strict=True)
        of_classes, of_boxes = zip(*(_losses(x, shifts, anchors, target) for x, shifts, target in images), strict=True)
        return {"class": torch.stack(of_classes).mean(), "box": torch.stack(of_boxes).mean()}

    def find(self, raw: RetinaRaw, score: float | None = None) -> list[Found]:
        """The objects of each image whose score is above `score`, by default the head's own.

        Boxes are cut one cell beyond the finest map, where no image reaches: the head does not know its borders.
        """
        threshold = self.score if score is None else score
        return [select_surest(*x, threshold, self.nms, self.limit) for x in zip(*self.surest(raw), strict=True)]

    def pick(self, raw: RetinaRaw) -> Picked:
        """The same of fixed shapes, above the head's own score: for NMS inside of an exported file."""
        limits = (self.score, self.nms, self.limit)
        images = [pick_surest(*image, *limits) for image in zip(*self.surest(raw), strict=True)]
        boxes, labels, scores = (torch.stack(parts) for parts in zip(*images, strict=True))
        return Picked(boxes, scores, labels)

    def surest(self, raw: RetinaRaw) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, N, 4), labels (B, N) and scores (B, N) of the surest answers of all levels, before NMS."""
        levels = zip(raw.logits, raw.deltas, self._anchors(raw), strict=True)
        boxes, labels, scores = (torch.cat(parts, 1) for parts in zip(*(self._surest(*x) for x in levels), strict=True))
        height, width = raw.logits[0].shape[2:]
        stride = self.fpn.levels[0].stride
        return clip_boxes(boxes, (height + 1) * stride, (width + 1) * stride), labels, scores

    def decoding(self) -> dict[str, Any]:
        """What a program needs to find objects in the raw maps: anchors lie about the corner of their cell."""
        strides = [level.stride for level in self.fpn.levels]
        anchors = [base_anchors([4 * stride * scale for scale in SCALES], RATIOS).tolist() for stride in strides]
        about = {"kind": "retinanet", "strides": strides, "anchors": anchors, "weights": WEIGHTS, "widest": WIDEST}
        rules = {
            "outputs": {
                "logits_{level}": "(B, anchor * class, row, column)",
                "deltas_{level}": "(B, anchor * 4, row, column)",
            },
            "anchor_form": "x1 y1 x2 y2",
            "anchor_origin": "cell_corner",
            "origin": {"x": "column * stride", "y": "row * stride"},
            "formulas": {
                "score": "sigmoid(logit)",
                "cx": "anchor_cx + dx / weights[0] * anchor_w",
                "cy": "anchor_cy + dy / weights[1] * anchor_h",
                "w": "anchor_w * exp(min(dw / weights[2], widest))",
                "h": "anchor_h * exp(min(dh / weights[3], widest))",
            },
            "clip": {"x": "0 to (columns_0 + 1) * strides[0]", "y": "0 to (rows_0 + 1) * strides[0]"},
        }
        return {**about, **rules, **SELECTION, **self._limits()}

    def _limits(self) -> dict[str, Any]:
        return {"score": self.score, "candidates": self.candidates, "nms": self.nms, "limit": self.limit}

    def _anchors(self, raw: RetinaRaw) -> list[Tensor]:
        """Of each level (h * w * 9, 4), in pixels."""
        anchors = []
        for maps, level in zip(raw.logits, self.fpn.levels, strict=True):
            base = base_anchors([4 * level.stride * scale for scale in SCALES], RATIOS).to(maps.device)
            anchors.append(grid_anchors(base, maps.shape[2], maps.shape[3], level.stride))
        return anchors

    def _surest(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, n, 4), labels (B, n) and scores (B, n) of a level's surest pairs of anchor and class."""
        _, channels, height, width = logits.shape
        logits = logits.flatten(1).float()  # anchor, class, cell
        values, index = logits.topk(min(self.candidates, logits.shape[1]))
        channel, cell = index // (height * width), index % (height * width)
        num_classes = channels // NUM_ANCHORS
        chosen = cell * NUM_ANCHORS + channel // num_classes
        shifts = by_anchor(deltas, 4).float().gather(1, chosen[..., None].expand(-1, -1, 4))
        return decode_deltas(shifts, anchors[chosen], WEIGHTS), channel % num_classes, values.sigmoid()


def _tower(dim: int, num_convs: int, out: int, bias: float = 0.0) -> nn.Sequential:
    """Convolutions with ReLU between; the last, of `out` channels, starts from `bias`."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [_convolution(dim, dim), nn.ReLU()]
    return nn.Sequential(*layers, _convolution(dim, out, bias))


def _convolution(dim: int, out: int, bias: float = 0.0) -> nn.Conv2d:
    convolution = nn.Conv2d(dim, out, 3, padding=1)
    nn.init.normal_(convolution.weight, std=0.01)
    convolution.bias = nn.Parameter(torch.full((out,), bias))
    return convolution


def _losses(logits: Tensor, deltas: Tensor, anchors: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Class and box loss of one image, of logits (N, K) and deltas (N, 4)."""
    matched = match(target.boxes, anchors, positive=0.5, negative=0.4)
    positive = (matched >= 0).nonzero()[:, 0]
    objects = matched[positive]
    wanted = torch.zeros_like(logits)
    wanted[positive, target.labels[objects]] = 1
    focal = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2).sum(1) * (matched != IGNORED)
    shifts = encode_deltas(target.boxes[objects], anchors[positive], WEIGHTS)
    distance = F.l1_loss(deltas[positive], shifts, reduction="sum")
    count = max(len(positive), 1)
    return focal.sum() / count, distance / count
