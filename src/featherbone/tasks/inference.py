"""Options of prediction and evaluation: the score of objects, tiles, and several views of one image."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.data.bands import AnyImage
from featherbone.data.frames import Frame, scale_image
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption
from featherbone.ops.label_maps import label_map, upsample
from featherbone.ops.tiles import cut_windows
from featherbone.results import Record, SemanticMap
from featherbone.tasks.kind import Kind
from featherbone.tasks.tiling import decode_tiled

OVERLAP = 1 / 3
"""Share of a window that its neighbour covers."""


@dataclass(frozen=True)
class Inference:
    """How images are presented to a network, and which objects are returned."""

    score: float | None = None
    """Score above which objects are returned; None for the default of the run."""
    tile: int | None = None
    """Side in pixels of tiles in which objects are found, in addition to the whole image."""
    overlap: float = 0.2
    """Share of a tile that its neighbour covers."""
    slide: bool = False
    """Scale the image to cover the input instead of fitting in it, and average windows of the input's size."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on the size of the image; class probabilities are averaged over them."""
    mirror: bool = False
    """Also average over the mirrored image."""

    def __post_init__(self) -> None:
        if not isinstance(self.scales, Iterable) or not all(isinstance(scale, int | float) for scale in self.scales):
            raise BadOption(
                f"scales {self.scales!r} are not numbers; give a tuple of factors, such as (0.75, 1.0, 1.25)"
            )
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or not all(0.1 <= scale <= 8 for scale in self.scales):
            raise BadOption(f"scales {self.scales}: give factors from 0.1 to 8")
        if self.score is not None and not (isinstance(self.score, int | float) and 0 <= self.score <= 1):
            raise BadOption(f"score {self.score!r} is not a number from 0 to 1; 0.5 is usual")
        if self.tile is not None and self.tile < 32:
            raise BadOption(
                f"tiles of {self.tile} pixels are too small; pass 32 or more, ideally the input size of the run"
            )
        if self.tile is not None and not 0 <= self.overlap <= 0.9:
            raise BadOption(f"overlap {self.overlap} is outside 0 to 0.9")

    @property
    def given(self) -> list[str]:
        """Names of the options that differ from their defaults."""
        usual = Inference()
        names = ("score", "tile", "slide", "scales", "mirror")
        return [name for name in names if getattr(self, name) != getattr(usual, name)]

    def require(self, kind: Kind) -> None:
        """Raise `BadOption` for an option without effect for a task."""
        for name in self.given:
            if name not in kind.inference:
                raise BadOption(f"{name} has no effect for {kind.name}; omit it")

    @property
    def is_plain(self) -> bool:
        """Whether the network is run once on the whole image, as in training and in exported files."""
        return not set(self.given) - {"score"}

    def record(
        self, task: Any, preprocessing: Preprocessing, image: AnyImage, device: torch.device, score: float | None
    ) -> Record:
        """The record of an image from its tiles, or from several views."""
        if self.tile is not None:
            return decode_tiled(task, preprocessing, image, self.tile, self.overlap, device, score)
        return average_views(task, preprocessing, image, self, device)


@torch.inference_mode()
def average_views(
    task: Any, preprocessing: Preprocessing, image: AnyImage, views: Inference, device: torch.device
) -> SemanticMap:
    """The record of an image, from class probabilities averaged over its scales, windows and mirrored form."""
    p = preprocessing
    if p.rule == "sides":
        raise BadOption(f"{' and '.join(views.given)}: this run's inputs have no single size; omit it")
    ratios = p.height / image.height, p.width / image.width
    size = max(ratios) if views.slide else min(ratios)
    total: Tensor | None = None
    base = (1, 1)
    for scale in views.scales:
        height, width = (max(round(side * size * scale), 1) for side in (image.height, image.width))
        frame = Frame(image.height, image.width, height, width, height, width)
        pixels = p.normalise(scale_image(image, frame, p.interpolation)).to(device)
        for view in (pixels, pixels.flip(-1)) if views.mirror else (pixels,):
            shares = _slide(task, view, p) if views.slide else _whole(task, view, p, scale)
            shares = shares.flip(-1) if view is not pixels else shares
            if total is None:
                total, base = shares, (height, width)
            else:
                total = total + upsample(shares[None], base)[0]
    assert total is not None, "there is at least one scale"
    return SemanticMap(label_map(total, base, base, (image.height, image.width)).cpu().numpy(), task.classes)


def _whole(task: Any, pixels: Tensor, preprocessing: Preprocessing, scale: float) -> Tensor:
    """Probabilities (K, h, w) of an image (C, h, w) on a canvas `scale` times the size of the input."""
    height, width = (max(round(side * scale), 32) for side in (preprocessing.height, preprocessing.width))
    return _probabilities(task, pixels, replace(preprocessing, height=height, width=width))


def _slide(task: Any, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Probabilities (K, h, w) of an image (C, h, w) from windows of the input's size, averaged where they overlap."""
    p = preprocessing
    h, w = pixels.shape[-2:]
    total, count = pixels.new_zeros(len(task.classes), h, w), pixels.new_zeros(h, w)
    for x1, y1, x2, y2 in cut_windows(h, w, (p.height, p.width), OVERLAP):
        total[:, y1:y2, x1:x2] += _probabilities(task, pixels[:, y1:y2, x1:x2], p)
        count[y1:y2, x1:x2] += 1
    return total / count


def _probabilities(task: Any, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Probabilities (K, h, w) of an image (C, h, w) no larger than the input."""
    h, w = pixels.shape[-2:]
    p = preprocessing
    logits = task(F.pad(pixels, (0, p.width - w, 0, p.height - h))[None])
    return upsample(logits.float(), (p.height, p.width))[0, :, :h, :w].softmax(0)
