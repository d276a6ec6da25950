"""Results as COCO's files: `results.json` for evaluation, `annotations.json` for annotation tools and training.

Category ids are those of the run's training data, where it was COCO, else the class indices. The id of an image is the
number in its name where all have different ones, as COCO's, else its place in the list, from 1. As ids of another data
set may differ, rows of `results.json` also name the image, by which `featherbone evaluate --results` finds it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featherbone.files import to_json, write_text
from featherbone.metrics.detection import to_coco_results
from featherbone.ops.rle import areas
from featherbone.results import Detections, Instances
from featherbone.tasks.card import Card


def write(folder: Path, root: Path, items: Iterable[tuple[Path, Detections]], card: Card) -> None:
    """Write both files; masks are run lengths."""
    given = list(items)
    numbers = [int(name.stem) for name, _ in given if re.fullmatch(r"\d{1,18}", name.stem, re.ASCII)]
    if len({*numbers}) < len(given):
        numbers = list(range(1, len(given) + 1))
    images: list[Any] = []
    results: list[Any] = []
    annotations: list[Any] = []
    for number, (name, record) in zip(numbers, given, strict=True):
        file_name = name.as_posix()
        images.append({"id": number, "file_name": file_name, "height": record.height, "width": record.width})
        rows = to_coco_results(number, record, card.category_ids)
        results += [{**row, "file_name": file_name} for row in rows]
        covered = areas(record.masks) if isinstance(record, Instances) else [r["bbox"][2] * r["bbox"][3] for r in rows]
        for row, area in zip(rows, covered, strict=True):
            row = {"segmentation": [], **row, "area": float(area), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **row})
    ids = zip(card.category_ids, card.classes, strict=True)
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in ids]
    write_text(folder / "results.json", _lines(results))
    content = {"images": images, "categories": categories, "annotations": annotations}
    parts = [f'"{key}": {_lines(rows)}' for key, rows in content.items()]
    write_text(folder / "annotations.json", "{" + ",\n".join(parts) + "}\n")


def _lines(rows: list[Any]) -> str:
    return "[\n" + ",\n".join(map(to_json, rows)) + "\n]"
