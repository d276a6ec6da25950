"""The page of a run: metrics, curves, classes, pictures, settings and versions; one template for all tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from featherbone.data.bands import to_picture
from featherbone.data.sampling import spread
from featherbone.data.split import Split
from featherbone.draw import colour, draw_record
from featherbone.fonts import find_font, readable
from featherbone.metrics.detection import DetectionMetrics
from featherbone.metrics.operating_point import describe_point
from featherbone.metrics.outcome import Outcome
from featherbone.report import format_metric, render
from featherbone.tasks.card import Card, count_measured
from featherbone.tasks.task import kind_of

NUM_WORST = 9
"""Images with the most mistakes that are shown."""
NUM_CURVES = 8
"""Classes that have a curve of precision and recall."""
MAX_CONFUSION = 60
"""Classes of the largest confusion matrix that is drawn."""
BLUE, RED, GREEN = "#4c6fff", "#e4572e", "#2a9d6f"


class Plot(NamedTuple):
    """A section with a plot, and text below it."""

    title: str
    figure: Figure
    text: str = ""


class Sheet(NamedTuple):
    """A section with a row of image, ground truth and prediction for each image."""

    title: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str]


def write_run_report(
    path: Path, card: Card, rows: Sequence[dict[str, Any]], split: Split[Any], outcome: Outcome
) -> None:
    """Write the page from a run's card, the rows of its `metrics.jsonl`, and the evaluation of its weights."""
    kind, metrics, channels = kind_of(card), card.metrics, card.preprocessing.channels
    cells = {name: format_metric(metrics.get(key)) for key, name in kind.figures.items()}
    curves = {key: kind.figures[key] for key in list(kind.figures)[:3]}
    plots = [Plot("Curves", draw_curves(rows, curves))] if rows else []
    for key, (low, high) in metrics.get("interval", {}).items():
        cells[f"95% interval of {kind.figures[key]} over images, for this seed"] = f"{low:.3f} to {high:.3f}"
    if "epoch" in metrics:
        cells["best epoch"] = str(metrics["epoch"])
    if "confusion" in metrics and len(card.classes) <= MAX_CONFUSION:
        square = np.array(metrics["confusion"])[:, : len(card.classes)]
        plots.append(Plot("Confusion", draw_confusion(square, card.classes)))
    if "reliability" in metrics:
        text = (
            "Accuracy of the images in 15 bins of their confidence, and below it the share of images in each. The "
            "calibration error (ECE, arXiv 1706.04599) is the mean distance to the dashed line over the images."
        )
        plots.append(Plot("Calibration", draw_reliability(metrics["reliability"]), text))
    score = kind.shown_score(card) or 0.0
    if isinstance(outcome.metrics, DetectionMetrics):
        text = f"Pictures show objects with a score of {score:.2f} or more."
        plots.append(Plot("Precision and recall", draw_precision(outcome.metrics.curves(), card.classes), text))
    if "errors" in metrics:
        text = (
            "Rise of AP at IoU 0.5 if all errors of a cause were fixed (TIDE, arXiv 2008.08115). Counts are those of "
            "detections with any score, and for missed those of objects."
        )
        plots.append(Plot("Errors by cause", draw_errors(metrics["errors"]), text))
    notes = []
    if "objects" in metrics:
        notes.append(f"{metrics['objects']} objects on {metrics['images']} images; {metrics['engine']}.")
    if "operating_point" in metrics:
        notes.append(f"{describe_point(metrics['operating_point'])}.")
    per_class = metrics.get("mask_per_class", metrics["per_class"])

    def sheet(title: str, chosen: Sequence[int]) -> Sheet:
        pictures, captions = [], []
        for index in chosen:
            image, record = to_picture(split.image(index, channels)), outcome.records[index]
            truth = kind.truth_record(split.truth(index), split)
            pictures += [image, *(draw_record(image, one, score, legend=False) for one in (truth, record))]
            own = f" {outcome.scores[index]:.2f}" if index in outcome.scores else ""
            captions += [Path(split.name(index)).name, "ground truth", f"prediction{own}"]
        return Sheet(title, pictures, captions)

    typical = [outcome.spread[i] for i in spread(len(outcome.spread), 6)]
    render(
        "run.html",
        path,
        card=card,
        cells=cells,
        notes=notes,
        plots=plots,
        classes=list(zip(card.classes, per_class, kind.class_notes(metrics, split), strict=True)),
        sheets=[
            sheet("Images with the lowest scores", outcome.worst[:NUM_WORST]),
            sheet("Images spread over the set", typical),
        ],
        data=Path(card.data["path"]).name,
        measured=count_measured(metrics),
        skipped=card.data.get("skipped", {}),
        versions={
            **card.versions,
            "starting weights": card.starting_weights or "random",
            "their licence": card.weights_licence,
            "data": card.data.get("fingerprint", "not stated"),
        },
    )


