"""A light one-stage detector without anchors and without NMS, for any backbone.

As in GFL (arXiv 2006.04388) a score states the quality of its box, and a side of a box is a distribution. Cells are
assigned to objects as in TOOD (arXiv 2108.07755), twice, as in DeFCN (arXiv 2012.03544) and YOLOv10 (arXiv 2405.14458):
many cells per object supervise classes and boxes, and one cell per object supervises a selection, which lowers the
scores of all others as in PSS (arXiv 2101.11782). So the highest scores are the objects. The selection starts from the
difference of a score to the highest of its neighbours, which makes it effective after a few hundred steps. The
combination, the neck and the widths are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import generalized_box_iou_loss

from featherbone.heads.box_decoder import check_strides, first_image, picked_objects
from featherbone.heads.levels import Level, Levels
from featherbone.heads.task_aligned import (
    Assignment,
    Cells,
    assign,
    distribution_focal_loss,
    quality_focal_loss,
    weighted_mean,
)
from featherbone.ops.boxes import FOUND, Found, Picked, Target, clip_boxes

NUM_LEVELS = 3
NUM_BINS = 16
"""Bins of the distribution of a distance: 0 to 15 strides."""
START = 2.5
"""Mean of the initial distributions, in strides, if they had no last bin."""
MANY = 13
"""Cells per object of the one-to-many assignment, as in TOOD."""
PRIOR = 0.01
"""Initial score of every class of every cell."""
SLOPE = 12.0
"""Initial factor of the difference to the highest neighbour."""
BOX_WEIGHT, BINS_WEIGHT = 2.0, 0.5


class CellRaw(NamedTuple):
    """Raw maps in evaluation, one per level, finest first."""

    logits: tuple[Tensor, ...]
    """Logits of the classes, after the selection (B, K, h, w)."""
    distances: tuple[Tensor, ...]
    """From the centre of a cell to the left, top, right and bottom side of its box, in strides (B, 4, h, w)."""


class TrainingRaw(NamedTuple):
    """Raw maps in training, one per level, finest first."""

    logits: tuple[Tensor, ...]
    """Logits of the classes, after the selection (B, K, h, w)."""
    many: tuple[Tensor, ...]
    """The same before the selection."""
    bins: tuple[Tensor, ...]
    """Logits of the bins of each distance (B, 4 * NUM_BINS, h, w)."""


class Matches(NamedTuple):
    """The two assignments of one image."""

    one: Assignment
    many: Assignment
    """In evaluation the same as `one`."""


@dataclass(frozen=True)
class NMSFreeDecoder:
    """The `limit` highest scores of all cells and classes, with their boxes."""

    raw: ClassVar[Any] = CellRaw

    strides: tuple[float, ...]
    """Strides of the levels, finest first."""
    score: float = 0.05
    limit: int = 100

    def __post_init__(self) -> None:
        check_strides(self.strides, NUM_LEVELS)

    def __call__(self, raw: Any, sizes: Tensor, score: float | None = None) -> list[Found]:
        return picked_objects(self.objects(raw, sizes), self.score if score is None else score)

    def tensors(self, raw: Any, sizes: Tensor) -> dict[str, Tensor]:
        return first_image(self.objects(raw, sizes))

    def objects(self, raw: Any, sizes: Tensor) -> Any:
        """The objects of all images, of any score, as `Picked` or, with masks, `MaskRaw`."""
        return self.best(raw, sizes)[0]

    def best(self, raw: Any, sizes: Tensor) -> tuple[Picked, Tensor]:
        """The objects, and the indices of their cells (B, limit)."""
        logits, distances = by_cell(raw.logits), by_cell(raw.distances)  # (B, N, K), (B, N, 4)
        num_classes = logits.shape[2]
        values, index = logits.flatten(1).topk(min(self.limit, logits[0].numel()))
        cells = index // num_classes
        boxes = Cells.of(raw.logits, self.strides).boxes(take(distances, cells), cells)
        return Picked(clip_boxes(boxes, sizes), values.sigmoid(), index % num_classes), cells

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "nms_free",
            "strides": list(self.strides),
            "outputs": {
                "logits_{level}": "(B, class, row, column)",
                "distances_{level}": "(B, side, row, column)",
            },
            "formulas": {
                "score": "sigmoid(logit)",
                "x1": "(column + 0.5 - distance[0]) * stride",
                "y1": "(row + 0.5 - distance[1]) * stride",
                "x2": "(column + 0.5 + distance[2]) * stride",
                "y2": "(row + 0.5 + distance[3]) * stride",
            },
            "clip": {"x": "0 to inner_width", "y": "0 to inner_height"},
            "score": self.score,
            "limit": self.limit,
            **FOUND,
        }


class NMSFree(nn.Module):
    """Objects of `num_classes` classes, from a pyramid of any strides.

    A neck of `dim` channels at strides 8 to 32, and on it three towers of `num_convs` depth-wise separable
    convolutions for classes, boxes and the selection, shared by the levels except for their norms.
    """

    image_size: ClassVar[int] = 320
    decoder: ClassVar[type[NMSFreeDecoder]] = NMSFreeDecoder
    defaults: ClassVar[Mapping[str, Any]] = {"head_lr": 4.0}
    """Settings of training whose defaults differ for this head."""

    def __init__(self, pyramid: Sequence[Level], num_classes: int, dim: int = 96, num_convs: int = 2) -> None:
        super().__init__()
        self.neck = Neck(pyramid, dim)
        ratio = log(START / (1 + START))  # of a geometric distribution with that mean
        self.classes = self.tower(dim, num_convs, [-log((1 - PRIOR) / PRIOR)] * num_classes)
        self.boxes = self.tower(dim, num_convs, [ratio * i for i in range(NUM_BINS)] * 4)
        self.selection = self.tower(dim, num_convs, [0.0] * num_classes)
        self.slope = nn.Parameter(torch.tensor(SLOPE))

    def tower(self, dim: int, num_convs: int, bias: Sequence[float]) -> "Tower":
        return Tower(dim, num_convs, len(self.neck.levels), bias)

    def forward(self, maps: Sequence[Tensor], sizes: Tensor) -> Any:
        """Maps (B, C, h, w) of the pyramid to `TrainingRaw` or, in evaluation, `CellRaw`; `sizes` are not used."""
        return self.predict(self.neck(maps))

    def predict(self, levels: Sequence[Tensor]) -> TrainingRaw | CellRaw:
        """The same from the maps of the neck."""
        many, bins = self.classes(levels), self.boxes(levels)
        if not self.training:
            return CellRaw(self.select(many, levels), tuple(mean_distances(x) for x in bins))
        fixed, given = ([x.detach() for x in maps] for maps in (many, levels))  # it does not train what it selects from
        return TrainingRaw(self.select(fixed, given), many, bins)

    def select(self, logits: Sequence[Tensor], levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Logits (B, K, h, w) of which one cell per object keeps its value."""
        parts = zip(logits, self.selection(levels), neighbours(logits), strict=True)
        return tuple(x + change - self.slope * (highest - x) for x, change, highest in parts)

    def losses(self, raw: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Quality focal loss of the classes after the selection (`class`) and before it (`many`), GIoU loss of the
        boxes and distribution focal loss of their sides (`bins`).

        Each is a weighted mean over the cells of an image (see `quality_focal_loss`); then the mean over the images.
        Without `many` and `bins` for the raw tensors of evaluation.
        """
        return self.terms(raw, targets, self.match(raw, targets))

    def match(self, raw: TrainingRaw | CellRaw, targets: Sequence[Target]) -> list[Matches]:
        """Assign cells to the objects of each image."""
        cells = Cells.of(raw.logits, self.strides)
        boxes, one = self.all_boxes(raw, cells), by_cell(raw.logits).sigmoid()
        many = by_cell(raw.many).sigmoid() if isinstance(raw, TrainingRaw) else None
        matches = []
        for i, target in enumerate(targets):
            first = assign(one[i], boxes[i], cells.points, target, 1)
            second = first if many is None else assign(many[i], boxes[i], cells.points, target, MANY)
            matches.append(Matches(first, second))
        return matches

    def terms(self, raw: Any, targets: Sequence[Target], matches: Sequence[Matches]) -> dict[str, Tensor]:
        """The losses of cells that are already assigned."""
        training = isinstance(raw, TrainingRaw)
        cells = Cells.of(raw.logits, self.strides)
        boxes = self.all_boxes(raw, cells)
        branches = {"class": by_cell(raw.logits), **({"many": by_cell(raw.many)} if training else {})}
        bins = by_cell(raw.bins) if training else None
        found: list[dict[str, Tensor]] = []
        for i, (target, (one, many)) in enumerate(zip(targets, matches, strict=True)):
            pairs = zip(branches.items(), (one, many), strict=False)
            terms = {name: quality_focal_loss(x[i], target.labels, to) for (name, x), to in pairs}
            wanted = target.boxes[many.objects]
            overlap = generalized_box_iou_loss(boxes[i, many.cells], wanted)
            terms["box"] = BOX_WEIGHT * weighted_mean(overlap, many.weight)
            if bins is not None:
                sides = bins[i, many.cells].unflatten(1, (4, NUM_BINS))
                loss = distribution_focal_loss(sides, cells.distances(wanted, many.cells)).mean(1)
                terms["bins"] = BINS_WEIGHT * weighted_mean(loss, many.weight)
            found.append(terms)
        return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}

    def all_boxes(self, raw: TrainingRaw | CellRaw, cells: Cells) -> Tensor:
        """The box of every cell (B, N, 4)."""
        maps = [mean_distances(x) for x in raw.bins] if isinstance(raw, TrainingRaw) else raw.distances
        distances = by_cell(maps)
        return cells.boxes(distances, torch.arange(distances.shape[1], device=distances.device))

    @property
    def strides(self) -> tuple[float, ...]:
        """Strides of the levels, finest first: what the decoder needs to know of the network."""
        return tuple(level.stride for level in self.neck.levels)


class Neck(nn.Module):
    """Maps of strides 8 to 32, `dim` channels wide, fused top-down and then bottom-up (PANet, arXiv 1803.01534)."""

    def __init__(self, pyramid: Sequence[Level], dim: int) -> None:
        super().__init__()
        self.source = Levels(pyramid, first=3, last=5)
        self.levels = [Level(dim, level.stride) for level in self.source.levels]
        self.laterals = nn.ModuleList(lateral(level.channels, dim) for level in self.source.levels)
        self.down, self.coarser, self.up = (
            nn.ModuleList(Separable(dim, stride) for _ in self.levels[1:]) for stride in (1, 2, 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w) of the pyramid to maps (B, dim, h, w) of `levels`."""
        x = [lateral(x) for lateral, x in zip(self.laterals, self.source(maps), strict=True)]
        for i in reversed(range(len(x) - 1)):
            x[i] = self.down[i](x[i] + resize(x[i + 1], x[i]))
        for i in range(len(x) - 1):
            x[i + 1] = self.up[i](x[i + 1] + self.coarser[i](x[i]))
        return x


class Separable(nn.Module):
    """A 5x5 depth-wise and a 1x1 convolution, batch norm and ReLU; with a separate norm for each of `num_levels`."""

    def __init__(self, dim: int, stride: int = 1, num_levels: int = 1) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(dim, dim, 5, stride, 2, groups=dim, bias=False)
        self.channel = nn.Conv2d(dim, dim, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in range(num_levels))

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        return torch.relu(self.norms[level](self.channel(self.spatial(x))))


class FoldedSeparable(nn.Module):
    """The same with the norm of each level folded into a separate 1x1 convolution.

    ExecuTorch's XNNPACK partitioner folds norms itself, and uses the weights of the first level for all.
    """

    def __init__(self, source: Separable) -> None:
        super().__init__()
        self.spatial = source.spatial
        self.channels = nn.ModuleList(
            fuse_conv_bn_eval(source.channel, norm)  # type: ignore[arg-type]
            for norm in source.norms
        )

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        return torch.relu(self.channels[level](self.spatial(x)))


class Tower(nn.Module):
    """`num_convs` separable convolutions and a prediction with the initial `bias`, shared by all levels."""

    def __init__(self, dim: int, num_convs: int, num_levels: int, bias: Sequence[float]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(Separable(dim, num_levels=num_levels) for _ in range(num_convs))
        self.predict = nn.Conv2d(dim, len(bias), 1)
        nn.init.normal_(self.predict.weight, std=0.01)
        self.predict.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, dim, h, w) to maps (B, len(bias), h, w)."""
        return tuple(self._level(x, level) for level, x in enumerate(levels))

    def _level(self, x: Tensor, level: int) -> Tensor:
        for convolution in self.convolutions:
            x = convolution(x, level)
        return self.predict(x)


def lateral(channels: int, dim: int) -> nn.Sequential:
    """A 1x1 convolution with batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(channels, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU())


def neighbours(maps: Sequence[Tensor]) -> list[Tensor]:
    """The highest value of each cell's 3x3 neighbourhood and of the cells there on the two adjacent levels."""
    found = [F.max_pool2d(x, 3, 1, 1) for x in maps]
    highest = list(found)
    for i in range(len(maps) - 1):
        finer = F.max_pool2d(found[i], 2, 2, ceil_mode=True)
        highest[i + 1] = torch.maximum(highest[i + 1], resize(finer, maps[i + 1]))
        highest[i] = torch.maximum(highest[i], resize(maps[i + 1], maps[i]))
    return highest


def resize(x: Tensor, like: Tensor) -> Tensor:
    """A map at the size of another one, by its nearest cells."""
    return x if x.shape[-2:] == like.shape[-2:] else F.interpolate(x, size=like.shape[-2:], mode="nearest")


def mean_distances(bins: Tensor) -> Tensor:
    """Logits of bins (B, 4 * NUM_BINS, h, w) to the means of their distributions (B, 4, h, w), in strides."""
    b, _, h, w = bins.shape
    shares = bins.float().reshape(b, 4, NUM_BINS, h * w).softmax(2)
    values = torch.arange(NUM_BINS, device=bins.device, dtype=shares.dtype)
    return (shares * values[:, None]).sum(2).reshape(b, 4, h, w)


def by_cell(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, h, w) of all levels in the order of `Cells`: (B, N, C), float32."""
    return torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2).float()


def take(values: Tensor, cells: Tensor) -> Tensor:
    """The values (B, n, C) of cells (B, n), from those of all cells (B, N, C)."""
    return values.gather(1, cells[..., None].expand(-1, -1, values.shape[2]))
