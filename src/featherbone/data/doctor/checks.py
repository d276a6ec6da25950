"""The checks of each kind of annotations, and running those that apply to a table."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from featherbone.data.doctor import image_checks, map_checks, object_checks
from featherbone.data.doctor.table import Table, Truth, collect
from featherbone.data.findings import Finding
from featherbone.data.formats.panoptic import ThingSplit
from featherbone.data.split import Split

Checks = tuple[Callable[[Table], Iterator[Finding]], ...]

ANNOTATION_CHECKS: dict[Truth, Checks] = {
    "labels": (image_checks.check_classes,),
    "lists": (image_checks.check_classes,),
    "objects": (
        object_checks.check_annotations,
        object_checks.check_presence,
        object_checks.check_ids,
        image_checks.check_classes,
        object_checks.check_boxes,
        object_checks.check_same_places,
        object_checks.check_mask_forms,
    ),
}
"""Checks that need no image or map; training runs them before it starts."""
OF_MAPS: Checks = (
    map_checks.check_shown,
    map_checks.check_void,
    image_checks.check_classes,
    map_checks.check_map_copies,
)
PIXEL_CHECKS: dict[Truth, Checks] = {
    "labels": (image_checks.check_input, image_checks.check_label_copies),
    "lists": (image_checks.check_input, image_checks.check_list_copies),
    "objects": (
        image_checks.check_annotated_sizes,
        object_checks.check_masks,
        object_checks.check_input_sizes,
        object_checks.check_object_copies,
    ),
    "values": (map_checks.check_maps, map_checks.check_values, *OF_MAPS),
    "segments": (map_checks.check_maps, map_checks.check_segments, map_checks.check_stuff, *OF_MAPS),
}


def run_checks(table: Table, pixels: bool = True) -> list[Finding]:
    """The findings of every check that applies to the table; without `pixels`, of those that need no image."""
    checks = ANNOTATION_CHECKS.get(table.truth, ())
    if pixels:
        checks += (image_checks.check_readable, *PIXEL_CHECKS.get(table.truth, ()))
    return [finding for check in checks for finding in check(table)]


def check_annotations(splits: Mapping[str, Split[Any]], task: str) -> list[Finding]:
    """What training checks before it starts: the findings that need no image."""
    if any(isinstance(images, ThingSplit) for images in splits.values()):
        return []  # their boxes are on the maps
    return run_checks(collect(splits, task, pixels=False), pixels=False)