def plot_names(names: Sequence[str], length: int = 20) -> tuple[list[str], dict[str, Any]]:
    """Names cut to `length` letters, and the text style in which matplotlib draws them literally."""
    file = find_font(*names)
    cut = [
        name if len(name) <= length else name[: length - 1] + "…" for name in (readable(name, file) for name in names)
    ]
    return cut, {"fontproperties": Path(file), "parse_math": False}


def draw_curves(rows: Sequence[dict[str, Any]], metrics: Mapping[str, str]) -> Figure:
    """Training and validation loss, and validation metrics from 0 to 1, over the epochs."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(rows) < 40 else {}
    losses = [row["train"]["loss"] for row in rows]
    left.plot([row["epoch"] for row in rows], losses, label="training", color=BLUE, **style)
    measured = [row for row in rows if row["val"]]
    epochs = [row["epoch"] for row in measured]
    if measured and "loss" in measured[0]["val"]:
        left.plot(epochs, [row["val"]["loss"] for row in measured], label="validation", color=RED, **style)
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    for (key, name), paint in zip(metrics.items(), (RED, BLUE, GREEN), strict=False):
        right.plot(epochs, [row["val"].get(key) for row in measured], label=name, color=paint, **style)
    right.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_confusion(confusion: np.ndarray[Any, Any], classes: Sequence[str]) -> Figure:
    """Shares of each true class (row) by predicted class (column), with counts for up to 30 classes."""
    count = len(classes)
    side = min(2.2 + 0.42 * count, 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if count <= 20 else 6
    names, style = plot_names(classes)
    axes.set_xticks(range(count), names, rotation=60, ha="right", fontsize=size, **style)
    axes.set_yticks(range(count), names, fontsize=size, **style)
    axes.set(xlabel="predicted", ylabel="true")
    for row, column in np.argwhere(confusion) if count <= 30 else ():
        paint = "white" if shares[row, column] > 0.5 else "#1d2433"
        axes.text(column, row, confusion[row, column], ha="center", va="center", color=paint, fontsize=size)
    return figure


def draw_reliability(bins: Sequence[tuple[int, float, float]]) -> Figure:
    """Accuracy by confidence, and the share of images, in bins of equal width."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    counts, sure, accuracy = np.array(bins, float).T
    filled, width = counts > 0, 1 / len(bins)
    middles = (np.arange(len(bins)) + 0.5) * width
    above.bar(middles[filled], accuracy[filled], width * 0.92, color=BLUE)
    above.plot(sure[filled], accuracy[filled], "o", color=RED, markersize=3.5)
    above.plot((0, 1), (0, 1), color="#111", linestyle="--", linewidth=1)
    below.bar(middles, counts / max(counts.sum(), 1), width * 0.92, color=GREEN)
    above.set(ylabel="accuracy", ylim=(0, 1.02))
    below.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_errors(errors: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The cost of each cause in AP50, and its number of errors."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    costs = [one["dAP50"] for one in errors.values()]
    bars = axes.barh(list(errors), costs, color=BLUE)
    axes.bar_label(bars, [f"{one['dAP50']:.3f} ({one['count']:,})" for one in errors.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="rise of AP50", xlim=(min(0.0, *costs) * 1.3, max(0.01, *costs) * 1.3))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_precision(curves: Sequence[Any], classes: Sequence[str]) -> Figure:
    """Precision at 101 recalls, IoU 0.5: the mean of all classes, and the classes with the highest AP."""
    known = {i: curve for i, curve in enumerate(curves) if curve is not None}
    best = sorted(known, key=lambda i: -float(known[i].mean()))[:NUM_CURVES]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, 101)
    lines = {}
    for i in best if len(known) > 1 else ():
        lines[classes[i]] = axes.plot(recall, known[i], color=colour(i), linewidth=1.2)[0]
    if known:
        mean = axes.plot(recall, np.mean(list(known.values()), 0), color="#111", linewidth=2.2)[0]
        names, style = plot_names([*lines, "mean"])
        places = list(map(str, range(len(names))))  # a legend hides names that begin with an underscore
        legend = axes.legend([*lines.values(), mean], places, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.update({"text": name, **style})
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure
