"""What a path that is in no known layout looks like, and how to convert it."""

from collections import Counter
from itertools import islice
from pathlib import Path

from featherbone.data.layouts import LAYOUTS, split_of
from featherbone.data.listing import SUFFIXES, list_files, list_folders

_ARCHIVE = "an archive", "unpack it and give the folder with its content"
_KINDS = {
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst"), _ARCHIVE),
    **dict.fromkeys(
        (".tfrecord", ".tfrecords", ".record", ".rec"),
        ("TFRecord or RecordIO", "write its images as files into train/CLASS and val/CLASS, or as Parquet"),
    ),
    **dict.fromkeys((".mdb", ".lmdb"), ("LMDB", "write its images as files into train/CLASS and val/CLASS")),
    **dict.fromkeys(
        (".h5", ".hdf5", ".npz", ".npy", ".mat", ".pkl", ".pt", ".pth"),
        ("arrays in one file", "write them as PNG files into train/CLASS and val/CLASS"),
    ),
    ".parquet": ("Parquet", "name the files train*.parquet and val*.parquet, and give their folder"),
    ".arrow": ("an Arrow file of Hugging Face datasets", "save the dataset with to_parquet('train.parquet')"),
    ".json": ("JSON", "for COCO's name it annotations/instances_train.json, and give the folder that also has images"),
    ".jsonl": ("JSON lines", "name the file metadata.jsonl, with file_name and label, beside the pictures"),
    **dict.fromkeys(
        (".csv", ".tsv", ".xlsx", ".xls"),
        (
            "a table",
            "move each picture into train/CLASS, or name it metadata.csv, with the columns file_name and label",
        ),
    ),
    **dict.fromkeys((".yaml", ".yml"), ("YAML", "for YOLO's name it data.yaml, and give the folder it is in")),
    ".xml": ("XML", "put Pascal VOC's files into Annotations beside JPEGImages, and give the folder of both"),
    ".txt": ("text", "for YOLO's write a data.yaml that names classes and images, and give its folder"),
    **dict.fromkeys(SUFFIXES, ("pictures without classes", "move each to a folder of its class, as train/CLASS/NAME")),
}
"""What files of a suffix are and what to do with them, the first found in a folder being the one named."""
_MOST = 2000
"""Files of a folder that are looked at."""


def describe(path: Path) -> str:
    """What is at `path` and what to do, as the text of an error; `path` is in no known layout."""
    if not path.exists():
        return f"{path}: nothing there; give a folder of one of these layouts:\n{LAYOUTS}"
    if not path.is_dir():
        what, remedy = _KINDS.get(path.suffix.lower(), ("a file", "give a folder"))
        return f"{path}: a file there, {what}; {remedy}. Layouts:\n{LAYOUTS}"
    files = list(islice(list_files(path), _MOST))
    if not files:
        return f"{path}: no files in the folder; give a folder of one of these layouts:\n{LAYOUTS}"
    counts = Counter(file.suffix.lower() for file in files)
    known = [suffix for suffix in _KINDS if counts[suffix] > (suffix == ".txt")]  # one text is a note
    if not known:
        return f"{path}: no data layout known; give a folder of one of these:\n{LAYOUTS}"
    example = next(file for file in files if file.suffix.lower() == known[0]).relative_to(path).as_posix()
    what, remedy = _KINDS[known[0]]
    return f"{path}: no data layout known; {example} is {what}; {remedy}. Layouts:\n{LAYOUTS}"


def only_folder(path: Path) -> Path | None:
    """The one folder in `path`, where all data is in it and its name is not a split's."""
    folders = list_folders(path) if path.is_dir() else []
    return folders[0] if len(folders) == 1 and split_of(folders[0].name) is None else None
