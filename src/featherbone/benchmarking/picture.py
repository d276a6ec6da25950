"""A picture of a comparison: what models compute, or how often they are right, against the time they take."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, log10
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from featherbone.benchmarking.speed import BenchResult, SpeedRow
from featherbone.draw import INK, colour
from featherbone.files import atomic

Point = tuple[float, float]
Segment = tuple[float, float, float, float]
"""x1 y1 x2 y2"""
COLUMNS = 3
"""Panels side by side."""
MARKS = "osD^vPX*"
"""Of the runtimes, in turn, beside their colours."""
AROUND = ((0.3, 1), (-0.3, 1), (0.3, -1), (-0.3, -1), (1, 0.1), (-1, 0.1))
PLACES = [(far * x, far * y) for far in (7, 12, 20, 30, 42) for x, y in AROUND]
"""Where a label may begin, in points from its mark, the best first."""
NEAR = 2 * len(AROUND)
"""Places that need no line to the mark."""
LINE, GRID = "#9aa3b5", "#e8ebf2"


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other beats, which takes as little time (x) for more (y); the fastest first."""
    best: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not best or points[i][1] > points[best[-1]][1]:
            best.append(i)
    return best


def save_picture(result: BenchResult, path: Path) -> None:
    """A panel for each batch size, a colour for each runtime, a line along the front, and dots along one model.

    Top-1 accuracy stands above time where all models have it, else MACs: what a model can learn grows with them.
    """
    rows = [row for row in result.rows if row.p50 is not None]
    by_accuracy = bool(rows) and all(row.top1 is not None for row in rows)
    rows = [row for row in rows if by_accuracy or row.macs]
    batches = sorted({row.batch for row in rows}) or [1]
    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    sizes = {(row.model, row.height, row.width) for row in rows}
    several = len(sizes) > len({row.model for row in rows})
    columns = min(COLUMNS, len(batches))
    shape = (ceil(len(batches) / columns), columns)
    with matplotlib.rc_context({"font.size": 9, "axes.edgecolor": LINE, "text.color": INK}):
        figure = Figure(
            figsize=(7.6 if columns == 1 else 5.6 * columns, 0.9 + 4.6 * shape[0]), dpi=130, layout="constrained"
        )
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(*shape, squeeze=False).ravel()
        step = "a step of training" if result.train else "inference"
        figure.suptitle(f"{step}, {result.machine.precision}, {_where(result)}", fontsize=10)
        for axes in panels[len(batches) :]:
            axes.set_axis_off()
        drawn = [
            _panel(axes, [row for row in rows if row.batch == batch], batch, runtimes, by_accuracy)
            for axes, batch in zip(panels, batches, strict=False)
        ]
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(len(names), 4 * columns) or 1, frameon=False
        )
        canvas.draw()  # settles where things lie
        for axes, (points, lines, fastest) in zip(panels, drawn, strict=False):
            labels = [
                (place, "/".join(Path(model).parts[-2:]) + (f" {height}" if several else ""))
                for (model, height, _), place in fastest.items()
            ]
            _label(axes, labels, points, lines, canvas.get_renderer())
        with atomic(path) as partial:
            figure.savefig(partial, format="png")


def _where(result: BenchResult) -> str:
    machine = result.machine
    return (
        f"{machine.threads} thread{'s' * (machine.threads > 1)} of {machine.cpu}"
        if machine.device == "cpu"
        else machine.device
    )


