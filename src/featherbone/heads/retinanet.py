"""RetinaNet (arXiv 1708.02002): every anchor of five levels predicts a class and a box; the loss is focal."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from featherbone.heads.anchors import IGNORED, AnchorRaw, base_anchors, by_anchor, level_anchors, match
from featherbone.heads.box_decoder import BoxDecoder, Candidates
from featherbone.heads.fpn import FPN
from featherbone.heads.levels import Level
from featherbone.ops.boxes import WIDEST, Target, decode_deltas, encode_deltas

SCALES = (1, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sizes of a cell's anchors, in multiples of four strides."""
RATIOS = (0.5, 1, 2)
"""Ratios of height to width of the anchors."""
NUM_ANCHORS = len(SCALES) * len(RATIOS)
WEIGHTS = (1.0, 1.0, 1.0, 1.0)
"""Standard deviations of the box deltas, inverted."""
PRIOR = 0.01
"""Initial score of every class of every anchor."""


@dataclass(frozen=True)
class RetinaDecoder(BoxDecoder):
    """Objects from RetinaNet's raw maps; anchors are centred on the corners of their cells."""

    raw: ClassVar[Any] = AnchorRaw
    num_levels = 5

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "retinanet",
            "anchors": [_base_anchors(stride).tolist() for stride in self.strides],
            "weights": WEIGHTS,
            "widest": WIDEST,
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
                "w": "anchor_w * exp(clip(dw / weights[2], -widest, widest))",
                "h": "anchor_h * exp(clip(dh / weights[3], -widest, widest))",
            },
            **self.rules(),
        }

    def levels(self, raw: AnchorRaw) -> list[Candidates]:
        levels = zip(raw.logits, raw.deltas, anchors_of(raw, self.strides), strict=True)
        return [self._level(*level) for level in levels]

    def _level(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> Candidates:
        _, channels, height, width = logits.shape
        logits = logits.flatten(1).float()  # (B, anchor * class * cell)
        values, index = logits.topk(min(self.candidates, logits.shape[1]))
        channel, cell = index // (height * width), index % (height * width)
        num_classes = channels // NUM_ANCHORS
        chosen = cell * NUM_ANCHORS + channel // num_classes
        shifts = by_anchor(deltas, 4).float().gather(1, chosen[..., None].expand(-1, -1, 4))
        return decode_deltas(shifts, anchors[chosen], WEIGHTS), channel % num_classes, values.sigmoid()


def anchors_of(raw: AnchorRaw, strides: Sequence[float]) -> list[Tensor]:
    """The anchors (h * w * 9, 4) of each level, in pixels."""
    return level_anchors(raw.logits, [_base_anchors(stride) for stride in strides], strides)


def _base_anchors(stride: float) -> Tensor:
    return base_anchors([4 * stride * scale for scale in SCALES], RATIOS)


class RetinaNet(nn.Module):
    """Objects of `num_classes` classes, from a pyramid of any strides.

    An FPN of `dim` channels, strides 8 to 128, with a ReLU before the last level if `relu`; on it two towers of
    `num_convs` 3x3 convolutions, shared by all levels, one for classes and one for boxes.
    """

    image_size: ClassVar[int] = 640
    decoder: ClassVar[type[RetinaDecoder]] = RetinaDecoder

    def __init__(
        self, pyramid: Sequence[Level], num_classes: int, dim: int = 256, num_convs: int = 4, relu: bool = True
    ) -> None:
        super().__init__()
        self.fpn = FPN(pyramid, dim, first=3, last=5, extra=2, kind="conv", relu=relu)
        self.classes = _tower(dim, num_convs, NUM_ANCHORS * num_classes, bias=-log((1 - PRIOR) / PRIOR))
        self.boxes = _tower(dim, num_convs, NUM_ANCHORS * 4)

    def forward(self, maps: Sequence[Tensor], sizes: Tensor) -> AnchorRaw:
        """Maps (B, C, h, w) of the pyramid to raw maps; the images' `sizes` are not used."""
        levels = self.fpn(maps)
        return AnchorRaw(tuple(self.classes(x) for x in levels), tuple(self.boxes(x) for x in levels))

    def losses(self, raw: AnchorRaw, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Focal loss (alpha 0.25, gamma 2) of the classes and L1 of the positive anchors' deltas, weighted equally.

        An anchor is positive from IoU 0.5 on or as an object's best, negative below 0.4, else ignored. Sums of an
        image are divided by its positives, at least 1; then the mean over the images.
        """
        logits = torch.cat([by_anchor(x, x.shape[1] // NUM_ANCHORS) for x in raw.logits], 1).float()  # (B, N, K)
        deltas = torch.cat([by_anchor(x, 4) for x in raw.deltas], 1).float()  # (B, N, 4)
        anchors = torch.cat(anchors_of(raw, self.strides))  # (N, 4)
        images = zip(logits, deltas, targets, strict=True)
        of_classes, of_boxes = zip(*(_losses(x, shifts, anchors, target) for x, shifts, target in images), strict=True)
        return {"class": torch.stack(of_classes).mean(), "box": torch.stack(of_boxes).mean()}

    @property
    def strides(self) -> tuple[float, ...]:
        """Strides of the levels, finest first: what the decoder needs to know of the network."""
        return tuple(level.stride for level in self.fpn.levels)


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
