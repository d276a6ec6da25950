"""The data formats, one file each, and the tasks that a folder serves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from featherbone.data.formats.class_folders import ClassFolders
from featherbone.data.formats.coco import Coco
from featherbone.data.formats.cvat import Cvat
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.label_lists import LabelLists
from featherbone.data.formats.labelme import Labelme
from featherbone.data.formats.masks import Masks
from featherbone.data.formats.panoptic import Cityscapes, CocoPanoptic
from featherbone.data.formats.parquet import Parquet
from featherbone.data.formats.shards import Shards
from featherbone.data.formats.unread import Unread, describe
from featherbone.data.formats.voc import Voc
from featherbone.data.formats.yolo import Yolo
from featherbone.data.layouts import LAYOUTS, split_of
from featherbone.data.listing import list_folders
from featherbone.data.object_split import ObjectSplit
from featherbone.data.place import Url
from featherbone.errors import BadData, BadOption

TASKS = ("detection", "instance", "semantic", "panoptic", "classification", "multilabel")
"""All tasks, in the order in which they are listed."""
FORMATS: list[Format] = [
    *(Coco(), Yolo(), Voc(), Cvat(), Labelme(), Masks(), CocoPanoptic(), Cityscapes()),
    *(LabelLists(), Unread(), Parquet(), ClassFolders(), Shards()),
]
"""The registered formats; the first that serves a task reads the folder."""
MOSTLY_CROWDS = 0.5
"""From this share of crowds among the annotations on, a note asks whether they are single objects."""


def register_format(new: Format) -> None:
    """Add a format, tried before those that are registered."""
    FORMATS.insert(0, new)


def find_tasks(data: Path) -> tuple[str, ...]:
    """Tasks that the layout of `data` serves, in the order of `TASKS`. Raises `BadData` for an unknown layout."""
    found = {task for _, tasks in _matches(data) for task in tasks}
    if found:
        return tuple(task for task in TASKS if task in found) + tuple(sorted(found - set(TASKS)))
    folders = list_folders(data)
    if len(folders) == 1 and split_of(folders[0].name) is None and any(_matches(folders[0])):
        raise BadData(f"{data}: the data set is in its folder {folders[0].name}; pass {folders[0]}")
    raise BadData(describe(data))


def find_task(data: Path, task: str | None) -> str:
    """`task` if the layout of `data` serves it; by default the only task that it serves.

    Classification is multi-label classification where images have lists of labels.
    """
    tasks = find_tasks(data)
    if task == "classification" and task not in tasks and "multilabel" in tasks:
        return "multilabel"
    if task is None and len(tasks) > 1:
        raise BadOption(f"{data} serves {', '.join(tasks)}; choose one with --task")
    if task is not None and task not in tasks:
        raise BadOption(f"{data} serves {', '.join(tasks)}, not {task}; layouts:\n{LAYOUTS}")
    return task or tasks[0]


def find_format(data: Path, task: str) -> Format | None:
    """The format that reads `data` for a task; None where there is none."""
    return next((one for one, tasks in _matches(data) if task in tasks), None)


def open_split(data: Path, task: str, split: str, reading: Reading | None = None) -> Opened | None:
    """One split of a folder, with whatever is wrong in it; None where there is none of that name."""
    reader = find_format(data, task)
    return None if reader is None else read_split(reader, data, task, split, reading or Reading())


def read_split(reader: Format, data: Path, task: str, split: str, reading: Reading) -> Opened | None:
    """One split of a folder by its format; None where there is none of that name."""
    opened = reader.open(data, task, split, reading)
    if opened is None or not isinstance(opened.images, ObjectSplit):
        return opened
    if reading.crowds == "objects":
        return replace(opened, images=opened.images.with_crowds_as_objects())
    crowd = opened.images.table.crowd
    if crowd.sum() <= MOSTLY_CROWDS * len(crowd):
        return opened
    note = (
        f"{crowd.sum()} of {len(crowd)} annotations are crowds (iscrowd 1), which are not trained on; if they are "
        "single objects, as CVAT's brush masks are, pass --crowds objects"
    )
    return replace(opened, notes=(*opened.notes, note))


def _matches(data: Path) -> Iterator[tuple[Format, frozenset[str]]]:
    """The formats that recognise a folder and the tasks that it serves in each."""
    found = False
    for one in FORMATS:
        if isinstance(data, Url) and not one.is_streamed:
            continue
        if not (one.fallback and found) and (tasks := one.tasks(data)):
            found = True
            yield one, tasks
