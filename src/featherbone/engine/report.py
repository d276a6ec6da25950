"""One page that tells how a run went: curves, confusion matrix, pictures, versions."""

import base64
import html
import io
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from featherbone.data.classification import LabelledImages
from featherbone.data.loading import Samples
from featherbone.data.transforms import Preprocessing
from featherbone.draw import contact_sheet, save_picture
from featherbone.engine.run import read_metrics
from featherbone.files import write_text
from featherbone.tasks.card import Card

STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667; --paper: #fff; --panel: #f4f6fb; --bar: #4c6fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf2; --soft: #9aa3b5; --paper: #12151d; --panel: #1b2030 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1000px; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem } .soft { color: var(--soft) }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.figures div { background: var(--panel); border-radius: .6rem; padding: .6rem 1.1rem }
.figures b { display: block; font-size: 1.5rem }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
img { max-width: 100%; height: auto; background: #fff; border-radius: .6rem }
progress { width: 12rem; accent-color: var(--bar) } code { overflow-wrap: anywhere }
"""


def write_report(path: Path, card: Card, val: LabelledImages, outcome: Tensor) -> None:
    """A page at `path` from a run's card, the curves beside it, and what `evaluate_classifier` says of `val`."""
    metrics = card.metrics
    sections = [
        f"<h1>{html.escape(card.backbone)}</h1>",
        f'<p class="soft">{card.task} of {len(card.classes)} classes on {html.escape(Path(card.data["path"]).name)}: '
        f"{card.data['train']} training and {card.data['val']} validation images</p>",
        _figures(
            {"top-1": metrics["top1"], "top-5": metrics["top5"], "mean per class": metrics["mean_per_class"]}, metrics
        ),
    ]
    rows = read_metrics(path.parent)
    if rows:
        sections += ["<h2>Curves</h2>", _svg(draw_curves(rows), "loss and accuracy over the epochs")]
    if len(card.classes) <= 60:
        confusion = np.array(metrics["confusion"])
        sections += ["<h2>Confusion</h2>", _svg(draw_confusion(confusion, card.classes), "confusion matrix")]
    sections += ["<h2>Classes</h2>", _class_table(card)]
    sections += ["<h2>Mistakes, the surest first</h2>", _mistakes(card, val, outcome)]
    sections += ["<h2>Some it got right</h2>", _successes(card, val, outcome)]
    skipped = card.data.get("skipped", {})
    if skipped:
        sections += [f"<h2>Left out ({len(skipped)})</h2>", _table({k: v for k, v in list(skipped.items())[:50]})]
    sections += ["<h2>Settings</h2>", _table(card.settings), "<h2>Versions and licence</h2>"]
    sections += [_table({**card.versions, "starting weights": card.weights_licence, "data": card.data["fingerprint"]})]
    page = f"<title>{html.escape(card.backbone)} report</title><style>{STYLE}</style>" + "\n".join(sections)
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">{page}</html>\n',
    )


def _figures(shares: dict[str, float], metrics: dict[str, Any]) -> str:
    low, high = wilson_interval(metrics["top1"], metrics["images"])
    cells = [f"<div><b>{share:.1%}</b>{name}</div>" for name, share in shares.items()]
    cells.append(f"<div><b>{low:.1%} to {high:.1%}</b>95% interval of top-1 on {metrics['images']} images</div>")
    if "epoch" in metrics:
        cells.append(f"<div><b>{metrics['epoch']}</b>best epoch</div>")
    return f'<div class="figures">{"".join(cells)}</div>'


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` images, 95% by default."""
    if not count:
        return 0.0, 1.0
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def draw_curves(rows: list[dict[str, Any]]) -> Figure:
    """Training and validation loss, and validation accuracy, over the epochs."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    style = {"marker": "o", "markersize": 3} if len(rows) < 40 else {}
    left.plot(epochs, [row["train"]["loss"] for row in rows], label="training", color="#4c6fff", **style)
    left.plot(epochs, [row["val"]["loss"] for row in rows], label="validation", color="#e4572e", **style)
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    right.plot(epochs, [row["val"]["top1"] for row in rows], label="top-1", color="#e4572e", **style)
    right.set(xlabel="epoch", ylabel="validation top-1", ylim=(0, 1))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_confusion(confusion: np.ndarray[Any, Any], classes: tuple[str, ...]) -> Figure:
    """Shares of each true class (row) by predicted class (column), with the counts where they can be read."""
    count = len(classes)
    side = min(2.2 + 0.42 * count, 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if count <= 20 else 6
    names = [name if len(name) <= 20 else name[:19] + "…" for name in classes]
    axes.set_xticks(range(count), names, rotation=60, ha="right", fontsize=size, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    for row in range(count) if count <= 30 else ():
        for column in range(count):
            if confusion[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "#1d2433"
                axes.text(column, row, confusion[row, column], ha="center", va="center", color=colour, fontsize=size)
    return figure


def _svg(figure: Figure, alt: str) -> str:
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "featherbone"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _jpeg(picture: Image.Image, alt: str) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f'<img alt="{html.escape(alt)}" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _table(values: dict[str, Any]) -> str:
    rows = (
        f"<tr><td>{html.escape(str(k))}</td><td><code>{html.escape(str(v))}</code></td></tr>" for k, v in values.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _class_table(card: Card) -> str:
    counts = np.array(card.metrics["confusion"]).sum(1)
    rows = []
    for name, share, count in zip(card.classes, card.metrics["per_class"], counts, strict=True):
        shown = "not known" if share is None else f'<progress value="{share:.3f}"></progress> {share:.1%}'
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{shown}</td><td>{count} images</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _mistakes(card: Card, val: LabelledImages, outcome: Tensor, most: int = 16) -> str:
    wrong = [i for i in outcome[:, 1].argsort(descending=True).tolist() if int(outcome[i, 0]) != val.labels[i]][:most]
    if not wrong:
        return "<p>None.</p>"
    captions = [f"{card.classes[val.labels[i]]}, not {card.classes[int(outcome[i, 0])]}" for i in wrong]
    return _jpeg(contact_sheet([val.read(i) for i in wrong], captions, columns=6), "; ".join(captions))


def _successes(card: Card, val: LabelledImages, outcome: Tensor, most: int = 12) -> str:
    right = [i for i in range(len(val)) if int(outcome[i, 0]) == val.labels[i]]
    right = right[:: max(len(right) // most, 1)][:most]  # spread over the classes
    if not right:
        return "<p>None.</p>"
    captions = [f"{card.classes[val.labels[i]]} {outcome[i, 1]:.0%}" for i in right]
    return _jpeg(contact_sheet([val.read(i) for i in right], captions, columns=6), "; ".join(captions))


def write_first_batch(path: Path, samples: Samples, keys: list[tuple[int, int]], preprocessing: Preprocessing) -> None:
    """A picture of augmented training images, as the network sees them, before any mixing."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (preprocessing.mean, preprocessing.std))
    pictures, captions = [], []
    for key in keys[:32]:
        image, label = samples[key]
        pixels = ((image * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        pictures.append(Image.fromarray(pixels))
        captions.append(samples.images.classes[label])
    save_picture(contact_sheet(pictures, captions), path)
