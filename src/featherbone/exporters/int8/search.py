"""How many of the most sensitive layers stay float: few evaluations, and as few layers as the metric allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

from featherbone.exporters.int8.sensitivity import Sensitivity

MOST = 6
"""Evaluations of a search."""
SHARES = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64)
"""Of the error if all layers are int8 that is to be left."""


@dataclass(frozen=True)
class Point:
    """A file with some layers in float, and what it came to."""

    floats: int
    """How many of the ranking's first layers are float."""
    bytes: int
    error: float
    """Of the raw tensors on calibration images, as in `Sensitivity`."""
    metric: float | None = None
    """On the validation images; None where it was not measured, for the raw tensors told that it would not do."""
    latency: float = 0.0
    """Of one image in milliseconds, median of runs that took turns with the other files'."""


def plan(ranking: Sequence[Sensitivity]) -> list[int]:
    """How many layers to leave in float, in the order to try: none, then so many that the error falls by `SHARES`.

    The errors of layers are taken to be independent, so that their squares add up. One layer at least is int8.
    """
    squares = [each.error**2 for each in ranking]
    left = [sqrt(sum(squares[k:])) for k in range(len(squares))]
    counts = (next((k for k, error in enumerate(left) if error <= left[0] * x), len(left) - 1) for x in SHARES)
    return list(dict.fromkeys(counts))


def search(
    make: Callable[[int], Point], measure: Callable[[Point], Point], worst: float, counts: list[int]
) -> list[Point]:
    """The points that were tried, until one has a metric of at least `worst`; then by halves between it and the last.

    `make` writes a file and compares its raw tensors; `measure` adds the metric, and is slow: what is further from the
    model than a file that failed is not measured, unless it is the last to try.
    """
    points: list[Point] = []

    def attempt(count: int, last: bool) -> bool:
        point = make(count)
        hopeless = any(failed.metric is not None and point.error >= failed.error for failed in points)
        points.append(point if hopeless and not last else measure(point))
        return fits(points[-1], worst)

    low, high = -1, None  # more than `low` layers must be float, `high` are enough
    for count in counts:
        if attempt(count, count == counts[-1]):
            high = count
            break
        low = count
    while high is not None and high - low > 1 and len(points) < MOST:
        middle = (low + high) // 2
        low, high = (low, middle) if attempt(middle, True) else (middle, high)
    return points


def fits(point: Point, worst: float) -> bool:
    """Whether a point was measured and is good enough."""
    return point.metric is not None and point.metric >= worst - 1e-9
