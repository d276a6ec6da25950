"""One page that tells how a run that finds objects went: curves, precision and recall, pictures, versions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from featherbone.data.objects import MarkedImages
from featherbone.draw import colour, contact_sheet, draw_detections
from featherbone.engine.evaluate import Finds
from featherbone.engine.page import curves, heading, plot_names, provenance, shown
from featherbone.pages import bars, figures, jpeg, svg, write_page
from featherbone.tasks.card import Card

WORST = 9
"""Images shown of those with the most mistakes."""
NAMED = 8
"""Classes with a curve of their own."""


def write_objects_report(path: Path, card: Card, val: MarkedImages, outcome: Finds) -> None:
    """A page at `path` from a run's card, the curves beside it, and what was found on `val`."""
    metrics = card.metrics
    names = {"AP": "AP", "AP50": "AP at IoU 0.5", "AP75": "AP at IoU 0.75", "AR100": "AR"}
    names |= {"mask_AP": "mask AP", "mask_AP50": "mask AP at IoU 0.5"} if "mask_AP" in metrics else {}
    cells = {name: shown(metrics[key]) for key, name in names.items()}
    cells |= {"best epoch": str(metrics["epoch"])} if "epoch" in metrics else {}
    drawn = {"AP": "AP", "AP50": "AP at IoU 0.5"} | ({"mask_AP": "mask AP"} if "mask_AP" in metrics else {})
    sections = [
        heading(card),
        figures(cells),
        f'<p class="soft">{metrics["objects"]} objects on {metrics["images"]} images; {metrics["engine"]}. '
        f"By size: small {shown(metrics['APs'])}, medium {shown(metrics['APm'])}, large {shown(metrics['APl'])}.</p>",
        *curves(path.parent, drawn),
        "<h2>Precision and recall</h2>",
        svg(draw_precision(outcome, card.classes), "precision against recall"),
        f"<p>Pictures show what has score {outcome.score:.2f} or more: where one is known, the limit at which "
        "precision and recall at IoU 0.5 balance best (F1).</p>",
        "<h2>Classes</h2>",
        class_bars(card, val),
        "<h2>Images with the most mistakes</h2>",
        worst_images(card.classes, val, outcome),
        *provenance(card),
    ]
    write_page(path, f"{card.backbone} {card.head} report", sections)


def draw_precision(outcome: Finds, classes: Sequence[str]) -> Figure:
    """Precision against recall at IoU 0.5: the mean of all classes, and those that are found best."""
    curves = {i: of for i, of in enumerate(outcome.metrics.curves()) if of is not None}
    best = sorted(curves, key=lambda i: -float(curves[i].mean()))[:NAMED]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, 101)
    lines = {}
    for i in best if len(curves) > 1 else ():
        lines[classes[i]] = axes.plot(recall, curves[i], color=colour(i), linewidth=1.2)[0]
    if curves:
        mean = axes.plot(recall, np.mean(list(curves.values()), 0), color="#111", linewidth=2.2)[0]
        names, style = plot_names([*lines, "mean"])
        places = list(map(str, range(len(names))))  # a legend takes marks in names for its own
        legend = axes.legend([*lines.values(), mean], places, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.update({"text": name, **style})
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure


def class_bars(card: Card, val: MarkedImages) -> str:
    """Average precision of each class, with its objects."""
    labels = [a["label"] for entry in val.entries for a in entry.annotations]
    counts = np.bincount(np.array(labels, np.int64), minlength=len(card.classes))
    kind = "mask_per_class" if "mask_per_class" in card.metrics else "per_class"
    return bars(dict(zip(card.classes, card.metrics[kind], strict=True)), [f"{count} objects" for count in counts])


def worst_images(classes: Sequence[str], val: MarkedImages, outcome: Finds) -> str:
    """The images with the most missed and made up objects at the score that balances best, truth in white."""
    mistakes = {row.image_id: row for row in outcome.metrics.per_image(outcome.score)}
    order = sorted(range(len(val)), key=lambda i: -mistakes[val.entries[i].image_id].mistakes)[:WORST]
    chosen = [i for i in order if mistakes[val.entries[i].image_id].mistakes]
    if not chosen:
        return "<p>None.</p>"
    pictures, captions = [], []
    for i in chosen:
        row = mistakes[val.entries[i].image_id]
        truth = val.objects(i).record(classes)
        pictures.append(draw_detections(val.read(i), outcome.records[i], truth, outcome.score))
        captions.append(f"{Path(val.name(i)).name}: {row.misses} missed, {row.false_positives} made up")
    return jpeg(contact_sheet(pictures, captions, columns=3, cell=320), "; ".join(captions))
