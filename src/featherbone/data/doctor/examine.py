"""Every check on a data set, before training."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from featherbone.data.channels import find_channels
from featherbone.data.dataset import inspect_data
from featherbone.data.doctor.checks import run_checks
from featherbone.data.doctor.object_checks import object_facts
from featherbone.data.doctor.table import collect, truth_of
from featherbone.data.findings import Examination, Finding, worst_first
from featherbone.data.formats import find_task, find_tasks
from featherbone.data.formats.coco import find_coco
from featherbone.data.formats.format import Reading
from featherbone.data.formats.panoptic import ThingSplit
from featherbone.data.split import Split
from featherbone.errors import BadData, BadOption


def examine(
    data: Path,
    task: str,
    input_size: int | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    reading: Reading | None = None,
) -> Examination:
    """Read every image and annotation of `data` once and report everything that is wrong for `task`.

    `input_size` is the height and width of the network's input in pixels, by default 224 for classification and 640
    for other tasks. Images are split as in training. A problem with the data is a finding and never raises;
    `BadOption` is raised for an option of `reading` that has no effect on the data.
    """
    reading = reading or Reading()
    splits, findings = inspect_data(data, task, val_share, seed, reading)
    for split, images in splits.items():
        if isinstance(images, ThingSplit):  # for detection their boxes, else the maps
            splits[split] = images.drawn() if task == "detection" else images.source
    truths = set(map(truth_of, splits.values()))
    if truths - {"values"} and (reading.ignore_index is not None or reading.zero_ignored):
        raise BadOption(f"ignore-index and zero-ignored are for masks of classes; omit them for {task}")
    if truths - {"objects"} and reading.crowds != "ignore":
        raise BadOption(f"crowds is for annotated objects; omit it for {task}")
    return examine_splits(str(data), splits, task, input_size, findings)


def examine_splits(
    data: str,
    splits: Mapping[str, Split[Any]],
    task: str,
    input_size: int | None = None,
    findings: Sequence[Finding] = (),
) -> Examination:
    """The same of splits that are open already, with the `findings` of opening them."""
    channels = None
    with suppress(BadData):  # where no image can be read, each is reported
        channels = find_channels(next(iter(splits.values())), Path(data)) if splits else None
    table = collect(splits, task, input_size or (224 if task == "classification" else 640), channels=channels)
    images = {image.name: image for image in reversed(table.images)}

    @cache
    def draw(name: str) -> bytes:
        return table.draw(images[name]) if name in images else b""

    def illustrate(finding: Finding) -> Finding:
        """The finding, with pictures for examples that have none."""
        pictures = (one.pictures or tuple(map(draw, one.names)) for one in finding.examples)
        examples = zip(finding.examples, pictures, strict=True)
        return replace(finding, examples=tuple(replace(one, pictures=drawn) for one, drawn in examples))

    return Examination(
        data=data,
        classes=table.classes,
        counts={split: tuple(counts.tolist()) for split, counts in table.counts.items()},
        findings=tuple(map(illustrate, worst_first([*findings, *run_checks(table)]))),
        objects=object_facts(table) if table.truth == "objects" else None,
    )


def choose_task(data: Path, task: str | None) -> str:
    """The task to examine data for: `task`, or panoptic where maps of segments are all there is, or detection."""
    fits = find_tasks(data)
    default = "panoptic" if "panoptic" in fits and find_coco(data, "train") is None else "detection"
    return find_task(data, task or (default if default in fits else fits[0]))
