"""Formats that are recognised but not read, and paths in no known layout, with the way to convert them."""

import re
from collections import Counter
from pathlib import Path

from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.named_objects import first_files
from featherbone.data.layouts import LAYOUTS
from featherbone.data.listing import SUFFIXES, below, list_files, read_head
from featherbone.data.place import Url, names_below
from featherbone.errors import BadData

_DATUMARO = "convert it, as with Datumaro: datum convert -i {data} -if %s -f coco -o OUT -- --save-media"
_EXPORT = "export it as COCO or YOLO instead"
_DATA_YAML = "write a data.yaml beside them, with train, val and names"
_IMAGES = "write its images as files into train/CLASS and val/CLASS"
_ARRAYS = "write them as PNG files into train/CLASS and val/CLASS"
_COCO = "for COCO's name it annotations/instances_train.json, and give the folder that also has images"
_CSV = "move each picture into train/CLASS, or name it metadata.csv, with the columns file_name and label"

BY_PATH = (
    ("label_2, */label_2", "KITTI", _DATUMARO % "kitti"),
    ("labelTxt, */labelTxt", "DOTA", "export it as YOLO OBB, with a data.yaml"),
    ("gt/gt.txt, */gt/gt.txt, */*/gt/gt.txt", "MOT", _DATUMARO % "mot_seq"),
    ("labels/detections.csv, */labels/detections.csv", "Open Images", _DATUMARO % "open_images"),
    ("annotations/*-annotations-bbox.csv", "Open Images", _DATUMARO % "open_images"),
    ("wider_face_split", "WIDER FACE", _DATUMARO % "wider_face"),
    ("vott-json-export", "VoTT", "convert it to COCO, or export it as Pascal VOC"),
    ("_annotations.createml.json, */_annotations.createml.json", "CreateML", f"{_EXPORT} from Roboflow"),
    ("_darknet.labels, */_darknet.labels", "YOLO Darknet of Roboflow", "export it as YOLOv8, with a data.yaml"),
    ("VOCdevkit/*/Annotations, VOC[12]*/Annotations", "Pascal VOC by year", "give the folder of one year"),
    ("*/ann/*.json, */*/ann/*.json", "Supervisely", "export it as COCO from Supervisely"),
)
"""Paths below the data folder, the format that has them, and what to do."""
BY_CONTENT = (
    (".json", rb'"shape_attributes"', "VGG Image Annotator (VIA)", "export its annotations as COCO"),
    (".json", rb'"from_name"\s*:', "Label Studio's own JSON", _EXPORT),
    (".json", rb'"dm_format_version"|"infos"\s*:.*"categories"\s*:.*"items"', "Datumaro", _DATUMARO % "datumaro"),
    (".json", rb'"box2d"\s*:', "BDD100K or Scalabel", "convert it to COCO, as with scalabel.label.to_coco"),
    (".csv", rb"region_shape_attributes", "VGG Image Annotator (VIA)", "export its annotations as COCO"),
    (".csv", rb"(?i)\Afilename,\s*width,\s*height,\s*class,\s*xmin", "TensorFlow's CSV", "convert it to Pascal VOC"),
    (".csv", rb"ImageID,Source,LabelName,Confidence,XMin", "Open Images", _DATUMARO % "open_images"),
    (".ndjson", rb'"data_row"', "Labelbox", "convert it to COCO with labelbox's converter"),
    (".txt", rb"\A\s*\d+( +\d*[.]\d+){4,}\s", "YOLO's labels without a list", _DATA_YAML),
)
"""Suffix and first bytes of one of the first files in the usual places, the format that has them, and what to do."""
_KINDS = {
    suffix: (what, remedy)
    for suffixes, what, remedy in (
        (".tar", "an archive", "unpack it, or as a shard name it train-000000.tar, and give the folder"),
        (".zip .tgz .gz .bz2 .xz .7z .rar .zst", "an archive", "unpack it and give the folder with its content"),
        (".tfrecord .tfrecords .record .rec", "TFRecord or RecordIO", f"{_IMAGES}, or as Parquet"),
        (".mdb .lmdb", "LMDB", _IMAGES),
        (".h5 .hdf5 .npz .mat .pkl .pt .pth", "arrays in one file", _ARRAYS),
        (".parquet", "Parquet", "name the files train*.parquet and val*.parquet, and give their folder"),
        (
            ".arrow",
            "an Arrow file of Hugging Face datasets",
            "convert it with featherbone.adapters.hugging_face.to_parquet(FOLDER, OUT)",
        ),
        (".json", "JSON", _COCO),
        (".jsonl", "JSON lines", "name the file metadata.jsonl, with file_name and label, beside the pictures"),
        (".csv .tsv .xlsx .xls", "a table", _CSV),
        (".yaml .yml", "YAML", "for YOLO's name it data.yaml, and give the folder it is in"),
        (".xml", "XML", "put Pascal VOC's files into Annotations beside JPEGImages, and give the folder of both"),
        (".txt", "text", "for YOLO's write a data.yaml that names classes and images, and give its folder"),
        (" ".join(SUFFIXES), "pictures without classes", "move each to a folder of its class, as train/CLASS/NAME"),
    )
    for suffix in suffixes.split()
}
"""Description and remedy by suffix; the first suffix that a folder has is reported."""
_MAX_FILES = 2000
"""Number of files of a folder that are examined."""


