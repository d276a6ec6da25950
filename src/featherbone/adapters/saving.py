"""Results in the formats of other tools: `predict --save`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from featherbone.adapters import coco_files, label_studio, png_files, voc_files, yolo_files
from featherbone.errors import BadOption
from featherbone.outcomes import Prediction
from featherbone.results import Classification, Detections, Instances, PanopticMap, Record, SemanticMap
from featherbone.tasks.card import Card
from featherbone.tasks.task import kind_of

Form = Literal["coco", "yolo", "voc", "png", "label-studio"]

WRITERS: dict[Form, tuple[Callable[..., None], tuple[type[Record], ...]]] = {
    "coco": (coco_files.write, (Detections,)),
    "yolo": (yolo_files.write, (Detections,)),
    "voc": (voc_files.write, (Detections, SemanticMap)),
    "png": (png_files.write, (Instances, SemanticMap, PanopticMap)),
    "label-studio": (label_studio.write, (Classification, Detections)),
}
"""What writes each format, and the records that it takes."""


def check_forms(forms: Sequence[Form], card: Card) -> None:
    """Raise `BadOption` for a format that does not hold the results of a card's task."""
    record = kind_of(card).record
    fitting = [form for form, (_, kinds) in WRITERS.items() if issubclass(record, kinds)]
    if wrong := [form for form in forms if form not in fitting]:
        raise BadOption(
            f"{wrong[0]} does not hold the results of {card.task}; --save takes {', '.join(fitting)} for it"
        )


def name_pictures(paths: Sequence[Path]) -> tuple[Path, dict[Path, Path]]:
    """The deepest folder that holds all pictures, and the path of each from there.

    Raises `BadOption` where two pictures would have one label file.
    """
    places = {path: Path(os.path.abspath(path)) for path in paths}
    root = Path(os.path.commonpath([place.parent for place in places.values()]))
    names = {path: place.relative_to(root) for path, place in places.items()}
    stems: dict[str, Path] = {}
    for path, name in names.items():
        other = stems.setdefault(name.with_suffix("").as_posix().casefold(), path)
        if other != path:
            raise BadOption(f"{other} and {path} would have one label file; rename one of them, or omit --save")
    return root, names


def save(
    forms: Sequence[Form], folder: Path, paths: Sequence[Path], predictions: Sequence[Prediction], card: Card
) -> tuple[Path, ...]:
    """Write predictions on some of the pictures at `paths` into a folder for each format below `folder`; those folders.

    Records with maps are read from their files, one at a time.
    """
    root, names = name_pictures(paths)
    written = []
    for form in dict.fromkeys(forms):
        write, _ = WRITERS[form]
        written.append(folder / form)
        write(written[-1], root, ((names[one.image], one.record) for one in predictions), card)
    return tuple(written)
