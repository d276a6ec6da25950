"""What another tool said of a split's images, measured as our own runs are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.coco import find_image
from featherbone.data.formats.coco_json import read_bytes, read_panoptic_results
from featherbone.data.label_files import read_values
from featherbone.data.layouts import find_task, find_tasks
from featherbone.data.measured import open_measured
from featherbone.data.objects import MarkedImages
from featherbone.data.panoptic import PanopticImages, read_ids
from featherbone.engine.evaluate import measure_found
from featherbone.engine.evaluate_maps import count_panoptic, measure_maps
from featherbone.errors import BadData, BadImage, BadOption
from featherbone.metrics.detection import read_coco_results
from featherbone.metrics.panoptic import PanopticMetrics
from featherbone.metrics.semantic import SemanticMetrics
from featherbone.ops.label_maps import IGNORE
from featherbone.progress import say
from featherbone.results import Instances, PanopticMap, SemanticMap
from featherbone.tasks.panoptic import panoptic_map


def evaluate_results(
    results: Path, data: Path, masks: bool, split: str | None = None, crowds: str = "ignore", **reading: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Metrics of any tool's results on a split of a data folder, chosen as by `open_measured`, and the class names.

    A folder holds index PNGs, a file COCO's results or panoptic json. `crowds` is of `open_detection`, and `reading`
    are keywords of `open_segmentation`.
    """
    task, measure = find_kind(results, data, masks, reading)
    find_task(data, task)
    opened = open_measured(data, task, split, {**reading, "crowds": crowds})
    for notice in opened.notices:
        say(notice, "note")
    return {**measure(results, data, opened.images), "split": opened.split}, opened.images.classes


def find_kind(
    results: Path, data: Path, masks: bool, reading: dict[str, Any]
) -> tuple[str, Callable[..., dict[str, Any]]]:
    """The task that results are of, and what measures them."""
    if results.is_dir():
        return "semantic", evaluate_label_files
    if any(value not in (None, False) for value in reading.values()):
        raise BadOption(f"ignore-index and zero-ignored are for a folder of index PNGs; {results} is none")
    if read_bytes(results, str(results)).lstrip().startswith(b"{") and "panoptic" in find_tasks(data):
        return "panoptic", evaluate_panoptic_json
    return ("instance", evaluate_masks) if masks else ("detection", evaluate_detections)


def evaluate_masks(results: Path, data: Path, images: MarkedImages) -> dict[str, Any]:
    """Metrics of detections with masks in COCO's results format."""
    return evaluate_detections(results, data, images, masks=True)


def evaluate_detections(results: Path, data: Path, images: MarkedImages, masks: bool = False) -> dict[str, Any]:
    """Metrics of detections in COCO's results format."""
    sizes = {entry.image_id: (entry.height, entry.width) for entry in images.entries}
    found = read_coco_results(results, sizes, images.category_ids, images.classes)
    if masks and not all(isinstance(record, Instances) for record in found.values() if len(record)):
        raise BadData(f"{results}: some detections have no segmentation; omit --masks, or add them")
    return measure_found(images, [found[entry.image_id] for entry in images.entries], masks)[0]


def evaluate_label_files(folder: Path, data: Path, images: Any) -> dict[str, Any]:
    """Metrics of index PNGs, named as the images, our classes by index; 255 says nothing."""
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

    return measure_maps(images, metrics, said, count)[0]


def evaluate_panoptic_json(results: Path, data: Path, images: PanopticImages) -> dict[str, Any]:
    """Metrics of COCO's panoptic json, whose PNGs lie beside it, in a folder of its name, or under `maps`."""
    metrics = PanopticMetrics(len(images.classes), images.things)
    rows = read_panoptic_results(results, str(results))
    labels = {number: label for label, number in enumerate(images.category_ids)}
    folders = [results.with_suffix(""), results.parent / "maps", results.parent]

    def said(index: int) -> PanopticMap:
        entry = images.entries[index]
        row = rows.get(entry.image_id)
        if row is None:
            raise BadData(f"{results}: nothing about image {entry.image_id}, {entry.path}; say what is on every image")
        path = find_image(folders, row.file_name, str(results)) or folders[0] / row.file_name
        ids = read_ids(path, str(path))
        _check_size(ids, entry.height, entry.width, path)
        about: list[tuple[int, float | None]] = []
        places = np.zeros_like(ids)
        for segment in row.segments_info:
            if segment.category_id not in labels:
                raise BadData(f"{results}: category {segment.category_id} is none of {', '.join(map(str, labels))}")
            about.append((labels[segment.category_id], None))
            places[ids == segment.id] = len(about)
        return panoptic_map(places, about, images.classes, images.things)

    def count(index: int, record: PanopticMap) -> float | None:
        return count_panoptic(metrics, images, index, record)

    return measure_maps(images, metrics, said, count)[0]


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
