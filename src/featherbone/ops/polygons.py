"""Masks as polygons along the edges of their pixels."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]
"""x and y of a corner between pixels."""
Ring = list[Point]
"""Corners in order, the last joined to the first."""


def trace(mask: NDArray[np.bool_]) -> Iterator[tuple[list[Ring], int]]:
    """The regions of a mask (H, W), each as rings, its outline first and then its holes, and its area in pixels.

    Pixels that touch at a corner alone are of different regions. Outlines run clockwise as seen with y down, holes the
    other way; the rings cover exactly the mask's pixels.
    """
    rings = [(ring, _area(ring)) for ring in _rings(mask)]
    found = {number: ([ring], area) for number, (ring, area) in enumerate(rings) if area > 0}
    home = {number: number for number in found}
    owner = np.zeros(mask.shape, np.int64)  # the ring of each pixel's left side
    for number, (ring, _) in enumerate(rings):
        points = np.array(ring)
        following = np.roll(points, -1, 0)
        x, y = following[following[:, 1] < points[:, 1]].T
        owner[y, x] = number
    begins = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    start = np.maximum.accumulate(np.where(begins, np.arange(mask.shape[1]), 0), 1)
    holes = {number: min(ring) for number, (ring, area) in enumerate(rings) if area < 0}
    for number, (x, y) in sorted(holes.items(), key=lambda hole: hole[1]):
        # to the left of a hole's first corner, its region goes on to its outline or to a hole that is placed already
        home[number] = home[int(owner[y, start[y, x - 1]])]
        outline, area = found[home[number]]
        found[home[number]] = ([*outline, rings[number][0]], area + rings[number][1])
    for outline, area in found.values():
        yield [_straighten(ring) for ring in outline], area


def _rings(mask: NDArray[np.bool_]) -> Iterator[Ring]:
    """Rings with the mask on their right, a step a pixel."""
    m = np.pad(mask, 1)
    steps: dict[Point, list[Point]] = {}
    sides = (
        (m[1:-1, 1:-1] & ~m[:-2, 1:-1], (0, 0), (1, 0)),  # above: to the right
        (m[1:-1, 1:-1] & ~m[1:-1, 2:], (1, 0), (1, 1)),  # right: down
        (m[1:-1, 1:-1] & ~m[2:, 1:-1], (1, 1), (0, 1)),  # below: to the left
        (m[1:-1, 1:-1] & ~m[1:-1, :-2], (0, 1), (0, 0)),  # left: up
    )
    for edges, (x1, y1), (x2, y2) in sides:
        for y, x in np.argwhere(edges).tolist():
            steps.setdefault((x + x1, y + y1), []).append((x + x2, y + y2))
    while steps:
        start = next(iter(steps))
        ring, before, place = [], start, start
        while True:
            following = _turn(steps[place], before, place)
            steps[place].remove(following)
            if not steps[place]:
                del steps[place]
            ring.append(place)
            before, place = place, following
            if place == start:
                break
        yield ring


def _turn(choices: list[Point], before: Point, place: Point) -> Point:
    """Where to go on: to the right where two pixels meet at a corner, so that each keeps to itself."""
    if len(choices) == 1 or before == place:
        return choices[0]
    dx, dy = place[0] - before[0], place[1] - before[1]
    return (place[0] - dy, place[1] + dx)


def _straighten(ring: Ring) -> Ring:
    """The corners alone."""
    return [
        (x, y)
        for (x0, y0), (x, y), (x1, y1) in zip([ring[-1], *ring[:-1]], ring, [*ring[1:], ring[0]], strict=True)
        if (x - x0, y - y0) != (x1 - x, y1 - y)
    ]


def _area(ring: Ring) -> int:
    """Pixels within; negative where they lie on the left."""
    points = np.array(ring, np.int64)
    following = np.roll(points, -1, 0)
    return int((points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum()) // 2
