"""The page of a comparison: table, intervals, accuracy against latency, classes, and images on which models differ."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from featherbone.benchmarking.picture import front, log_limits
from featherbone.comparison.evaluator import Evaluation, Evaluator
from featherbone.comparison.result import ComparisonResult, ModelRow
from featherbone.draw import colour, draw_record
from featherbone.engine.results import find_reader
from featherbone.predictor import load
from featherbone.progress import track
from featherbone.report import render
from featherbone.report.run import Sheet, plot_names

MAX_CLASSES, MAX_LABEL = 30, 32
"""Classes whose differences are shown, and letters of a label."""


def write_comparison_page(
    path: Path, result: ComparisonResult, models: Sequence[Sequence[Evaluation]], measuring: Evaluator
) -> None:
    """Write the page; `models` hold what was measured of each row."""
    timed = [(row, row.speed.milliseconds) for row in result.rows if row.speed is not None]
    first = {row.label: own[0] for row, own in zip(result.rows, models, strict=True)}
    pairs = result.disagreements.items()
    render(
        "comparison.html",
        path,
        result=result,
        table=result.table(),
        sentences=[pair.sentence(result.margin) for pair in result.pairs],
        intervals=draw_intervals(result.rows, result.metric),
        front=draw_front(timed, result.metric) if timed else None,
        differences=result.differences[:MAX_CLASSES],
        facts={**result.protocol.get("settings", {}), "data": result.fingerprint, **result.versions},
        sheets=[
            make_sheet(pair, found, [first[label] for label in pair], measuring)
            for pair, found in track(pairs, "drawing", len(pairs))
            if found
        ],
    )


def make_sheet(
    labels: tuple[str, str], found: Sequence[Any], models: Sequence[Evaluation], measuring: Evaluator
) -> Sheet:
    """Ground truth and both results of the images on which two models differ."""
    images, kind = models[0].images, models[0].kind
    read = [reader_of(model, measuring) for model in models]
    channels = next((model.card.preprocessing.channels for model in models if model.card), None)
    pictures: list[Image.Image] = []
    captions: list[str] = []
    for one in found:
        image = images.image(one.index, channels)
        records = [kind.truth_record(images.truth(one.index), images), *(result(one.index) for result in read)]
        pictures += [draw_record(image, record, kind.score or 0.0, legend=False) for record in records]
        captions += [one.name, *(f"{label} {score:.2f}" for label, score in zip(labels, one.scores, strict=True))]
    return Sheet(f"Images on which {labels[0]} and {labels[1]} differ most", pictures, captions)


def reader_of(model: Evaluation, measuring: Evaluator) -> Callable[[int], Any]:
    """From the index of an image to its record."""
    if model.card is None:
        _, reader = find_reader(Path(model.source), measuring.data, measuring.task == "instance", {})
        return reader(Path(model.source), model.images)
    predictor = load(
        Path(model.source), measuring.device, trust=measuring.trust, accept_licence=measuring.accept_licence
    )
    channels = predictor.card.preprocessing.channels
    return lambda index: predictor(model.images.image(index, channels))


def draw_intervals(rows: Sequence[ModelRow], metric: str) -> Figure:
    """The mean of each model with its 95% interval, and the values of its seeds."""
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        low, high = row.interval
        axes.plot((low, high), (place, place), color=colour(place), linewidth=3, solid_capstyle="butt", alpha=0.55)
        axes.scatter(row.values, [place] * len(row.values), s=14, color=colour(place), zorder=3)
        axes.scatter([row.value], [place], s=90, marker="|", color="#111", zorder=4)
    names, style = plot_names([row.label for row in rows], MAX_LABEL)
    axes.set_yticks(range(len(rows)), names, **style)
    axes.set(xlabel=f"{metric}: mean (bar), 95% interval (line), seeds (dots)", ylim=(len(rows) - 0.5, -0.5))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    return figure


def draw_front(rows: Sequence[tuple[ModelRow, tuple[float, float, float]]], metric: str) -> Figure:
    """The metric against the quartiles of the time of one image, with intervals, and the Pareto front."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    names, style = plot_names([row.label for row, _ in rows], MAX_LABEL)
    points = [(times[1], row.value) for row, times in rows]
    best = front(points)
    axes.step([points[i][0] for i in best], [points[i][1] for i in best], where="post", color="#9aa3b5", zorder=1)
    for place, ((row, times), (x, y), name) in enumerate(zip(rows, points, names, strict=True)):
        low, high = row.interval
        across, along = [[x - times[0]], [times[2] - x]], [[max(y - low, 0)], [max(high - y, 0)]]
        axes.errorbar(x, y, xerr=across, yerr=along, fmt="o", color=colour(place), elinewidth=1.4, alpha=0.85)
        axes.annotate(name, (x, y), (6, 5), textcoords="offset points", fontsize=9, **style)
    axes.set(xscale="log", xlabel="milliseconds for one image (median, quartiles)", ylabel=f"{metric} (95% interval)")
    axes.set_xlim(log_limits([time for _, times in rows for time in times]))
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure
