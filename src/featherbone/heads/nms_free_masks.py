"""Instance and panoptic segmentation without NMS and RoIAlign: `NMSFree` with prototype masks.

As in YOLACT (arXiv 1904.02689) the mask of an object is a linear combination of maps that all objects of an image
share; its coefficients are predicted by the object's cell. Training and decoding read the combination on a grid over
the box. This replaces YOLACT's crop, and objects of all sizes have the same weight. The panoptic head predicts the
classes of stuff from the features of the prototypes. Neither is a published model; the combination is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.heads.levels import Level
from featherbone.heads.nms_free import (
    CellRaw,
    Matches,
    NMSFree,
    NMSFreeDecoder,
    Separable,
    TrainingRaw,
    by_cell,
    lateral,
    resize,
    take,
)
from featherbone.heads.pixels import PixelLoss
from featherbone.heads.roi import MaskRaw, crop_masks
from featherbone.heads.task_aligned import weighted_mean
from featherbone.ops.boxes import Target
from featherbone.ops.label_maps import PanopticTarget
from featherbone.ops.paste import PASTE

NUM_PROTOTYPES = 32
GRID = 56
"""Rows and columns of a mask over its box."""
MAX_MASKS = 64
"""Cells of an image whose masks are trained, those of the highest weight."""
MASK_WEIGHT = 2.0


class PrototypeRaw(NamedTuple):
    """Raw tensors of the instance head."""

    cells: TrainingRaw | CellRaw
    """The former in training."""
    coefficients: tuple[Tensor, ...]
    """Of the mask of each cell, one map per level (B, NUM_PROTOTYPES, h, w)."""
    prototypes: Tensor
    """(B, NUM_PROTOTYPES, h, w), at half of the finest level's stride."""


class PrototypePanopticRaw(NamedTuple):
    """Raw tensors of the panoptic head."""

    things: PrototypeRaw
    stuff: Tensor
    """Logits (B, 1 + S, h, w) at the prototypes' stride: of any thing, then of each class of stuff."""


@dataclass(frozen=True)
class PrototypeDecoder(NMSFreeDecoder):
    """The same with masks, as probabilities on a grid over each box."""

    raw: ClassVar[Any] = PrototypeRaw

    def objects(self, raw: PrototypeRaw, sizes: Tensor) -> MaskRaw:
        found, cells = self.best(raw.cells, sizes)
        coefficients = take(by_cell(raw.coefficients), cells)
        images = zip(coefficients, raw.prototypes.float(), found.boxes, strict=True)
        masks = [mask_logits(*image, self.strides[0] / 2).sigmoid() for image in images]
        return MaskRaw(*found, torch.stack(masks))

    def describe(self) -> dict[str, Any]:
        cells = super().describe()
        return {
            **cells,
            "kind": "prototypes",
            "outputs": {
                **{f"cells_{name}": axes for name, axes in cells["outputs"].items()},
                "coefficients_{level}": "(B, prototype, row, column)",
                "prototypes": "(B, prototype, row, column)",
            },
            "prototype_stride": self.strides[0] / 2,
            "grid": GRID,
            "grid_formulas": {
                "u": "(x1 + (i + 0.5) * (x2 - x1) / grid) / prototype_stride - 0.5",
                "v": "(y1 + (j + 0.5) * (y2 - y1) / grid) / prototype_stride - 0.5",
                "mask": "sigmoid(sum over prototypes p of coefficient[p] * prototype[p] at v, u)",
                "sampling": "bilinear, positions clamped to the first and last row and column",
            },
            **PASTE,
        }


