"""Maps that give every pixel a class or a segment."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featherbone.ops import rle
from featherbone.ops.boxes import Target
from featherbone.results import Rle

IGNORE = 255
"""The class of unlabelled pixels."""
AT_ONCE = 4
"""Classes that `label_map` resizes to the image at a time where its size is not known."""
VALUES = 2**26
"""Number of scores that `label_map` holds at a time."""
LABEL_MAP = {
    "steps": ("resize to the input", "cut the inner part from the upper left", "resize to the image", "argmax"),
    "resize": {
        "filter": "bilinear",
        "antialias": False,
        "align_corners": False,
        "source": "(i + 0.5) * size / new_size - 0.5",
    },
    "ties": "lowest_class",
}
"""The steps of `label_map`, as `featherbone.json` states them."""
FUSION = (
    "all pixels are 0; go through the masks of things by score, highest first",
    "drop a mask without free pixels, or of whose area more than overlap * area is not free",
    "else its free pixels become the next segment, ids from 1",
    "the free pixels that are left take their class of the label map of stuff",
    "drop a class with fewer such pixels than stuff_share * image_height * image_width",
    "the others become the next segments, in the order of their channels",
)
"""The steps of `fuse`, likewise."""


class PanopticTarget(NamedTuple):
    """The annotation of one image."""

    things: Target
    stuff: Tensor
    """(H, W), int64: 0 for any thing, 1 + i for stuff i, `IGNORE` for unlabelled pixels."""


def upsample(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Scores (B, K, h, w) at another size, bilinearly."""
    return scores if scores.shape[-2:] == tuple(size) else F.interpolate(scores, size=tuple(size), mode="bilinear")


def label_map(
    scores: Tensor, canvas: Sequence[int], inner: Sequence[int], size: Sequence[int], at_once: int | None = None
) -> Tensor:
    """The best class of each pixel of an image of `size`, (H, W), uint8, from scores (K, h, w) of a network's input.

    The scores are brought to `canvas`, the input's size, of which the image fills `inner` from the upper left corner,
    and this part to the image's. `at_once` classes at a time, so that large images of many classes fit in memory; by
    default as many as `VALUES` allows.
    """
    scores = scores[None].float()
    if at_once is None:
        at_once = max(VALUES // max(canvas[0] * canvas[1], size[0] * size[1]), 1)
        scores = scores.contiguous(memory_format=torch.channels_last)  # resized twice as fast on the CPU
    best = scores.new_full(tuple(size), -torch.inf)
    labels = torch.zeros(tuple(size), dtype=torch.uint8, device=scores.device)
    for first in range(0, scores.shape[1], at_once):
        shown = upsample(scores[:, first : first + at_once], canvas)[..., : inner[0], : inner[1]]
        value, index = F.interpolate(shown, size=tuple(size), mode="bilinear")[0].max(0)
        better = value > best
        best = torch.where(better, value, best)
        labels = torch.where(better, (index + first).to(torch.uint8), labels)
    return labels


def resize(scores: Tensor, canvas: Sequence[int], inner: Sequence[int], size: Sequence[int]) -> Tensor:
    """One class's scores (h, w) at the size of the image (H, W), as `label_map` resizes them."""
    shown = upsample(scores[None, None].float(), canvas)[..., : inner[0], : inner[1]]
    return upsample(shown, size)[0, 0]


class FusedMap(NamedTuple):
    """Segments on a map, in the order in which they were placed."""

    ids: NDArray[np.int32]
    """(H, W): 1 + the segment's index, 0 for pixels without one."""
    things: list[int]
    """Indices of the things that were placed."""
    stuff: list[int]
    """Classes of stuff that follow them."""


def fuse(
    masks: Sequence[Rle], stuff: NDArray[np.integer], num_stuff: int, minimum: float, overlap: float = 0.5
) -> FusedMap:
    """One map of things and stuff (arXiv 1801.00868), from masks of one size, highest-scoring first.

    A mask is dropped if more than `overlap` of it is covered already, else its free part is placed. Free pixels then
    take their stuff (H, W), 0 for things and 1 + i for stuff i, one segment per class of at least `minimum` pixels.
    """
    ids = np.zeros(stuff.shape, np.int32)
    things: list[int] = []
    for index, mask in enumerate(masks):
        covered = rle.decode(mask)
        free = covered & (ids == 0)
        count, area = int(free.sum()), int(covered.sum())
        if count and area - count <= overlap * area:
            things.append(index)
            ids[free] = len(things)
    counts = np.bincount(stuff[ids == 0].astype(np.int64), minlength=1 + num_stuff)[1:]
    kept = np.flatnonzero((counts > 0) & (counts >= minimum))
    number = np.zeros(1 + num_stuff, np.int32)
    number[1 + kept] = len(things) + 1 + np.arange(len(kept))
    return FusedMap(np.where(ids == 0, number[stuff], ids), things, kept.tolist())
