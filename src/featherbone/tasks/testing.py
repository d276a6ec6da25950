"""Semantic segmentation of one image by more than one look: windows of a larger picture, several sizes, mirrored."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from timm.data import str_to_pil_interp
from torch import Tensor
from torch.nn import functional as F

from featherbone.data.frames import Frame, lay
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption
from featherbone.ops.label_maps import label_map, upsample
from featherbone.ops.tiles import cut_windows
from featherbone.results import SemanticMap

OVERLAP = 1 / 3
"""Share of a window that its neighbour covers, too."""


@dataclass(frozen=True)
class Testing:
    """How an image is looked at; probabilities of all looks are averaged."""

    slide: bool = False
    """The picture covers the input instead of fitting in it, and is seen in windows of the input's size."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of the picture, in sizes of the one that fits in, or covers, the input."""
    mirror: bool = False
    """Also see it mirrored."""

    __test__ = False  # no test of pytest's

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 8 for scale in self.scales):
            raise BadOption(f"scales {self.scales}: give factors from 0.1 to 8")

    @property
    def plain(self) -> bool:
        """Whether it is one look at the whole, as the network is trained and exported."""
        return self == Testing()


@torch.inference_mode()
def decode_tested(
    task: Any, preprocessing: Preprocessing, image: Image.Image, testing: Testing, device: torch.device
) -> SemanticMap:
    """The record of an RGB image."""
    p = preprocessing
    ratios = p.height / image.height, p.width / image.width
    size = max(ratios) if testing.slide else min(ratios)
    total: Tensor | None = None
    base = (1, 1)
    for scale in testing.scales:
        height, width = (max(round(side * size * scale), 1) for side in (image.height, image.width))
        frame = Frame(image.height, image.width, height, width, height, width)
        pixels = p.normalise(lay(image, frame, str_to_pil_interp(p.interpolation))).to(device)
        for view in (pixels, pixels.flip(-1)) if testing.mirror else (pixels,):
            seen = _slide(task, view, p) if testing.slide else _whole(task, view, p, scale)
            seen = seen.flip(-1) if view is not pixels else seen
            if total is None:
                total, base = seen, (height, width)
            else:
                total = total + upsample(seen[None], base)[0]
    assert total is not None, "there is a scale"
    return SemanticMap(label_map(total, base, base, (image.height, image.width)).cpu().numpy(), task.classes)


def _whole(task: Any, pixels: Tensor, preprocessing: Preprocessing, scale: float) -> Tensor:
    """Probabilities (K, h, w) of a picture (3, h, w) on a canvas `scale` times the input's size."""
    height, width = (max(round(side * scale), 32) for side in (preprocessing.height, preprocessing.width))
    return _probabilities(task, pixels, replace(preprocessing, height=height, width=width))


def _slide(task: Any, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Probabilities (K, h, w) of a picture (3, h, w) from windows of the input's size, averaged where they overlap."""
    p = preprocessing
    h, w = pixels.shape[-2:]
    total, count = pixels.new_zeros(len(task.classes), h, w), pixels.new_zeros(h, w)
    for x1, y1, x2, y2 in cut_windows(h, w, (p.height, p.width), OVERLAP):
        total[:, y1:y2, x1:x2] += _probabilities(task, pixels[:, y1:y2, x1:x2], p)
        count[y1:y2, x1:x2] += 1
    return total / count


def _probabilities(task: Any, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Of one look (K, h, w) at a picture (3, h, w) no larger than the input."""
    h, w = pixels.shape[-2:]
    p = preprocessing
    logits = task(F.pad(pixels, (0, p.width - w, 0, p.height - h))[None])
    return upsample(logits.float(), (p.height, p.width))[0, :, :h, :w].softmax(0)
