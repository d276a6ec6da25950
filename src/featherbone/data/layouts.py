"""The names of splits, in folders and files, and the layouts that are read."""

import re
from collections.abc import Iterable
from pathlib import Path

from featherbone.data.listing import list_folders
from featherbone.data.place import Url, names_below
from featherbone.errors import BadData

SPLITS = ("train", "val", "test")
"""Splits of a data set. Where there are only `train` and `test`, validation images are held out of `train`."""
ALL = "all"
"""Name of the images of a folder without splits in evaluation."""
TRAINING_SPLITS = ("train", "val")
"""Splits that training reads."""
ANNOTATIONS = (".json", ".jsonl", ".parquet", ".tar")
"""Suffixes of files that may be named after a split."""

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SIDE_WORDS = frozenset(("set", "seg", "data", "dataset", "split", "subset", "images", "image", "imgs", "img", "of"))
"""Words that may accompany the name of a split."""


def split_of(name: str) -> str | None:
    """The split that a folder, file stem or key of this name holds, in any case; None where it names none.

    `Training`, `valid`, `train2017`, `seg_train`, `trainset` and `train-00000-of-00001` name a split; `train_masks`,
    `trainer` and `.train` do not.
    """
    if name.startswith("."):
        return None
    words = [re.sub(r"(?<=.)(set|data|dataset)$", "", word) for word in re.findall(r"[^\W\d_]+", name.casefold())]
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    rest = {word for word in words if word not in _SPLIT_WORDS} - _SIDE_WORDS
    return splits.pop() if len(splits) == 1 and not rest else None


def names_of(split: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that mean the split, the shortest first."""
    return sorted(
        (name for name in names if split_of(name) == split), key=lambda name: (name != split, len(name), name)
    )


def split_folders(parent: Path, split: str) -> list[Path]:
    """Folders in `parent` that hold the split, the shortest name first; none where `parent` is not a folder."""
    return [parent / name for name in names_of(split, [path.name for path in list_folders(parent)])]


def has_splits(data: Path) -> bool:
    """Whether any folder or annotation file of a data set, or in its folders, is named after a split."""
    if isinstance(data, Url):  # whose files are only found by their splits
        return True
    root = data if data.is_dir() else data.parent
    entries = [entry for pattern in ("*", "*/*") for entry in root.glob(pattern)]
    names = [entry.stem for entry in entries if entry.is_dir() or entry.suffix in ANNOTATIONS]
    return any(split_of(word) for name in names for word in re.split(r"[^A-Za-z0-9]", name) if word)


def find_shards(data: Path, suffix: str, what: str) -> dict[str, list[str]]:
    """Files with a suffix below a folder or URL, by the split that their names or folders state.

    Raises `BadData` where those of a split, `what` in messages, are in several folders.
    """
    found: dict[str, list[str]] = {}
    for name in names_below(data, (suffix,)):
        folder, _, file = name.rpartition("/")
        word = re.match(r"[A-Za-z]*", file)
        if split := split_of(word[0] if word else "") or split_of(folder.rpartition("/")[2]):
            found.setdefault(split, []).append(name)
    for split, names in found.items():
        if len(folders := sorted({name.rpartition("/")[0] or "." for name in names})) > 1:
            raise BadData(f"{data}: {what} for {split} in {' and '.join(folders[:3])}; pass the folder of one set")
    return found


ROBOFLOW = "_annotations.coco.json"
"""Roboflow's name of COCO's annotations, beside the images of each split."""

LAYOUTS = """\
  classification   train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg, or train*.parquet and val*.parquet,
                   or train/metadata.csv with file_name and label, or tar shards (as for all tasks but panoptic):
                   train-*.tar and val-*.tar of NAME.jpg with NAME.cls, NAME.json or NAME.mask.png
  multilabel       labels.csv with image and label (a;b), or a metadata file with file_name and a list of labels
  detection        annotations/instances_{train,val}.json, a YOLO data.yaml, or files of Pascal VOC, labelme or CVAT
  instance         annotations/instances_{train,val}.json, or polygons or masks of YOLO, labelme or CVAT
  semantic         images/{train,val}, masks/{train,val}/*.png and classes.txt, or {train,val}/images and .../masks,
                   or without splits, or 0.jpg beside 0_mask.png; Pascal VOC's or CamVid's folders; or as for panoptic
  panoptic         annotations/panoptic_{train,val}.json and panoptic_{train,val}/*.png; or Cityscapes' own folders"""
