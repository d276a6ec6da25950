"""Maps as files that other tools read: index PNG, COCO's panoptic PNG and JSON."""

import io
from collections.abc import Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.data.formats.panoptic import read_ids
from featherbone.data.images import open_image
from featherbone.files import write_bytes
from featherbone.results import Classification, Detections, PanopticMap, Record, Segment, SemanticMap

GOLDEN = 0.618034
"""Step of the hue from one class to the next, which keeps neighbours apart."""


def write_labels(path: Path, labels: NDArray[np.uint8], colours: Sequence[tuple[int, int, int]] = ()) -> None:
    """Write class indices (H, W) as a PNG with a palette of `colours`."""
    image = Image.fromarray(labels)
    if colours:
        image.putpalette([channel for colour in colours for channel in colour])
    _write_png(path, image)


def write_panoptic(path: Path, ids: NDArray[np.int32]) -> None:
    """Write segment ids (H, W), up to 2^24 - 1, as COCO's PNG: R + 256 G + 65536 B."""
    channels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1)
    _write_png(path, Image.fromarray(channels.astype(np.uint8)))


@dataclass(frozen=True)
class StoredMap:
    """A map in its file, and what its record holds beside it: of many images, maps would fill the memory."""

    path: Path
    values: dict[str, Any]
    """The record's plain values."""
    classes: tuple[str, ...] = ()
    """Names of all classes, of a semantic map."""

    def to_json(self) -> dict[str, Any]:
        """The record's plain values."""
        return self.values

    def load(self) -> SemanticMap | PanopticMap:
        """The record, its map read from the file. Raises `BadImage` where that is gone or damaged."""
        if self.values["task"] == "semantic":
            with open_image(self.path, str(self.path)) as image:
                return SemanticMap(np.array(image), self.classes)
        segments = (Segment(**{**row, "box": tuple(row["box"])}) for row in self.values["segments"])
        return PanopticMap(read_ids(self.path, str(self.path)), tuple(segments))


Kept = Classification | Detections | StoredMap
"""A record as it is kept when there are many."""


def write_map(folder: Path, name: str, record: Record) -> Kept:
    """Write the map of a record as `name`.png into a folder; a record without a map is returned unchanged."""
    path = folder / f"{name}.png"
    if isinstance(record, SemanticMap):
        write_labels(path, record.labels, palette(len(record.classes)))
        return StoredMap(path, record.to_json(), record.classes)
    if isinstance(record, PanopticMap):
        write_panoptic(path, record.ids)
        return StoredMap(path, record.to_json())
    return record


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colours of `count` classes, and black for the rest."""
    colours = [tuple(hls_to_rgb(i * GOLDEN % 1, 0.35 + 0.3 * (i // 2 % 2), 0.9 - 0.4 * (i % 2))) for i in range(count)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours] + [(0, 0, 0)] * (256 - count)


def panoptic_image(record: PanopticMap, image_id: int, file_name: str) -> dict[str, Any]:
    """An image of COCO's panoptic json."""
    return {"id": image_id, "file_name": file_name, "height": record.height, "width": record.width}


def panoptic_annotation(record: PanopticMap, image_id: int, file_name: str, category_ids: Sequence[int]) -> Any:
    """The annotation of one image in COCO's panoptic json."""
    rows = []
    for segment in record.segments:
        x1, y1, x2, y2 = (int(side) for side in segment.box)
        row = {"id": segment.id, "category_id": category_ids[segment.label], "area": segment.area, "iscrowd": 0}
        rows.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    return {"image_id": image_id, "file_name": file_name, "segments_info": rows}


def panoptic_categories(classes: Sequence[str], things: Sequence[int], category_ids: Sequence[int]) -> list[Any]:
    """COCO's list of panoptic classes."""
    return [
        {"id": number, "name": name, "supercategory": name, "isthing": int(label in things)}
        for label, (name, number) in enumerate(zip(classes, category_ids, strict=True))
    ]


def _write_png(path: Path, image: Image.Image) -> None:
    file = io.BytesIO()
    image.save(file, "PNG")
    write_bytes(path, file.getbuffer())
