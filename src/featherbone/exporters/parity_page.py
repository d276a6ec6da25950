"""The page that shows the results of a model and of its exported file on the same pictures."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from featherbone.data.sampling import spread
from featherbone.draw import draw_record
from featherbone.exporters.manifest import Manifest
from featherbone.exporters.parity import Parity
from featherbone.report import render
from featherbone.results import Record

NUM_SHOWN = 6


def write_parity_page(
    path: Path,
    manifest: Manifest,
    parity: Parity,
    pictures: Sequence[Image.Image],
    expected: Sequence[Record],
    got: Sequence[Record],
) -> None:
    """Write the page: verdict, worst and median differences with their bounds, and up to six pairs of pictures."""
    names = {
        "score": "difference of scores",
        "box_iou": "IoU of boxes",
        "mask_iou": "IoU of masks",
        "agreement": "share of equal pixels",
    }
    rows = [
        (name, *(getattr(part, key) for part in (parity.worst, parity.median, parity.bounds)))
        for key, name in names.items()
        if getattr(parity.worst, key) is not None
    ]
    chosen = spread(len(pictures), NUM_SHOWN)
    render(
        "parity.html",
        path,
        manifest=manifest,
        card=manifest.card,
        parity=parity,
        rows=rows,
        pictures=[draw_record(pictures[i], record) for i in chosen for record in (expected[i], got[i])],
        captions=["model", manifest.target] * len(chosen),
    )
