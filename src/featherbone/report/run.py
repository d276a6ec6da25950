"""The page of a run: metrics, curves, classes, pictures, settings and versions; one template for all tasks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from featherbone.data.classification import LabelledImages
from featherbone.data.objects import MarkedImages
from featherbone.data.sampling import spread, spread_classes
from featherbone.draw import colour, contact_sheet, draw_detections
from featherbone.fonts import find_font, readable
from featherbone.metrics.detection import DetectionMetrics
from featherbone.report import format_metric, render
from featherbone.results import Detections
from featherbone.tasks.card import Card, count_measured

NUM_WORST = 9
"""Images with the most mistakes that are shown."""
NUM_CURVES = 8
"""Classes that have a curve of precision and recall."""
MAX_CONFUSION = 60
"""Classes of the largest confusion matrix that is drawn."""
BLUE, RED, GREEN = "#4c6fff", "#e4572e", "#2a9d6f"


@dataclass(frozen=True)
class Plot:
    """A section with a plot, and text below it."""

    title: str
    figure: Figure
    text: str = ""


@dataclass(frozen=True)
class Sheet:
    """A section with a contact sheet; without pictures it states that there are none."""

    title: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str]
    columns: int
    cell: int = 150
    text: str = ""

    def picture(self) -> Image.Image:
        """All pictures in one."""
        return contact_sheet(self.pictures, self.captions, self.columns, self.cell)


@dataclass(frozen=True)
class Summary:
    """What differs from task to task on the page of a run."""

    cells: Mapping[str, str]
    """Headline figures by name."""
    curves: Mapping[str, str]
    """Validation metrics that are drawn over the epochs: keys of `metrics.jsonl` with their names."""
    classes: Sequence[tuple[str, float | None, str]]
    """Name, metric from 0 to 1, and note of each class."""
    sheets: Sequence[Sheet]
    plots: Sequence[Plot] = ()
    note: str = ""


def write_run_report(path: Path, card: Card, rows: Sequence[dict[str, Any]], summary: Summary) -> None:
    """Write the page from a run's card, the rows of its `metrics.jsonl`, and what is particular to the task."""
    epoch = {"best epoch": str(card.metrics["epoch"])} if "epoch" in card.metrics else {}
    curves = [Plot("Curves", draw_curves(rows, summary.curves))] if rows else []
    render(
        "run.html",
        path,
        card=card,
        summary=summary,
        cells={**summary.cells, **epoch},
        plots=[*curves, *summary.plots],
        data=Path(card.data["path"]).name,
        measured=count_measured(card.metrics),
        skipped=card.data.get("skipped", {}),
        versions={**card.versions, "starting weights": card.weights_licence, "data": card.data["fingerprint"]},
    )


def summarise_classification(card: Card, val: LabelledImages, outcome: Tensor) -> Summary:
    """From each image's outcome (N, 3): predicted class, its score, and the true class's score."""
    metrics = card.metrics
    low, high = wilson_interval(metrics["top1"], metrics["images"])
    shares = {"top-1": metrics["top1"], "top-5": metrics["top5"], "mean per class": metrics["mean_per_class"]}
    cells = {name: f"{share:.1%}" for name, share in shares.items()}
    cells[f"95% interval of top-1 on {metrics['images']} images"] = f"{low:.1%} to {high:.1%}"
    confusion = np.array(metrics["confusion"])
    notes = [f"{count} images" for count in confusion.sum(1)]
    names, labels = card.classes, val.labels
    predicted = [int(label) for label in outcome[:, 0]]
    wrong = [i for i in outcome[:, 1].argsort(descending=True).tolist() if predicted[i] != labels[i]][:16]
    right = [i for i in range(len(val)) if predicted[i] == labels[i]]
    right = [right[i] for i in spread_classes(labels[right], 12)]
    mistakes = [f"{names[predicted[i]]}, true: {names[labels[i]]}" for i in wrong]
    correct = [f"{names[labels[i]]} {outcome[i, 1]:.0%}" for i in right]
    return Summary(
        cells=cells,
        curves={"top1": "top-1"},
        classes=list(zip(names, metrics["per_class"], notes, strict=True)),
        plots=[Plot("Confusion", draw_confusion(confusion, names))] if len(names) <= MAX_CONFUSION else [],
        sheets=[
            Sheet("Mistakes, highest score first", [val.read(i) for i in wrong], mistakes, columns=6),
            Sheet("Correct predictions", [val.read(i) for i in right], correct, columns=6),
        ],
    )