class Unread(Format):
    """Folders that are refused with the way to convert them."""

    name = "formats that are not read"
    fallback = True

    def tasks(self, folder: Path) -> frozenset[str]:
        """None; raises `BadData` for a folder in such a format."""
        if folder.is_dir() and (found := _recognise(folder)):
            path, name, remedy = found
            where = below(folder, path)
            remedy = remedy.replace("{data}", str(folder))
            raise BadData(f"{folder}: {where} is of {name}, which is not read; {remedy}")
        return frozenset()

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        """None: there are no tasks."""
        return None


def _recognise(data: Path) -> tuple[Path, str, str] | None:
    """A file or folder by which the format of a folder is known, its name, and how to convert it."""
    for patterns, name, remedy in BY_PATH:
        for pattern in patterns.split(", "):
            if found := next(data.glob(pattern), None):
                return found, name, remedy
    for suffix in dict.fromkeys(suffix for suffix, *_ in BY_CONTENT):
        for path in first_files(data, suffix):
            head = read_head(path)
            for of, content, name, remedy in BY_CONTENT:
                if of == suffix and re.search(content, head, re.DOTALL):
                    return path, name, remedy
    return None


def describe(path: Path) -> str:
    """Message for a path in no known layout: what it is, and what to do."""
    if isinstance(path, Url):
        name = next(iter(names_below(path, ("",))), None)
        return (
            f"{path}: {f'no such files there, but others, as {name}' if name else 'nothing there'}; of URLs, Parquet "
            "(train*.parquet) and tar shards (train-000000.tar) are read; for other formats pass a folder of this "
            "machine, or write shards of it with: featherbone data shards DIR --out OUT"
        )
    if not path.exists():
        return f"{path}: nothing there; give a folder of one of these layouts:\n{LAYOUTS}"
    if not path.is_dir():
        what, remedy = _KINDS.get(path.suffix.lower(), ("a file", "give a folder"))
        return f"{path}: a file there, {what}; {remedy}. Layouts:\n{LAYOUTS}"
    files = list_files(path)[:_MAX_FILES]
    if not files:
        return f"{path}: no files in the folder; give a folder of one of these layouts:\n{LAYOUTS}"
    counts = Counter(file.suffix.lower() for file in files)
    known = next((suffix for suffix in _KINDS if counts[suffix] > (suffix == ".txt")), None)  # one text may be a note
    if known is None:
        return f"{path}: no data layout known; give a folder of one of these:\n{LAYOUTS}"
    example = next(file for file in files if file.suffix.lower() == known).relative_to(path).as_posix()
    what, remedy = _KINDS[known]
    return f"{path}: no data layout known; {example} is {what}; {remedy}. Layouts:\n{LAYOUTS}"
