"""One page that tells how a run went whose result is a map: curves, classes, pictures, versions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from featherbone.data.sampling import spread
from featherbone.draw import contact_sheet
from featherbone.engine.evaluate_maps import Kept
from featherbone.engine.page import curves, heading, provenance, shown
from featherbone.pages import bars, figures, jpeg, write_page
from featherbone.tasks.card import Card

Draw = Callable[[Image.Image, Any], Image.Image]
"""A record on its image."""


def write_maps_report(
    path: Path,
    card: Card,
    images: Any,
    kept: Kept,
    draw: Draw,
    truth: Callable[[int], Any],
    names: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """A page at `path` from a run's card, the curves beside it, and what was kept of `images`.

    `names` are the metrics to tell, the first two of which are drawn, `truth` the record that was wanted of an image,
    and `notes` what is said of each class.
    """
    metrics = card.metrics
    cells = {name: shown(metrics[key]) for key, name in names.items()}
    cells |= {"best epoch": str(metrics["epoch"])} if "epoch" in metrics else {}
    drawn = dict(list(names.items())[:2])
    sections = [
        heading(card),
        figures(cells),
        *curves(path.parent, drawn),
        "<h2>Classes</h2>",
        bars(dict(zip(card.classes, metrics["per_class"], strict=True)), notes),
        "<h2>Images that came out worst</h2>",
        "<p>The image, what was wanted, and what was said.</p>",
        side_by_side(images, kept, kept.worst, draw, truth),
        "<h2>Images spread over the set</h2>",
        side_by_side(images, kept, [kept.spread[i] for i in spread(len(kept.spread), 6)], draw, truth),
        *provenance(card),
    ]
    write_page(path, f"{card.backbone} {card.head} report", sections)


def side_by_side(images: Any, kept: Kept, chosen: Sequence[int], draw: Draw, truth: Callable[[int], Any]) -> str:
    """Each image beside what was wanted and what was said."""
    if not chosen:
        return "<p>None.</p>"
    pictures, captions = [], []
    for i in chosen:
        image = images.read(i)
        pictures += [image, draw(image, truth(i)), draw(image, kept.records[i])]
        score = f" {kept.scores[i]:.2f}" if i in kept.scores else ""
        captions += [Path(images.name(i)).name, "wanted", f"said{score}"]
    return jpeg(contact_sheet(pictures, captions, columns=3, cell=340), "images, what was wanted and what was said")
