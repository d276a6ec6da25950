"""Masks as polygons, for formats and tools that have no run lengths."""

from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

from featherbone.ops.rle import Bools

Floats = NDArray[np.float64]


def to_polygon(mask: Bools, tolerance: float = 0.4) -> Floats:
    """The outline of a mask (H, W) as one polygon (N, 2) x y in pixels; empty where the mask is.

    Parts and holes are connected by lines that are walked in both directions, so they cover nothing. `tolerance` is
    the maximum distance in pixels between the outline and its points; below 0.5, no centre of a pixel changes sides.
    """
    padded = np.pad(np.asarray(mask, np.float64), 1)
    lines: Any = contour_generator(z=padded).lines(0.5)
    rings = [_simplify(line - 0.5, tolerance) for line in lines]
    if not rings:
        return np.zeros((0, 2))
    rings.sort(key=len, reverse=True)
    bridged = [part for ring in rings[1:] for part in (ring, rings[0][:1])]
    return np.concatenate([rings[0] if bridged else rings[0][:-1], *bridged])


def _simplify(points: Floats, tolerance: float) -> Floats:
    """A closed line (N, 2) without the points that are within the tolerance of it (Douglas and Peucker, 1973)."""
    keep = np.zeros(len(points), bool)
    far = int(np.hypot(*(points - points[0]).T).argmax())
    keep[[0, far, -1]] = True
    waiting = [(0, far), (far, len(points) - 1)]
    while waiting:
        start, end = waiting.pop()
        if end - start < 2:
            continue
        (x, y), inner = points[end] - points[start], points[start + 1 : end] - points[start]
        distances = np.abs(inner[:, 0] * y - inner[:, 1] * x) / max(float(np.hypot(x, y)), 1e-9)
        split = start + 1 + int(distances.argmax())
        if distances.max() > tolerance:
            keep[split] = True
            waiting += [(start, split), (split, end)]
    return points[keep]
