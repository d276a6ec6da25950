"""The page of an int8 export: the curve of size, latency and metric, and the layers in order of sensitivity."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from featherbone.report import render
from featherbone.tasks.card import Card


def write_int8_page(path: Path, card: Card, result: Any) -> None:
    """Write the page of an `Int8Result`."""
    points = sorted(result.points, key=lambda point: point.floats)
    render("int8.html", path, card=card, result=result, points=points, curve=draw_curve(result))


def draw_curve(result: Any) -> Figure:
    """Size, latency and metric by the number of float layers; dashed is the float file, dotted the lowest allowed."""
    points, before = sorted(result.points, key=lambda point: point.floats), result.before
    rows = {
        "size, MB": ([point.bytes / 1e6 for point in points], before.bytes / 1e6),
        "latency, ms": ([point.latency for point in points], before.latency),
        result.metric: ([point.metric for point in points], before.metric),
    }
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axis, (name, (values, of_float)) in zip(figure.subplots(1, 3), rows.items(), strict=True):
        known = [(point.floats, value) for point, value in zip(points, values, strict=True) if value is not None]
        axis.plot(*zip(*known, strict=True), marker="o", color="#4c6fff")
        axis.axhline(of_float, color="#889", linestyle="--", linewidth=1)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("float layers", fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.axhline(before.metric - result.max_drop, color="#c33", linestyle=":", linewidth=1)
    return figure
