"""The list of all checks, and running those that apply to a table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from featherbone.data.doctor import image_checks, map_checks, object_checks
from featherbone.data.doctor.collect import collect
from featherbone.data.doctor.table import Table, Truth
from featherbone.data.findings import Finding
from featherbone.data.formats.panoptic import ThingSplit
from featherbone.data.split import Split


@dataclass(frozen=True)
class Check:
    """One check, and the data sets that it applies to."""

    run: Callable[[Table], Iterator[Finding]]
    truths: tuple[Truth, ...]
    """Kinds of annotations."""
    needs_pixels: bool = True
    """Whether images or maps must have been read; training runs the checks that need none before it starts."""
    needs_masks: bool = False
    """Whether it applies only to instance segmentation."""


LABELS: tuple[Truth, ...] = ("labels",)
OBJECTS: tuple[Truth, ...] = ("objects",)
MAPS: tuple[Truth, ...] = ("values", "segments")

CHECKS = (
    Check(image_checks.check_labelled_classes, LABELS, needs_pixels=False),
    Check(object_checks.check_annotations, OBJECTS, needs_pixels=False),
    Check(object_checks.check_presence, OBJECTS, needs_pixels=False),
    Check(object_checks.check_ids, OBJECTS, needs_pixels=False),
    Check(image_checks.check_object_classes, OBJECTS, needs_pixels=False),
    Check(object_checks.check_boxes, OBJECTS, needs_pixels=False),
    Check(object_checks.check_same_places, OBJECTS, needs_pixels=False),
    Check(object_checks.check_mask_forms, OBJECTS, needs_pixels=False, needs_masks=True),
    Check(image_checks.check_readable, (*LABELS, *OBJECTS, *MAPS, "other")),
    Check(image_checks.check_input, LABELS),
    Check(image_checks.check_annotated_sizes, OBJECTS),
    Check(object_checks.check_masks, OBJECTS, needs_masks=True),
    Check(object_checks.check_input_sizes, OBJECTS),
    Check(map_checks.check_maps, MAPS),
    Check(map_checks.check_values, ("values",)),
    Check(map_checks.check_segments, ("segments",)),
    Check(map_checks.check_stuff, ("segments",)),
    Check(map_checks.check_shown, MAPS),
    Check(map_checks.check_void, MAPS),
    Check(image_checks.check_mapped_classes, MAPS),
    Check(image_checks.check_label_copies, LABELS),
    Check(object_checks.check_object_copies, OBJECTS),
    Check(map_checks.check_map_copies, MAPS),
)


def run_checks(table: Table, pixels: bool = True) -> list[Finding]:
    """The findings of every check that applies to the table; without `pixels`, of those that need no image."""
    findings: list[Finding] = []
    for check in CHECKS:
        applies = table.truth in check.truths and (table.task == "instance" or not check.needs_masks)
        if applies and (pixels or not check.needs_pixels):
            findings += check.run(table)
    return findings


def check_annotations(splits: Mapping[str, Split[Any]], task: str) -> list[Finding]:
    """What training checks before it starts: the findings that need no image."""
    if any(isinstance(images, ThingSplit) for images in splits.values()):
        return []  # their boxes are on the maps
    return run_checks(collect(splits, task, pixels=False), pixels=False)