def summarise_detection(
    card: Card, val: MarkedImages, results: DetectionMetrics, records: Sequence[Detections], score: float
) -> Summary:
    """From the records of `val`, of which objects with at least `score` are drawn."""
    metrics, masks = card.metrics, "mask_AP" in card.metrics
    names = {"AP": "AP", "AP50": "AP at IoU 0.5", "AP75": "AP at IoU 0.75", "AR100": "AR"}
    names |= {"mask_AP": "mask AP", "mask_AP50": "mask AP at IoU 0.5"} if masks else {}
    small, medium, large = (format_metric(metrics[key]) for key in ("APs", "APm", "APl"))
    labels = [a["label"] for entry in val.entries for a in entry.annotations]
    counts = np.bincount(np.array(labels, np.int64), minlength=len(card.classes))
    notes = [f"{count} objects" for count in counts]
    mistakes = {row.image_id: row for row in results.per_image(score)}
    by_image = [mistakes[entry.image_id] for entry in val.entries]
    worst = sorted((i for i, row in enumerate(by_image) if row.mistakes), key=lambda i: -by_image[i].mistakes)
    worst = worst[:NUM_WORST]
    pictures = [draw_detections(val.read(i), records[i], val.objects(i).record(card.classes), score) for i in worst]
    captions = [
        f"{Path(val.name(i)).name}: {by_image[i].misses} missed, {by_image[i].false_positives} false positives"
        for i in worst
    ]
    return Summary(
        cells={name: format_metric(metrics[key]) for key, name in names.items()},
        curves={key: names[key] for key in ("AP", "AP50", "mask_AP") if key in names},
        note=f"{metrics['objects']} objects on {metrics['images']} images; {metrics['engine']}. "
        f"AP by size: small {small}, medium {medium}, large {large}.",
        classes=list(zip(card.classes, metrics["mask_per_class" if masks else "per_class"], notes, strict=True)),
        plots=[
            Plot(
                "Precision and recall",
                draw_precision(results.curves(), card.classes),
                f"Pictures show objects with score {score:.2f} or more: the threshold with the highest F1 at IoU 0.5, "
                "if there is one.",
            )
        ],
        sheets=[
            Sheet("Images with the most mistakes", pictures, captions, 3, 320, "Dashed boxes are the ground truth.")
        ],
    )


def summarise_maps(
    card: Card,
    names: Mapping[str, str],
    notes: Sequence[str],
    worst: Sequence[int],
    typical: Sequence[int],
    compare: Callable[[int], tuple[list[Image.Image], list[str]]],
) -> Summary:
    """For tasks whose result is a map.

    `names` are the metrics shown, the first two of which are drawn over the epochs; `notes` are those of the classes;
    `compare` gives image, ground truth and prediction of an image with captions.
    """

    def sheet(title: str, chosen: Sequence[int]) -> Sheet:
        compared = [compare(i) for i in chosen]
        pictures = [picture for row, _ in compared for picture in row]
        captions = [caption for _, row in compared for caption in row]
        return Sheet(title, pictures, captions, 3, 340, "Image, ground truth and prediction.")

    return Summary(
        cells={name: format_metric(card.metrics[key]) for key, name in names.items()},
        curves=dict(list(names.items())[:2]),
        classes=list(zip(card.classes, card.metrics["per_class"], notes, strict=True)),
        sheets=[
            sheet("Images with the lowest metric", worst),
            sheet("Images spread over the set", [typical[i] for i in spread(len(typical), 6)]),
        ],
    )


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` images, 95% by default."""
    if not count:
        return 0.0, 1.0
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def plot_names(names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Names cut to 20 letters, and the text style in which matplotlib draws them literally."""
    file = find_font(*names)
    cut = [name if len(name) <= 20 else name[:19] + "…" for name in (readable(name, file) for name in names)]
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
