"""One page that tells how a classification run went: curves, confusion matrix, pictures, versions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from featherbone.data.classification import LabelledImages
from featherbone.data.loading import Samples
from featherbone.data.sampling import spread_classes
from featherbone.data.transforms import Preprocessing
from featherbone.draw import contact_sheet, save_picture
from featherbone.engine.page import curves, heading, plot_names, provenance
from featherbone.pages import bars, figures, jpeg, svg, write_page
from featherbone.tasks.card import Card


def write_report(path: Path, card: Card, val: LabelledImages, outcome: Tensor) -> None:
    """A page at `path` from a run's card, the curves beside it, and what `evaluate_classifier` says of `val`."""
    metrics = card.metrics
    low, high = wilson_interval(metrics["top1"], metrics["images"])
    shares = {"top-1": metrics["top1"], "top-5": metrics["top5"], "mean per class": metrics["mean_per_class"]}
    cells = {name: f"{share:.1%}" for name, share in shares.items()}
    cells[f"95% interval of top-1 on {metrics['images']} images"] = f"{low:.1%} to {high:.1%}"
    cells |= {"best epoch": str(metrics["epoch"])} if "epoch" in metrics else {}
    sections = [heading(card), figures(cells), *curves(path.parent, {"top1": "top-1"})]
    confusion = np.array(metrics["confusion"])
    if len(card.classes) <= 60:
        sections += ["<h2>Confusion</h2>", svg(draw_confusion(confusion, card.classes), "confusion matrix")]
    per_class = dict(zip(card.classes, metrics["per_class"], strict=True))
    sections += ["<h2>Classes</h2>", bars(per_class, [f"{count} images" for count in confusion.sum(1)])]
    sections += ["<h2>Mistakes, the surest first</h2>", _mistakes(card, val, outcome)]
    sections += ["<h2>Some it got right</h2>", _successes(card, val, outcome), *provenance(card)]
    write_page(path, f"{card.backbone} report", sections)


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` images, 95% by default."""
    if not count:
        return 0.0, 1.0
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def draw_confusion(confusion: np.ndarray[Any, Any], classes: tuple[str, ...]) -> Figure:
    """Shares of each true class (row) by predicted class (column), with the counts where they can be read."""
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
    for row in range(count) if count <= 30 else ():
        for column in range(count):
            if confusion[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "#1d2433"
                axes.text(column, row, confusion[row, column], ha="center", va="center", color=colour, fontsize=size)
    return figure


def _mistakes(card: Card, val: LabelledImages, outcome: Tensor, most: int = 16) -> str:
    wrong = [i for i in outcome[:, 1].argsort(descending=True).tolist() if int(outcome[i, 0]) != val.labels[i]][:most]
    if not wrong:
        return "<p>None.</p>"
    captions = [f"{card.classes[val.labels[i]]}, not {card.classes[int(outcome[i, 0])]}" for i in wrong]
    return jpeg(contact_sheet([val.read(i) for i in wrong], captions, columns=6), "; ".join(captions))


def _successes(card: Card, val: LabelledImages, outcome: Tensor, most: int = 12) -> str:
    right = [i for i in range(len(val)) if int(outcome[i, 0]) == val.labels[i]]
    right = [right[i] for i in spread_classes(val.labels[right], most)]
    if not right:
        return "<p>None.</p>"
    captions = [f"{card.classes[val.labels[i]]} {outcome[i, 1]:.0%}" for i in right]
    return jpeg(contact_sheet([val.read(i) for i in right], captions, columns=6), "; ".join(captions))


def show_labelled(path: Path, samples: Samples, keys: list[tuple[int, int]], preprocessing: Preprocessing) -> None:
    """A picture of augmented training images, as the network sees them, before any mixing."""
    pictures, captions = [], []
    for key in keys[:32]:
        image, label = samples[key]
        pictures.append(preprocessing.picture(image))
        captions.append(samples.images.classes[label])
    save_picture(contact_sheet(pictures, captions), path)
