"""A plot of a comparison: top-1 accuracy, or multiply-adds, against the time for one image."""

from collections.abc import Sequence
from math import ceil, log10
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from featherbone.benchmarking.table import BenchResult, SpeedRow
from featherbone.draw import INK, colour
from featherbone.files import atomic

Point = tuple[float, float]
MAX_COLUMNS = 3
"""Panels side by side."""
MARKERS = "osD^vPX*"
"""One for each runtime in turn."""
LINE, GRID = "#9aa3b5", "#e8ebf2"


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the Pareto front, fastest first: no other point has at most their x and at least their y."""
    best: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not best or points[i][1] > points[best[-1]][1]:
            best.append(i)
    return best


def save_picture(result: BenchResult, path: Path) -> None:
    """A panel for each batch size, a colour for each runtime, a line along the Pareto front.

    The y axis is top-1 accuracy if all models have one, else multiply-adds; a dotted line connects the rows of a model.
    """
    rows = [row for row in result.rows if row.p50 is not None]
    by_accuracy = bool(rows) and all(row.top1 is not None for row in rows)
    rows = [row for row in rows if by_accuracy or row.macs]
    batches = sorted({row.batch for row in rows}) or [1]
    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    sizes = {(row.model, row.height, row.width) for row in rows}
    several = len(sizes) > len({row.model for row in rows})
    columns = min(MAX_COLUMNS, len(batches))
    shape = (ceil(len(batches) / columns), columns)
    with matplotlib.rc_context({"font.size": 9, "axes.edgecolor": LINE, "text.color": INK}):
        figure = Figure(
            figsize=(7.6 if columns == 1 else 5.6 * columns, 0.9 + 4.6 * shape[0]), dpi=130, layout="constrained"
        )
        panels = figure.subplots(*shape, squeeze=False).ravel()
        step = "a step of training" if result.train else "inference"
        figure.suptitle(f"{step}, {result.machine.precision}, {_where(result)}", fontsize=10)
        for axes in panels[len(batches) :]:
            axes.set_axis_off()
        for axes, batch in zip(panels, batches, strict=False):
            draw_panel(axes, [row for row in rows if row.batch == batch], batch, runtimes, by_accuracy, several)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(len(names), 4 * columns) or 1, frameon=False
        )
        with atomic(path) as partial:
            figure.savefig(partial, format="png")


def _where(result: BenchResult) -> str:
    machine = result.machine
    return (
        f"{machine.threads} thread{'s' * (machine.threads > 1)} of {machine.cpu}"
        if machine.device == "cpu"
        else machine.device
    )


def draw_panel(
    axes: Axes, rows: list[SpeedRow], batch: int, runtimes: Sequence[str], by_accuracy: bool, with_size: bool
) -> None:
    """Draw the rows of one batch size; labels give the image height too if `with_size`."""
    points = [((row.p50 or 0) / batch, 100 * (row.top1 or 0) if by_accuracy else (row.macs or 0) / 1e9) for row in rows]
    axes.set(xscale="log", xlim=log_limits([x for x, _ in points]))
    if not by_accuracy:
        axes.set(yscale="log", ylim=log_limits([y for _, y in points]))
    line = [points[i] for i in front(points)]
    if line:
        axes.step(*zip(*line, strict=True), where="post", color=LINE, lw=1.2, zorder=1, label="front")
    for number, key in enumerate(dict.fromkeys((row.model, row.height, row.width) for row in rows)):
        same = sorted(p for p, row in zip(points, rows, strict=True) if (row.model, row.height, row.width) == key)
        axes.plot(*zip(*same, strict=True), color=LINE, lw=0.8, ls=":", zorder=1, label="" if number else "one model")
        label = "/".join(Path(key[0]).parts[-2:]) + (f" {key[1]}" if with_size else "")
        axes.annotate(label, same[0], (6, 5), textcoords="offset points", fontsize=7.5, parse_math=False)
    for number, runtime in enumerate(runtimes):
        of_runtime = [(row, point) for row, point in zip(rows, points, strict=True) if row.runtime == runtime]
        style: dict[str, Any] = {"color": colour(number), "marker": MARKERS[number % len(MARKERS)], "zorder": 3}
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


def log_limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis with a margin around positive values, even around a single one."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    margin = max((high / low) ** 0.15, 1.2)
    return low / margin, high * margin
