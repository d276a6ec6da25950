"""Masks predicted over boxes, pasted into the whole image."""

from math import ceil, floor

import numpy as np
import torch
from torch import Tensor

from featherbone.ops.rle import Bools, from_runs
from featherbone.results import Rle

PASTE = {
    "mask_threshold": 0.5,
    "mask_rule": "probability(pixel_centre) >= mask_threshold",
    "mask_formulas": {
        "u": "(column + 0.5 - x1) / (x2 - x1) * mask_columns - 0.5",
        "v": "(row + 0.5 - y1) / (y2 - y1) * mask_rows - 0.5",
        "probability": "sum over i, j of mask[j, i] * max(0, 1 - abs(u - i)) * max(0, 1 - abs(v - j))",
    },
    "mask_box": "in the image",
}
"""The rule of `paste_masks`, as `featherbone.json` states it."""


def paste_masks(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[Rle]:
    """Probabilities (n, M, M) over boxes (n, 4), in pixels of an image, as masks of that image.

    A pixel belongs to an object where its centre's probability, bilinear between the centres of the M x M cells that
    divide the box and falling to 0 within one cell outside of them, is at least `threshold`, above 0 and at most 1: as
    `grid_sample` with align_corners off samples it. A box may reach out of the image; one with no area covers nothing.
    It is done on the CPU in float64, box by box on the box's own pixels.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a threshold of {threshold} makes no mask; give one above 0 and at most 1")
    boxes = boxes.detach().cpu().double()
    if not boxes.isfinite().all():
        raise ValueError(
            "boxes to paste masks into hold NaN or infinity; look for the step of the network that made it"
        )
    pasted = []
    for mask, (x1, y1, x2, y2) in zip(probabilities.detach().cpu().double(), boxes.tolist(), strict=True):
        left, columns = _weights(x1, x2, width, mask.shape[1])
        top, rows = _weights(y1, y2, height, mask.shape[0])
        pasted.append(_encode_part((columns @ mask.T @ rows.T >= threshold).numpy(), left, top, height, width))
    return pasted


def _weights(low: float, high: float, length: int, cells: int) -> tuple[int, Tensor]:
    """The first pixel of a line of `length` that a side of a box touches, and each pixel's weights (n, cells)."""
    if high <= low:
        return 0, torch.zeros(0, cells, dtype=torch.float64)
    reach = (high - low) / (2 * cells)  # half a cell beyond, where probability ends
    first, end = max(floor(low - reach), 0), min(ceil(high + reach), length)
    centres = torch.arange(first, max(end, first), dtype=torch.float64) + 0.5
    places = (centres - low) / (high - low) * cells - 0.5
    return first, (1 - (places[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def _encode_part(part: Bools, left: int, top: int, height: int, width: int) -> Rle:
    """A mask's columns (w, h), each from its top, whose upper left corner is at `left`, `top` of an image."""
    changes = np.diff(part.astype(np.int8), axis=1, prepend=0, append=0)
    places = np.arange(left, left + len(part))[:, None] * height + np.arange(top, top + changes.shape[1])
    edges = np.setxor1d(places[changes > 0], places[changes < 0])  # a run that continues in the next column has no end
    runs = np.diff(edges, prepend=0, append=height * width).tolist()
    if runs[-1] == 0:
        runs.pop()
    return from_runs(runs, height, width)
