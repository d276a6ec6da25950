"""Results as Pascal VOC's files, which CVAT reads as "PASCAL VOC 1.1" and "Segmentation mask 1.1".

Boxes are in `Annotations/NAME.xml`, counted from 1 as VOC does; pictures go into `JPEGImages`. Classes and objects of
masks are index PNGs in `SegmentationClass` and `SegmentationObject`: index 0 is the background, 1 the first class of
`labelmap.txt` after it.
"""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from featherbone.data.label_files import voc_colour
from featherbone.data.map_files import write_labels
from featherbone.files import write_text
from featherbone.ops.rle import decode
from featherbone.results import Detections, Instances, Record, SemanticMap
from featherbone.tasks.card import Card

BACKGROUND = "background"


def write(folder: Path, root: Path, items: Iterable[tuple[Path, Record]], card: Card) -> None:
    """Write the files of detections, instances or semantic maps."""
    names = [BACKGROUND, *(name for name in card.classes if name != BACKGROUND)]
    values = np.zeros(256, np.uint8)  # by class; 255, no prediction, is background
    values[: len(card.classes)] = [names.index(name) for name in card.classes]
    colours = [voc_colour(index) for index in range(256)]
    stems, masked = [], False
    for name, record in items:
        stems.append(name.with_suffix("").as_posix())
        if isinstance(record, Detections):
            write_text(folder / "Annotations" / name.with_suffix(".xml"), _xml(name, record))
        if isinstance(record, SemanticMap | Instances):
            masked = True
            path = name.with_suffix(".png")
            if isinstance(record, Instances):
                numbers = paint(record)
                labels = np.array([*record.labels, 255])[numbers]
                write_labels(folder / "SegmentationObject" / path, (numbers + 1).astype(np.uint8), colours)
            else:
                labels = record.labels
            write_labels(folder / "SegmentationClass" / path, values[labels], colours)
    kinds = ["Main"] * issubclass(type(record), Detections) + ["Segmentation"] * masked if stems else []
    for kind in kinds:
        write_text(folder / "ImageSets" / kind / "default.txt", "".join(f"{stem}\n" for stem in stems))
    if masked:
        lines = [f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in zip(names, colours, strict=False)]
        write_text(folder / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))


def paint(record: Instances) -> NDArray[np.int64]:
    """The index of the object at each pixel (H, W), the highest-scoring one on top; -1 where there is none."""
    numbers = np.full((record.height, record.width), -1)
    for i in sorted(range(len(record)), key=lambda i: record.scores[i]):
        numbers[decode(record.masks[i])] = i
    return numbers


def _xml(name: Path, record: Detections) -> str:
    root = ET.Element("annotation")
    ET.SubElement(root, "folder").text = name.parent.as_posix()
    ET.SubElement(root, "filename").text = name.as_posix()
    size = ET.SubElement(root, "size")
    for tag, pixels in (("width", record.width), ("height", record.height), ("depth", 3)):
        ET.SubElement(size, tag).text = str(pixels)
    ET.SubElement(root, "segmented").text = "0"
    for label, (x1, y1, x2, y2) in zip(record.names, record.boxes, strict=True):
        one = ET.SubElement(root, "object")
        ET.SubElement(one, "name").text = label
        for tag in ("truncated", "difficult"):
            ET.SubElement(one, tag).text = "0"
        box = ET.SubElement(one, "bndbox")
        sides = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": max(x2, x1 + 1), "ymax": max(y2, y1 + 1)}
        for tag, value in sides.items():
            ET.SubElement(box, tag).text = f"{value:.2f}"
    ET.indent(root)
    return ET.tostring(root, "unicode") + "\n"
