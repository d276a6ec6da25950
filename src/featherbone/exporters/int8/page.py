"""One page that shows what int8 costs: the curve of size, latency and metric, and which layers it hurts."""

import html
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from featherbone.exporters.int8.search import Point
from featherbone.pages import figures, svg, table, write_page
from featherbone.tasks.card import Card

SHOWN = 30


def write_int8_page(path: Path, card: Card, result: Any) -> None:
    """The page at `path` of an `Int8Result`."""
    before, kept, ranking = result.before, result.kept, result.ranking
    head = f" with {card.head}" if card.head else ""
    tried = sorted(result.points, key=lambda point: point.floats)
    why = f"Of {len(tried)} that were tried it is the file with the fewest whose drop is allowed." if tried[1:] else ""
    sections = [
        f"<h1>{html.escape(result.path.name)}</h1>",
        f'<p class="soft">{html.escape(card.backbone + head)} for {card.task}, {result.target}, int8, calibrated on '
        f"{result.calibration} images</p>",
        f"<p><strong>{kept.floats} of {len(ranking)} layers are float.</strong> {why}</p>",
        figures(
            {
                f"{result.metric} (float {before.metric:.4f})": f"{kept.metric:.4f}",
                f"drop (allowed {result.max_drop:g})": f"{result.drop(kept):.4f}",
                f"size (float {before.bytes / 1e6:.2f} MB)": f"{kept.bytes / 1e6:.2f} MB",
                f"latency (float {before.latency:.2f} ms)": f"{kept.latency:.2f} ms",
            }
        ),
        "<h2>Size, latency and metric by layers in float</h2>",
        svg(_curve(result), "size, latency and metric over the number of layers in float"),
        table({"float file": _told(before), **{_named(point, kept): _told(point) for point in tried}}),
        "<p class='soft'>Latency is that of one image on the machine that wrote this, the median of runs that took "
        "turns. The error is that of the raw tensors on calibration images, in root mean squares.</p>",
        "<h2>The most sensitive layers</h2>",
        "<p>The error of the raw tensors if that layer alone computes in int8.</p>",
        table(
            {
                f"{i + 1}. {each.layer}": f"{each.error:.2e}{', float' if i < kept.floats else ''}"
                for i, each in enumerate(ranking[:SHOWN])
            }
        ),
    ]
    if len(ranking) > SHOWN:
        sections.append(f"<p class='soft'>and {len(ranking) - SHOWN} more, in int8.json</p>")
    write_page(path, f"{result.path.name} int8", sections)


def _named(point: Point, kept: Point) -> str:
    return f"{point.floats} layers in float{', kept' if point == kept else ''}"


def _told(point: Point) -> str:
    metric = "not measured" if point.metric is None else f"{point.metric:.4f}"
    return f"{metric}, {point.bytes / 1e6:.2f} MB, {point.latency:.2f} ms, error {point.error:.3g}"


def _curve(result: Any) -> Figure:
    """A panel each for size, latency and metric; dashed is the float file, dotted the least metric allowed."""
    points, before = sorted(result.points, key=lambda point: point.floats), result.before
    rows = {
        "size, MB": ([point.bytes / 1e6 for point in points], before.bytes / 1e6),
        "latency, ms": ([point.latency for point in points], before.latency),
        result.metric: ([point.metric for point in points], before.metric),
    }
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axis, (name, (values, of_float)) in zip(figure.subplots(1, 3), rows.items(), strict=True):
        seen = [(p.floats, v) for p, v in zip(points, values, strict=True) if v is not None]
        axis.plot(*zip(*seen, strict=True), marker="o", color="#4c6fff")
        axis.axhline(of_float, color="#889", linestyle="--", linewidth=1)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("layers in float", fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.axhline(before.metric - result.max_drop, color="#c33", linestyle=":", linewidth=1)
    return figure
