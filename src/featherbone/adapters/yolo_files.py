"""Results as YOLO's text files: `labels/NAME.txt`, and `data.yaml` with the class names; pictures go into `images`.

A line is the class index and the centre, width and height of a box, or a polygon, in shares of the picture. Scores have
no place in it.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from featherbone.files import to_json, write_text
from featherbone.ops.outlines import to_polygon
from featherbone.ops.rle import decode
from featherbone.results import Detections, Instances
from featherbone.tasks.card import Card


def write(folder: Path, root: Path, items: Iterable[tuple[Path, Detections]], card: Card) -> None:
    """Write a file for each picture, empty where it has no object, and the list."""
    names = "".join(f"  {label}: {to_json(name)}\n" for label, name in enumerate(card.classes))
    write_text(folder / "data.yaml", f"path: .\ntrain: images\nval: images\nnames:\n{names}")
    for name, record in items:
        lines = [
            " ".join([str(label), *(f"{value:.7g}" for value in _shape(record, i))])
            for i, label in enumerate(record.labels)
        ]
        write_text(folder / "labels" / name.with_suffix(".txt"), "".join(f"{line}\n" for line in lines))


def _shape(record: Detections, index: int) -> list[float]:
    """An object's polygon, or its box where it has no mask."""
    x1, y1, x2, y2 = record.boxes[index]
    values = np.array([[(x1 + x2) / 2, (y1 + y2) / 2], [x2 - x1, y2 - y1]])
    if isinstance(record, Instances):
        polygon = to_polygon(decode(record.masks[index]))
        values = polygon if len(polygon) else np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    return (values / (record.width, record.height)).ravel().tolist()
