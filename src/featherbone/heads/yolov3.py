"""YOLOv3 (arXiv 1804.02767), light: the anchors in the cell of an object's centre predict its class and box.

The neck and heads are `dim` wide at every level, 96 in XFormer (a reconstruction), where YOLOv3 itself has 256, 512 and
1024. As in the paper an object is matched to its best anchor of all levels; here also to anchors of that cell with an
IoU above one half.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, box_iou

from featherbone.heads.anchors import IGNORED, NEGATIVE, by_anchor, grid_anchors
from featherbone.heads.box_decoder import BoxDecoder, Candidates
from featherbone.heads.levels import Level, Levels
from featherbone.ops.boxes import WIDEST, Target

ANCHORS = {
    320: ((10, 15), (24, 36), (72, 42), (35, 87), (102, 96), (60, 170), (220, 125), (128, 222), (264, 266)),
    416: ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)),
}
"""Width and height of the anchors by the side of the input, in its pixels, for objects as in COCO."""
NUM_LEVELS = 3
NUM_ANCHORS = 3
"""Anchors of a cell; the finest level has the smallest."""
OVERLAP = 0.5
"""IoU above which an anchor is matched to an object."""
OBJECTNESS = 0.005
"""Minimum objectness of a candidate."""
PRIOR = 0.01
"""Initial objectness, and score of every class, of every anchor."""


class YoloRaw(NamedTuple):
    """Raw maps."""

    maps: tuple[Tensor, ...]
    """One a level (B, 3 * (5 + K), h, w), strides 8 to 32. Channels are those of the smallest anchor, then the next: x
    and y of the centre in the cell, as logits; logarithms of width and height in those of the anchor; logits of
    objectness, and of the classes."""


@dataclass(frozen=True)
class YoloDecoder(BoxDecoder):
    """Objects from YOLOv3's raw maps; the score is the product of objectness and class.

    `anchors` are nine pairs of width and height in pixels of the input, by default those for inputs of `anchor_size`,
    320 or 416; the largest three are at stride 32.
    """

    raw: ClassVar[Any] = YoloRaw
    num_levels = NUM_LEVELS

    nms: float = 0.45
    anchors: Sequence[Sequence[float]] | None = None
    anchor_size: int = 320

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "anchors", usual_anchors(self.anchors, self.anchor_size))

    def describe(self) -> dict[str, Any]:
        assert self.anchors is not None, "set above"
        return {
            "kind": "yolov3",
            "anchors": [self.anchors[NUM_ANCHORS * i : NUM_ANCHORS * (i + 1)] for i in range(NUM_LEVELS)],
            "outputs": {"maps_{level}": "(B, anchor * (x, y, w, h, objectness, classes), row, column)"},
            "anchor_form": "w h",
            "anchor_origin": "cell_centre",
            "formulas": {
                "score": "sigmoid(objectness) * sigmoid(class) if sigmoid(objectness) > objectness_limit else 0",
                "cx": "(column + sigmoid(x)) * stride",
                "cy": "(row + sigmoid(y)) * stride",
                "w": "anchor_w * exp(min(w, widest))",
                "h": "anchor_h * exp(min(h, widest))",
            },
            "objectness": OBJECTNESS,
            "widest": WIDEST,
            **self.rules(),
        }

    def levels(self, raw: YoloRaw) -> list[Candidates]:
        assert self.anchors is not None, "set above"
        anchors, strides = grid(raw, self.anchors, self.strides)
        counts = [x.shape[2] * x.shape[3] * NUM_ANCHORS for x in raw.maps]
        levels = zip(raw.maps, anchors.split(counts), strides.split(counts), strict=True)
        return [self._level(*level) for level in levels]

    def _level(self, maps: Tensor, anchors: Tensor, strides: Tensor) -> Candidates:
        answers = by_anchor(maps, maps.shape[1] // NUM_ANCHORS).float()
        objectness, classes = answers[..., 4:5].sigmoid(), answers[..., 5:].sigmoid()
        scores = (objectness * classes).where(objectness > OBJECTNESS, 0).flatten(1)
        values, index = scores.topk(min(self.candidates, scores.shape[1]))
        num_classes = classes.shape[2]
        chosen = index // num_classes
        shifts = answers[..., :4].gather(1, chosen[..., None].expand(-1, -1, 4))
        shifts = torch.cat((shifts[..., :2].sigmoid(), shifts[..., 2:]), -1)
        return decode(shifts, anchors[chosen], strides[chosen]), index % num_classes, values


def grid(raw: YoloRaw, anchors: Sequence[Sequence[float]], strides: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The anchors of all levels, cell by cell, as boxes centred in their cells (N, 4), and their strides (N,)."""
    boxes, steps = [], []
    for i, (maps, stride) in enumerate(zip(raw.maps, strides, strict=True)):
        sizes = torch.tensor(anchors[NUM_ANCHORS * i : NUM_ANCHORS * (i + 1)], device=maps.device)
        base = torch.cat((stride - sizes, stride + sizes), 1) / 2  # in the first cell
        boxes.append(grid_anchors(base, maps.shape[2], maps.shape[3], stride))
        steps.append(boxes[-1].new_full((len(boxes[-1]),), stride))
    return torch.cat(boxes), torch.cat(steps)


