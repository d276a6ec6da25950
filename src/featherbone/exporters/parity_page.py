"""One page that shows what a model and its exported file say of the same pictures, side by side."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from featherbone.data.sampling import spread
from featherbone.draw import contact_sheet, draw_record
from featherbone.exporters.parity import Parity
from featherbone.pages import figures, jpeg, table, write_page
from featherbone.results import Record
from featherbone.tasks.manifest import Manifest

SHOWN = 6


def write_parity_page(
    path: Path,
    manifest: Manifest,
    parity: Parity,
    pictures: Sequence[Image.Image],
    expected: Sequence[Record],
    got: Sequence[Record],
) -> None:
    """The page at `path`: verdict, worst and median differences with their bounds, and up to six pairs of pictures."""
    card = manifest.card
    head = f" with {card.head}" if card.head else ""
    verdict = "Same results" if parity.holds else "Not the same: " + "; ".join(parity.failures)
    sections = [
        f"<h1>{html.escape(manifest.file)}</h1>",
        f'<p class="soft">{html.escape(card.backbone + head)} for {card.task}, {manifest.target}, '
        f"{manifest.precision}, set against the model it was made from</p>",
        f"<p><strong>{html.escape(verdict)}</strong></p>",
        figures(_cells(parity)),
        "<h2>Worst and median of the images, and what is allowed</h2>",
        table(_rows(parity)),
        "<h2>The model's and the file's results</h2>",
    ]
    for i in spread(len(pictures), SHOWN):
        pair = [draw_record(pictures[i], record) for record in (expected[i], got[i])]
        sections.append(jpeg(contact_sheet(pair, ["model", manifest.target], 2, 460), f"picture {i + 1}, both results"))
    write_page(path, f"{manifest.file} parity", sections)


def _cells(parity: Parity) -> dict[str, str]:
    worst = parity.worst
    cells = {"images": str(parity.images)}
    if worst.score is not None:
        cells["largest difference of a score"] = f"{worst.score:.1e}"
    if worst.box_iou is not None:
        cells["least IoU of a box"] = f"{worst.box_iou:.4f}"
    if worst.mask_iou is not None:
        cells["least IoU of a mask"] = f"{worst.mask_iou:.4f}"
    if worst.agreement is not None:
        cells["least agreement of pixels"] = f"{worst.agreement:.2%}"
    return cells


def _rows(parity: Parity) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name in ("score", "box_iou", "mask_iou", "agreement"):
        worst, middle = getattr(parity.worst, name), getattr(parity.median, name)
        if worst is not None:
            bound = getattr(parity.bounds, name)
            rows[name.replace("_", " ")] = f"worst {worst:.6g}, median {middle:.6g}, allowed {bound:g}"
    rows["results without a counterpart"] = parity.worst.unmatched
    rows["raw values, in root mean squares"] = f"worst {parity.raw:.2g}, allowed {parity.bounds.raw:g}"
    return rows