def _panel(
    axes: Axes, rows: list[SpeedRow], batch: int, runtimes: Sequence[str], by_accuracy: bool
) -> tuple[list[Point], list[Segment], dict[Any, Point]]:
    """Draw the rows of one batch size; returns their places, the lines drawn, and each model's fastest place."""
    points = [((row.p50 or 0) / batch, 100 * (row.top1 or 0) if by_accuracy else (row.macs or 0) / 1e9) for row in rows]
    axes.set(xscale="log", xlim=_around([x for x, _ in points]))
    if not by_accuracy:
        axes.set(yscale="log", ylim=_around([y for _, y in points]))
    line = [points[i] for i in front(points)]
    if line:
        axes.step(*zip(*line, strict=True), where="post", color=LINE, lw=1.2, zorder=1, label="front")
    lines = [(x, y, after, y) for (x, y), (after, _) in pairwise(line)]
    lines += [(x, before, x, y) for (_, before), (x, y) in pairwise(line)]
    fastest: dict[Any, Point] = {}
    for key in dict.fromkeys((row.model, row.height, row.width) for row in rows):
        same = sorted(p for p, row in zip(points, rows, strict=True) if (row.model, row.height, row.width) == key)
        axes.plot(*zip(*same, strict=True), color=LINE, lw=0.8, ls=":", zorder=1, label="" if fastest else "one model")
        lines.append((*same[0], *same[-1]))
        fastest[key] = same[0]
    for number, runtime in enumerate(runtimes):
        of_runtime = [(row, point) for row, point in zip(rows, points, strict=True) if row.runtime == runtime]
        style: dict[str, Any] = {"color": colour(number), "marker": MARKS[number % len(MARKS)], "zorder": 3}
        xs, ys = [x for _, (x, _) in of_runtime], [y for _, (_, y) in of_runtime]
        spread = [[((row.p50 or 0) - (row.p25 or 0)) / batch for row, _ in of_runtime]]
        spread += [[((row.p75 or 0) - (row.p50 or 0)) / batch for row, _ in of_runtime]]
        axes.scatter(xs, ys, s=34, edgecolors="white", linewidths=0.6, label=runtime, **style)
        if xs:
            axes.errorbar(xs, ys, xerr=spread, fmt="none", ecolor=colour(number), elinewidth=1, alpha=0.6, zorder=2)
    axes.margins(y=0.14)
    axes.set_title(f"batch {batch}", fontsize=10)
    axes.set_xlabel("milliseconds per image")
    axes.set_ylabel("top-1, %" if by_accuracy else "GMACs per image")
    for axis in (axes.xaxis,) if by_accuracy else (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        subs = (1, 2, 5) if log10(high / low) < 2.5 else (1,)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return points, lines, fastest


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis that leave room beside positive values, even beside a single one."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    room = max((high / low) ** 0.15, 1.2)
    return low / room, high * room


def _label(
    axes: Axes, labels: Sequence[tuple[Point, str]], points: Sequence[Point], lines: Sequence[Segment], renderer: Any
) -> None:
    """Write labels beside their places, where they lie on the least of what is there."""
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in axes.transData.transform(np.reshape(points, (-1, 2)))]
    for x1, y1, x2, y2 in axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 4):
        taken.append((x1 - 1, min(y1, y2) - 1, x2 + 1, max(y1, y2) + 1))
    unit, frame = renderer.dpi / 72, axes.get_window_extent(renderer)
    for point, name in sorted(labels):
        style: dict[str, Any] = {"fontsize": 7.5, "va": "center", "parse_math": False}
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", **style)
        size = text.get_window_extent(renderer).size
        boxes = [_box(axes.transData.transform(point), (dx * unit, dy * unit), size) for dx, dy in PLACES]
        costs = [
            sum(_overlap(box, other) for other in taken) - _overlap(box, frame.extents) + 0.02 * rank
            for rank, box in enumerate(boxes)
        ]
        best = min(range(len(boxes)), key=costs.__getitem__)
        text.set_position(PLACES[best])
        text.set_horizontalalignment("right" if PLACES[best][0] < 0 else "left")
        taken.append(boxes[best])
        if best >= NEAR:
            line = {"arrowstyle": "-", "color": LINE, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", point, PLACES[best], textcoords="offset points", arrowprops=line, zorder=2)


def _box(point: Any, offset: Point, size: Any) -> tuple[float, float, float, float]:
    """Of a text of a size (w, h) that begins, or to the left ends, at an offset from a point: x1 y1 x2 y2."""
    left, middle = point[0] + offset[0] - (size[0] if offset[0] < 0 else 0), point[1] + offset[1]
    return left, middle - size[1] / 2, left + size[0], middle + size[1] / 2


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area that two boxes (x1 y1 x2 y2) share."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0)
