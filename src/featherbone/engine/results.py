"""Results of other tools, evaluated like those of our runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.dataset import EvaluationSplit, open_evaluation
from featherbone.data.formats import find_task, find_tasks
from featherbone.data.formats.coco_json import read_bytes, read_panoptic_results
from featherbone.data.formats.panoptic import PanopticSplit, read_ids
from featherbone.data.label_files import read_values
from featherbone.data.named_files import find_below
from featherbone.data.object_split import ObjectSplit
from featherbone.errors import BadData, BadImage, BadOption
from featherbone.metrics.detection import read_coco_results
from featherbone.metrics.outcome import Outcome
from featherbone.ops.label_maps import IGNORE
from featherbone.progress import notify, track
from featherbone.results import Instances, PanopticMap, SemanticMap
from featherbone.tasks.detection import DetectionKind, InstanceKind
from featherbone.tasks.kind import Kind
from featherbone.tasks.panoptic import PanopticKind, panoptic_map
from featherbone.tasks.semantic import SemanticKind

Read = Callable[[int], Any]
"""From the index of an image to its record."""


def evaluate_results(
    results: Path, data: Path, masks: bool, split: str | None = None, crowds: str = "ignore", **reading: Any
) -> tuple[dict[str, Any], tuple[str, ...], Kind]:
    """Metrics of another tool's results on a split of a data folder, the class names, and the task."""
    outcome, opened, kind = measure_results(results, data, masks, split, crowds, **reading)
    metrics = {**outcome.compute(), **outcome.interval(), "split": opened.split}
    return metrics, opened.images.classes, kind


def measure_results(
    results: Path, data: Path, masks: bool, split: str | None = None, crowds: str = "ignore", **reading: Any
) -> tuple[Outcome, EvaluationSplit, Kind]:
    """The outcome of another tool's results on a split of a data folder, that split, and the task.

    A folder holds index PNGs, a file COCO's results or panoptic json. `split` is that of `open_evaluation`; `crowds`
    and `reading` are settings of training.
    """
    kind, reader = find_reader(results, data, masks, reading)
    find_task(data, kind.name)
    opened = open_evaluation(data, kind.name, split, {**reading, "crowds": crowds})
    for notice in opened.notices:
        notify(notice, "note")
    images: Any = opened.images
    outcome, read = kind.outcome(len(images), images), reader(results, images)
    for index in track(range(len(images)), "evaluating", len(images)):
        outcome.add(index, images.truth(index), read(index))
    return outcome, opened, kind


def find_reader(
    results: Path, data: Path, masks: bool, reading: dict[str, Any]
) -> tuple[Kind, Callable[[Path, Any], Read]]:
    """The task that results are of, and the function that reads them."""
    if results.is_dir():
        return SemanticKind(), read_label_maps
    if any(value not in (None, False) for value in reading.values()):
        raise BadOption(f"ignore-index and zero-ignored are for a folder of index PNGs; {results} is not one")
    if read_bytes(results, str(results)).lstrip().startswith(b"{") and PanopticKind.name in find_tasks(data):
        return PanopticKind(), read_panoptic_maps
    return (InstanceKind(), read_masks) if masks else (DetectionKind(), read_detections)


def read_detections(results: Path, images: ObjectSplit) -> Read:
    """Detections in COCO's results format; a `file_name` is the path of an image or an end of it that is unique."""
    sizes = {images.image_id(index): images.size(index) for index in range(len(images))}
    ends: dict[str, list[int]] = {}
    for index in range(len(images)):
        parts = images.name(index).split("/")
        for start in range(len(parts)):
            ends.setdefault("/".join(parts[start:]), []).append(images.image_id(index))
    names = {end: numbers[0] for end, numbers in ends.items() if len(numbers) == 1}
    names |= {images.name(index): images.image_id(index) for index in range(len(images))}
    found = read_coco_results(results, sizes, images.category_ids, images.classes, names)
    return lambda index: found[images.image_id(index)]


def read_masks(results: Path, images: ObjectSplit) -> Read:
    """Detections with masks in COCO's results format."""
    read = read_detections(results, images)
    records = [read(index) for index in range(len(images))]
    if not all(isinstance(record, Instances) for record in records if len(record)):
        raise BadData(f"{results}: some detections have no segmentation; omit --masks, or add them")
    return read


def read_label_maps(folder: Path, images: Any) -> Read:
    """Index PNGs with the names of the images; values are our class indices, 255 is unlabelled."""

    def read(index: int) -> SemanticMap:
        path = folder / f"{Path(images.name(index)).stem}.png"
        if not path.is_file():
            raise BadImage(f"{path}: no such file; write an index PNG for every validation image")
        values, coloured = read_values(path, str(path))
        odd = values[(values >= len(images.classes)) & (values != IGNORE)]
        if coloured or odd.size:
            what = "colours" if coloured else f"class {int(odd[0])}"
            raise BadData(
                f"{path}: {what} instead of indices 0 to {len(images.classes) - 1}; write 255 for unlabelled pixels"
            )
        _check_size(values, images.size(index), path)
        return SemanticMap(values.astype(np.uint8), images.classes)

    return read


def read_panoptic_maps(results: Path, images: PanopticSplit) -> Read:
    """COCO's panoptic json, with PNGs beside it, in a folder of its name, or under `maps`."""
    rows = read_panoptic_results(results, str(results))
    labels = {number: label for label, number in enumerate(images.category_ids)}
    folders = [results.with_suffix(""), results.parent / "maps", results.parent]

    def read(index: int) -> PanopticMap:
        image_id = images.image_id(index)
        row = rows.get(image_id)
        if row is None:
            raise BadData(f"{results}: no entry for image {image_id}, {images.name(index)}; add one for every image")
        path = find_below(folders, row.file_name, str(results)) or folders[0] / row.file_name
        ids = read_ids(path, str(path))
        _check_size(ids, images.size(index), path)
        segments: list[tuple[int, float | None]] = []
        places = np.zeros_like(ids)
        for segment in row.segments_info:
            if segment.category_id not in labels:
                raise BadData(f"{results}: category {segment.category_id} is not one of {', '.join(map(str, labels))}")
            segments.append((labels[segment.category_id], None))
            places[ids == segment.id] = len(segments)
        return panoptic_map(places, segments, images.classes, images.things)

    return read


def _check_size(values: np.ndarray[Any, Any], size: tuple[int, int], path: Path) -> None:
    height, width = size
    if values.shape != (height, width):
        raise BadData(
            f"{path}: {values.shape[1]}x{values.shape[0]} pixels for an image of {width}x{height}; write maps in the "
            "size of their images"
        )