def mask_logits(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, stride: float) -> Tensor:
    """Logits of masks on a grid over boxes (n, 4), in pixels: (n, GRID, GRID).

    From coefficients (n, P) and prototypes (P, h, w) of `stride`, read bilinearly; positions outside are clamped.
    """
    height, width = prototypes.shape[1:]
    maps = (coefficients @ prototypes.flatten(1)).reshape(-1, 1, height, width)
    places = (torch.arange(GRID, device=boxes.device, dtype=boxes.dtype) + 0.5) / GRID
    x = boxes[:, :1] + places * (boxes[:, 2:3] - boxes[:, :1])  # (n, GRID)
    y = boxes[:, 1:2] + places * (boxes[:, 3:] - boxes[:, 1:2])
    u, v = 2 * x / (stride * width) - 1, 2 * y / (stride * height) - 1
    grid = torch.stack((u[:, None].expand(-1, GRID, -1), v[:, :, None].expand(-1, -1, GRID)), -1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[:, 0]


class PrototypeMasks(NMSFree):
    """Objects of `num_classes` classes and their masks, from a pyramid of any strides.

    `NMSFree` with a fourth tower for the coefficients. The prototypes have features of `mask_dim` channels at half of
    the finest level's stride, from the neck and the backbone's map of stride 4, if it has one.
    """

    decoder: ClassVar[type[PrototypeDecoder]] = PrototypeDecoder

    def __init__(
        self, pyramid: Sequence[Level], num_classes: int, dim: int = 96, num_convs: int = 2, mask_dim: int = 64
    ) -> None:
        super().__init__(pyramid, num_classes, dim, num_convs)
        self.coefficients = self.tower(dim, num_convs, [0.0] * NUM_PROTOTYPES)
        self.features = MaskFeatures(pyramid, dim, mask_dim)
        self.prototypes = nn.Conv2d(mask_dim, NUM_PROTOTYPES, 1)

    def forward(self, maps: Sequence[Tensor], sizes: Tensor) -> PrototypeRaw:
        """Maps (B, C, h, w) of the pyramid to raw tensors; `sizes` are not used."""
        return self.read(maps)[0]

    def read(self, maps: Sequence[Tensor]) -> tuple[PrototypeRaw, Tensor]:
        """The same, and the features of the prototypes (B, mask_dim, h, w)."""
        levels = self.neck(maps)
        features = self.features(maps, levels)
        cells, coefficients = self.predict(levels), self.coefficients(levels)
        return PrototypeRaw(cells, coefficients, self.prototypes(features)), features

    def losses(self, raw: PrototypeRaw, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of `NMSFree`, and of the masks cross-entropy and Dice loss (arXiv 1606.04797) of equal weights."""
        matches = self.match(raw.cells, targets)
        coefficients, prototypes = by_cell(raw.coefficients), raw.prototypes.float()
        images = zip(coefficients, prototypes, targets, matches, strict=True)
        masks = torch.stack([self._mask_loss(*image) for image in images]).mean()
        return {**self.terms(raw.cells, targets, matches), "mask": MASK_WEIGHT * masks}

    def _mask_loss(self, coefficients: Tensor, prototypes: Tensor, target: Target, matches: Matches) -> Tensor:
        """The loss of one image's masks, from coefficients (N, P) and prototypes (P, h, w)."""
        _, many = matches
        weight, best = many.weight.topk(min(MAX_MASKS, len(many.weight)))
        objects = many.objects[best]
        boxes = target.boxes[objects]
        logits = mask_logits(coefficients[many.cells[best]], prototypes, boxes, self.strides[0] / 2)
        shapes = crop_masks(target, torch.arange(len(target.boxes), device=boxes.device), target.boxes, GRID)[objects]
        entropy = F.binary_cross_entropy_with_logits(logits, shapes, reduction="none").mean((1, 2))
        scores = logits.sigmoid()
        shared = (scores * shapes).sum((1, 2))
        dice = 1 - (2 * shared + 1) / ((scores**2).sum((1, 2)) + (shapes**2).sum((1, 2)) + 1)
        return weighted_mean(entropy + dice, weight)


class PrototypePanoptic(nn.Module):
    """Things and stuff from a pyramid of any strides.

    `PrototypeMasks` of `num_things` classes, with its widths, and a 1x1 convolution on the features of the prototypes
    for `num_stuff` classes and all things as one.
    """

    image_size: ClassVar[int] = 320
    raw: ClassVar[Any] = PrototypePanopticRaw
    defaults: ClassVar[Mapping[str, Any]] = NMSFree.defaults

    def __init__(
        self,
        pyramid: Sequence[Level],
        num_things: int,
        num_stuff: int,
        dim: int = 96,
        num_convs: int = 2,
        mask_dim: int = 64,
    ) -> None:
        super().__init__()
        self.things = PrototypeMasks(pyramid, num_things, dim, num_convs, mask_dim)
        self.stuff = nn.Conv2d(mask_dim, 1 + num_stuff, 1)

    @staticmethod
    def things_decoder(strides: Sequence[float]) -> PrototypeDecoder:
        """The decoder of the things; `strides` are those of the levels."""
        return PrototypeDecoder(tuple(strides))

    def forward(self, maps: Sequence[Tensor], sizes: Tensor) -> PrototypePanopticRaw:
        """Maps (B, C, h, w) of the pyramid to raw tensors; `sizes` are not used."""
        things, features = self.things.read(maps)
        return PrototypePanopticRaw(things, self.stuff(features))

    def losses(self, raw: PrototypePanopticRaw, targets: Sequence[PanopticTarget]) -> dict[str, Tensor]:
        """The losses of `PrototypeMasks`, and cross-entropy of the classes of stuff."""
        terms = self.things.losses(raw.things, [target.things for target in targets])
        return terms | {"stuff": PixelLoss()(raw.stuff, [target.stuff for target in targets])["pixel"]}

    @property
    def strides(self) -> tuple[float, ...]:
        """Strides of the levels of the things, finest first."""
        return self.things.strides


class MaskFeatures(nn.Module):
    """Features (B, mask_dim, h, w) at half of the stride of the neck's finest level."""

    def __init__(self, pyramid: Sequence[Level], dim: int, mask_dim: int) -> None:
        super().__init__()
        self.coarse = lateral(dim, mask_dim)
        self.fine = lateral(pyramid[0].channels, mask_dim) if pyramid[0].octave == 2 else None
        self.convolutions = nn.Sequential(Separable(mask_dim), Separable(mask_dim))

    def forward(self, maps: Sequence[Tensor], levels: Sequence[Tensor]) -> Tensor:
        """From the maps of the pyramid and of the neck (B, C, h, w)."""
        x = F.interpolate(self.coarse(levels[0]), scale_factor=2, mode="nearest")
        if self.fine is not None:
            x = x + resize(self.fine(maps[0]), x)
        return self.convolutions(x)
