"""Search for the minimum number of sensitive layers in float that keeps the metric, with few evaluations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

from featherbone.exporters.int8.sensitivity import Sensitivity

MAX_TRIES = 6
"""Maximum number of files of a search."""
SHARES = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64)
"""Shares of the error with all layers in int8 that candidates aim at."""


@dataclass(frozen=True)
class Point:
    """A file with some layers in float, and its measurements."""

    floats: int
    """Number of layers in float, the first of the ranking."""
    bytes: int
    error: float
    """Error of the raw tensors on calibration images, as in `RawDifference`."""
    metric: float | None = None
    """Metric on the validation images; None if it was not measured because of the error."""
    latency: float = 0.0
    """Milliseconds for one image, median of runs that took turns with the other files'."""


def plan(ranking: Sequence[Sensitivity]) -> list[int]:
    """Numbers of layers to leave in float, in the order to try: none, then enough to reduce the error to `SHARES`.

    The errors of layers are assumed to be independent, so their squares add up. At least one layer is int8.
    """
    squares = [each.error**2 for each in ranking]
    left = [sqrt(sum(squares[k:])) for k in range(len(squares))]
    counts = (next((k for k, error in enumerate(left) if error <= left[0] * x), len(left) - 1) for x in SHARES)
    return list(dict.fromkeys(counts))


def search(
    make: Callable[[int], Point], measure: Callable[[Point], Point], minimum: float, counts: list[int]
) -> list[Point]:
    """Try `counts` until a metric is at least `minimum`, then bisect between this count and the one before.

    `make` writes a file and compares its raw tensors; `measure` adds the metric and is slow: a file with a larger error
    than one that failed is not measured, unless it is the last of `counts`. Returns the points in order.
    """
    points: list[Point] = []

    def attempt(count: int, last: bool) -> bool:
        point = make(count)
        hopeless = any(failed.metric is not None and point.error >= failed.error for failed in points)
        points.append(point if hopeless and not last else measure(point))
        return fits(points[-1], minimum)

    low, high = -1, None  # more than `low` layers must be float, `high` are enough
    for count in counts:
        if attempt(count, count == counts[-1]):
            high = count
            break
        low = count
    while high is not None and high - low > 1 and len(points) < MAX_TRIES:
        middle = (low + high) // 2
        low, high = (low, middle) if attempt(middle, True) else (middle, high)
    return points


def fits(point: Point, minimum: float) -> bool:
    """Whether a point was measured and is good enough."""
    return point.metric is not None and point.metric >= minimum - 1e-9
