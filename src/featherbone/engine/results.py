"""What another tool said of a data set's validation images, measured as our own runs are."""

from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.coco import find_image
from featherbone.data.detection import open_detection
from featherbone.data.formats.coco_json import read_bytes
from featherbone.data.label_files import read_values
from featherbone.data.layouts import find_task, find_tasks
from featherbone.data.panoptic import PanopticImages, panoptic_rows, read_ids
from featherbone.data.segmentation import open_segmentation
from featherbone.engine.evaluate import measure_found
from featherbone.engine.evaluate_maps import count_panoptic, measure_maps
from featherbone.errors import BadData, BadImage, BadOption
from featherbone.files import read_json
from featherbone.metrics.detection import read_coco_results
from featherbone.metrics.panoptic import PanopticMetrics
from featherbone.metrics.semantic import SemanticMetrics
from featherbone.ops.label_maps import IGNORE
from featherbone.results import Instances, PanopticMap, SemanticMap
from featherbone.tasks.panoptic import panoptic_map

Measured = tuple[dict[str, Any], tuple[str, ...]]
"""Metrics and class names."""


def evaluate_results(results: Path, data: Path, masks: bool, crowds: str = "ignore", **reading: Any) -> Measured:
    """Metrics of any tool's results on the validation images of a data folder.

    A folder holds index PNGs, a file COCO's results or panoptic json. `crowds` is of `open_detection`, and `reading`
    are keywords of `open_segmentation`.
    """
    if results.is_dir():
        find_task(data, "semantic")
        return evaluate_label_files(results, data, **reading)
    if any(value not in (None, False) for value in reading.values()):
        raise BadOption(f"ignore-index and zero-ignored are for a folder of index PNGs; {results} is none")
    if read_bytes(results, str(results)).lstrip().startswith(b"{") and "panoptic" in find_tasks(data):
        find_task(data, "panoptic")
        return evaluate_panoptic_json(results, data)
    find_task(data, "instance" if masks else "detection")
    return evaluate_detections(results, data, masks, crowds)


def evaluate_detections(results: Path, data: Path, masks: bool, crowds: str = "ignore") -> Measured:
    """Metrics of detections in COCO's results format."""
    images = open_detection(data, masks=masks, crowds=crowds).val
    sizes = {entry.image_id: (entry.height, entry.width) for entry in images.entries}
    found = read_coco_results(results, sizes, images.category_ids, images.classes)
    if masks and not all(isinstance(record, Instances) for record in found.values() if len(record)):
        raise BadData(f"{results}: some detections have no segmentation; omit --masks, or add them")
    return measure_found(images, [found[entry.image_id] for entry in images.entries], masks)[0], images.classes


def evaluate_label_files(folder: Path, data: Path, **reading: Any) -> Measured:
    """Metrics of index PNGs, named as the images, our classes by index; 255 says nothing."""
    images = open_segmentation(data, "semantic", **reading).val
    metrics = SemanticMetrics(len(images.classes))

    def said(index: int) -> SemanticMap:
        path = _beside(folder, Path(images.name(index)).stem)
        values, coloured = read_values(path, str(path))
        odd = values[(values >= len(images.classes)) & (values != IGNORE)]
        if coloured or odd.size:
            what = "colours" if coloured else f"class {int(odd[0])}"
            raise BadData(f"{path}: {what}, where indices 0 to {len(images.classes) - 1} belong; 255 is for none")
        height, width = images.size(index)
        _check_size(values, height, width, path)
        return SemanticMap(values.astype(np.uint8), images.classes)

    def count(index: int, record: SemanticMap) -> float | None:
        return metrics.update(images.labels(index), record.labels)

    return measure_maps(images, metrics, said, count)[0], images.classes


def evaluate_panoptic_json(results: Path, data: Path) -> Measured:
    """Metrics of COCO's panoptic json, whose PNGs lie beside it, in a folder of its name, or under `maps`."""
    images: PanopticImages = open_segmentation(data, "panoptic").val
    metrics = PanopticMetrics(len(images.classes), images.things)
    rows = {a["image_id"]: a for a in panoptic_rows(read_json(results, str(results)), str(results))}
    labels = {number: label for label, number in enumerate(images.category_ids)}
    folders = [results.with_suffix(""), results.parent / "maps", results.parent]

    def said(index: int) -> PanopticMap:
        entry = images.entries[index]
        row = rows.get(entry.image_id)
        if row is None:
            raise BadData(f"{results}: nothing about image {entry.image_id}, {entry.path}; say what is on every image")
        path = find_image(folders, row["file_name"], str(results)) or folders[0] / row["file_name"]
        ids = read_ids(path, str(path))
        _check_size(ids, entry.height, entry.width, path)
        about: list[tuple[int, float | None]] = []
        places = np.zeros_like(ids)
        for segment in row["segments_info"]:
            if segment["category_id"] not in labels:
                raise BadData(f"{results}: category {segment['category_id']} is none of {', '.join(map(str, labels))}")
            about.append((labels[segment["category_id"]], None))
            places[ids == segment["id"]] = len(about)
        return panoptic_map(places, about, images.classes, images.things)

    def count(index: int, record: PanopticMap) -> float | None:
        return count_panoptic(metrics, images, index, record)

    return measure_maps(images, metrics, said, count)[0], images.classes


def _beside(folder: Path, stem: str) -> Path:
    path = folder / f"{stem}.png"
    if not path.is_file():
        raise BadImage(f"{path}: there is no such file; write an index PNG for every validation image")
    return path


def _check_size(values: np.ndarray[Any, Any], height: int, width: int, path: Path) -> None:
    if values.shape != (height, width):
        raise BadData(
            f"{path}: {values.shape[1]}x{values.shape[0]} pixels for an image of {width}x{height}; write maps in the "
            "image's size"
        )