class YOLOv3(nn.Module):
    """Objects of `num_classes` classes, from a pyramid of any strides.

    `anchors` and `anchor_size` are those of `YoloDecoder`.
    """

    image_size: ClassVar[int] = 320
    decoder: ClassVar[type[YoloDecoder]] = YoloDecoder

    def __init__(
        self,
        pyramid: Sequence[Level],
        num_classes: int,
        dim: int = 96,
        anchors: Sequence[Sequence[float]] | None = None,
        anchor_size: int = 320,
    ) -> None:
        super().__init__()
        self.anchors = usual_anchors(anchors, anchor_size)
        self.levels = Levels(pyramid, first=3, last=5)
        self.blocks, self.laterals, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in self.levels.levels:
            last = level is self.levels.levels[-1]
            self.blocks.append(_block(level.channels + (0 if last else dim), dim))
            self.heads.append(_head(dim, num_classes))
            if not last:
                self.laterals.append(_convolution(dim, dim, 1))

    def forward(self, maps: Sequence[Tensor], sizes: Tensor) -> YoloRaw:
        """Maps (B, C, h, w) of the pyramid to raw maps; the images' `sizes` are not used."""
        maps = self.levels(maps)
        x = self.blocks[-1](maps[-1])
        raw = [self.heads[-1](x)]
        for i in reversed(range(len(maps) - 1)):
            x = F.interpolate(self.laterals[i](x), size=maps[i].shape[-2:], mode="nearest")
            x = self.blocks[i](torch.cat((x, maps[i]), 1))
            raw.insert(0, self.heads[i](x))
        return YoloRaw(tuple(raw))

    def losses(self, raw: YoloRaw, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Binary cross-entropy of class, objectness and centre, squared error of the size: sums, then the mean image's.

        Positive anchors (see `assign`) have losses of class, centre and size; positive and negative ones of objectness.
        """
        answers = torch.cat([by_anchor(x, x.shape[1] // NUM_ANCHORS) for x in raw.maps], 1).float()  # (B, N, 5 + K)
        shapes = [(*x.shape[2:], level.stride) for x, level in zip(raw.maps, self.levels.levels, strict=True)]
        anchors, strides = grid(raw, self.anchors, self.strides)
        images = []
        for answer, target in zip(answers, targets, strict=True):
            matched = assign(target.boxes, anchors, cells_of(target.boxes, shapes))
            images.append(_errors(answer, target, matched, anchors, strides))
        of_class, of_object, of_centre, of_size = torch.stack(images).mean(0).unbind()
        return {"class": of_class, "object": of_object, "centre": 2 * of_centre, "size": 2 * of_size}

    @property
    def strides(self) -> tuple[float, ...]:
        """Strides of the levels, finest first: what the decoder needs to know of the network."""
        return tuple(level.stride for level in self.levels.levels)


def cells_of(boxes: Tensor, shapes: Sequence[tuple[int, int, float]]) -> Tensor:
    """The anchors in whose cells the centres of boxes (n, 4) are: indices (n, 3 * levels), finest level first.

    `shapes` are height, width and stride of the levels. A centre beyond a map's border belongs to its last cell.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    anchors = torch.arange(NUM_ANCHORS, device=boxes.device)
    found, start = [], 0
    for height, width, stride in shapes:
        column, row = (centres / stride).long().unbind(1)
        cell = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        found.append(start + cell[:, None] * NUM_ANCHORS + anchors)
        start += height * width * NUM_ANCHORS
    return torch.cat(found, 1)


def assign(boxes: Tensor, anchors: Tensor, cells: Tensor) -> Tensor:
    """For each anchor (N, 4) the index of its object (n, 4), `NEGATIVE`, or `IGNORED`: int64 (N,).

    IoU is that of the box at its position and the anchor centred in its cell, not of the two at one position. Of the
    anchors in an object's `cells` (n, m), those with an IoU above `OVERLAP` and the first one with the highest IoU are
    matched to it; an anchor of several objects to the first one with the highest IoU. Others are negative where no
    object has an IoU above `OVERLAP`, else ignored.
    """
    if not len(boxes):
        return cells.new_full((len(anchors),), NEGATIVE)
    iou = box_iou(boxes, anchors)  # (n, N)
    near = iou.gather(1, cells)
    claimed = (near > OVERLAP).scatter(1, near.argmax(1, keepdim=True), True)
    claims = torch.full_like(iou, -1).scatter(1, cells, near.where(claimed, -1))
    overlap, index = claims.max(0)
    return torch.where(overlap >= 0, index, torch.where((iou > OVERLAP).any(0), IGNORED, NEGATIVE))


def encode(boxes: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Boxes (..., 4) as seen from anchors (..., 4) in cells of `strides` (...): x, y, log width, log height (..., 4).

    x and y are the centre's in the cell, from 0 to 1; width and height are in those of the anchor.
    """
    x, a = box_convert(boxes, "xyxy", "cxcywh"), box_convert(anchors, "xyxy", "cxcywh")
    offset = (x[..., :2] - a[..., :2]) / strides[..., None] + 0.5
    return torch.cat((offset.clamp(0, 1), torch.log(x[..., 2:] / a[..., 2:])), -1)


def decode(shifts: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """The inverse of `encode`; a side grows at most `exp(WIDEST)` times."""
    a = box_convert(anchors, "xyxy", "cxcywh")
    centre = a[..., :2] + (shifts[..., :2] - 0.5) * strides[..., None]
    size = a[..., 2:] * torch.exp(shifts[..., 2:].clamp(max=WIDEST))
    return box_convert(torch.cat((centre, size), -1), "cxcywh", "xyxy")


def _errors(answers: Tensor, target: Target, matched: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Class, objectness, centre and size error (4,) of one image, from its predictions (N, 5 + K) and `assign`."""
    positive = (matched >= 0).nonzero()[:, 0]
    objects = matched[positive]
    chosen = answers[positive]
    wanted = encode(target.boxes[objects], anchors[positive], strides[positive])
    classes = F.one_hot(target.labels[objects], answers.shape[1] - 5).to(answers)
    entropy = F.binary_cross_entropy_with_logits
    objectness = entropy(answers[:, 4], (matched >= 0).to(answers), reduction="none") * (matched != IGNORED)
    of_class = entropy(chosen[:, 5:], classes, reduction="sum")
    of_centre = entropy(chosen[:, :2], wanted[:, :2], reduction="sum")
    of_size = F.mse_loss(chosen[:, 2:4], wanted[:, 2:], reduction="sum")
    return torch.stack((of_class, objectness.sum(), of_centre, of_size))


def usual_anchors(anchors: Iterable[Any] | None, anchor_size: int) -> list[tuple[float, float]]:
    """Nine anchors by area: those given, or the published ones for inputs of `anchor_size`. Raises `ValueError`."""
    if anchor_size not in ANCHORS:
        raise ValueError(f"no anchors are known for inputs of {anchor_size!r}, only of 320 and 416; give `anchors`")
    anchors = ANCHORS[anchor_size] if anchors is None else anchors
    try:
        pairs = [(float(width), float(height)) for width, height in anchors]
    except (TypeError, ValueError):
        pairs = []
    if len(pairs) != 3 * NUM_ANCHORS or not all(0 < side < inf for pair in pairs for side in pair):
        raise ValueError(
            f"anchors {anchors!r}: give nine pairs of width and height in pixels of the input, as in "
            "[[10,15],[24,36],[72,42],...], or omit them"
        )
    return sorted(pairs, key=lambda pair: pair[0] * pair[1])


def _convolution(channels: int, dim: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, dim, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(dim), nn.LeakyReLU(0.1))


def _block(channels: int, dim: int) -> nn.Sequential:
    """Five convolutions that compare places (3x3, twice `dim`) and squeeze channels (1x1) by turns."""
    widths = (channels, dim, 2 * dim, dim, 2 * dim, dim)
    return nn.Sequential(*(_convolution(widths[i], widths[i + 1], 3 if i % 2 else 1) for i in range(5)))


def _head(dim: int, num_classes: int) -> nn.Sequential:
    """A 3x3 convolution and the answers, whose objectness and classes start from `PRIOR`."""
    answer = nn.Conv2d(dim, NUM_ANCHORS * (5 + num_classes), 1)
    nn.init.normal_(answer.weight, std=0.01)
    start = [0.0] * 4 + [-log((1 - PRIOR) / PRIOR)] * (1 + num_classes)
    answer.bias = nn.Parameter(torch.tensor(start * NUM_ANCHORS))
    return nn.Sequential(_convolution(dim, dim, 3), answer)
