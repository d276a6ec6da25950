"""A plot of a comparison: top-1 accuracy, or multiply-adds, against the time for one image."""

from collections.abc import Sequence
from math import ceil, log10
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

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


def series_of(row: SpeedRow) -> str:
    """What has one colour: a runtime on a device."""
    return f"{row.runtime}, {row.device}" if row.device else row.runtime


def save_picture(result: BenchResult, path: Path) -> None:
    """A panel for each batch size, a colour for each runtime and device, a line along the Pareto front.

    The y axis is top-1 accuracy if all models have one, else multiply-adds; a dotted line connects the rows of a model.
    """
    rows = [row for row in result.rows if row.p50 is not None]
    by_accuracy = bool(rows) and all(row.top1 is not None for row in rows)
    rows = [row for row in rows if by_accuracy or row.macs]
    batches = sorted({row.batch for row in rows}) or [1]
    series = list(dict.fromkeys(series_of(row) for row in rows))
    several_sizes = len({(row.model, row.height, row.width) for row in rows}) > len({row.model for row in rows})
    columns = min(MAX_COLUMNS, len(batches))
    lines = ceil(len(batches) / columns)
    title = "a step of training" if result.train else "inference"
    if machine := result.machine:
        where = f"{machine.threads} thread{'s' * (machine.threads > 1)} of {machine.cpu}"
        title += f", {machine.precision}, {where if machine.device == 'cpu' else machine.device}"
    with matplotlib.rc_context({"font.size": 9, "axes.edgecolor": LINE, "text.color": INK}):
        width = 7.6 if columns == 1 else 5.6 * columns
        figure = Figure(figsize=(width, 0.9 + 4.6 * lines), dpi=130, layout="constrained")
        figure.suptitle(title, fontsize=10)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in panels[len(batches) :]:
            axes.set_axis_off()
        for axes, batch in zip(panels, batches, strict=False):
            draw_panel(axes, [row for row in rows if row.batch == batch], series, by_accuracy, several_sizes)
            axes.set_title(f"batch {batch}", fontsize=10)
        handles, names = panels[0].get_legend_handles_labels()
        num_columns = min(len(names), 4 * columns) or 1
        figure.legend(handles, names, loc="outside lower center", ncols=num_columns, frameon=False)
        with atomic(path) as partial:
            figure.savefig(partial, format="png")


def draw_panel(axes: Axes, rows: Sequence[SpeedRow], series: Sequence[str], by_accuracy: bool, with_size: bool) -> None:
    """Draw the rows of one batch size; labels give the image height too if `with_size`."""

    def point(row: SpeedRow) -> Point:
        return (row.p50 or 0) / row.batch, 100 * (row.top1 or 0) if by_accuracy else (row.macs or 0) / 1e9

    points = [point(row) for row in rows]
    axes.set(xscale="log", xlim=log_limits([x for x, _ in points]), xlabel="milliseconds per image")
    if by_accuracy:
        axes.set(ylabel="top-1, %")
    else:
        axes.set(yscale="log", ylim=log_limits([y for _, y in points]), ylabel="GMACs per image")
    if points:
        line = [points[i] for i in front(points)]
        axes.step(*zip(*line, strict=True), where="post", color=LINE, lw=1.2, zorder=1, label="front")
    models: dict[tuple[str, int, int], list[Point]] = {}
    for row in rows:
        models.setdefault((row.model, row.height, row.width), []).append(point(row))
    for number, ((model, height, _), places) in enumerate(models.items()):
        places.sort()
        name = "" if number else "one model"
        axes.plot(*zip(*places, strict=True), color=LINE, lw=0.8, ls=":", zorder=1, label=name)
        label = "/".join(Path(model).parts[-2:]) + (f" {height}" if with_size else "")
        axes.annotate(label, places[0], (6, 5), textcoords="offset points", fontsize=7.5, parse_math=False)
    for number, name in enumerate(series):
        same = [row for row in rows if series_of(row) == name]
        xs, ys = [point(row)[0] for row in same], [point(row)[1] for row in same]
        marker, ink = MARKERS[number % len(MARKERS)], colour(number)
        axes.scatter(xs, ys, s=34, c=ink, marker=marker, edgecolors="white", linewidths=0.6, label=name, zorder=3)
        if same:
            lower = [((row.p50 or 0) - (row.p25 or 0)) / row.batch for row in same]
            upper = [((row.p75 or 0) - (row.p50 or 0)) / row.batch for row in same]
            axes.errorbar(xs, ys, xerr=[lower, upper], fmt="none", ecolor=ink, elinewidth=1, alpha=0.6, zorder=2)
    axes.margins(y=0.14)
    for axis in (axes.xaxis,) if by_accuracy else (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if log10(high / low) < 2.5 else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis with a margin around positive values, even around a single one."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    margin = max((high / low) ** 0.15, 1.2)
    return low / margin, high * margin
