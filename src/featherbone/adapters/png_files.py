"""Results as index PNGs in the layout of `train`: `masks/NAME.png` and `classes.txt`; pictures go into `images`.

Values are class indices, 255 where there is none. Of instances and segments, the class of each pixel is kept.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherbone.adapters.voc_files import paint
from featherbone.data.map_files import palette, write_labels
from featherbone.files import write_text
from featherbone.results import Instances, PanopticMap, SemanticMap
from featherbone.tasks.card import Card


def write(
    folder: Path, root: Path, items: Iterable[tuple[Path, Instances | SemanticMap | PanopticMap]], card: Card
) -> None:
    """Write a file for each picture and the list of classes."""
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in card.classes))
    for name, record in items:
        write_labels(folder / "masks" / name.with_suffix(".png"), class_map(record), palette(len(card.classes)))


def class_map(record: Instances | SemanticMap | PanopticMap) -> NDArray[np.uint8]:
    """The class index of each pixel (H, W), 255 where there is none."""
    if isinstance(record, SemanticMap):
        return record.labels
    if isinstance(record, Instances):
        return np.array([*record.labels, 255])[paint(record)].astype(np.uint8)
    labels = np.full(max((segment.id for segment in record.segments), default=0) + 1, 255, np.uint8)
    labels[[segment.id for segment in record.segments]] = [segment.label for segment in record.segments]
    return labels[record.ids]
