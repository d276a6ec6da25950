"""Formats of marked images that are not read but recognised, each with the way to convert it."""

import re
from pathlib import Path

from featherbone.data.formats.named_objects import first_files

_DATUMARO = "convert it, as with Datumaro: datum convert -i {data} -if %s -f coco -o OUT -- --save-media"
_EXPORT = "export it as COCO or YOLO instead"

BY_PATH = {
    **dict.fromkeys(("label_2", "*/label_2"), ("KITTI", _DATUMARO % "kitti")),
    **dict.fromkeys(("labelTxt", "*/labelTxt"), ("DOTA", "export it as YOLO OBB, with a data.yaml")),
    **dict.fromkeys(("gt/gt.txt", "*/gt/gt.txt", "*/*/gt/gt.txt"), ("MOT", _DATUMARO % "mot_seq")),
    **dict.fromkeys(("labels/detections.csv", "*/labels/detections.csv"), ("Open Images", _DATUMARO % "open_images")),
    "annotations/*-annotations-bbox.csv": ("Open Images", _DATUMARO % "open_images"),
    "wider_face_split": ("WIDER FACE", _DATUMARO % "wider_face"),
    "vott-json-export": ("VoTT", "convert it to COCO, or export it as Pascal VOC"),
    **dict.fromkeys(
        ("_annotations.createml.json", "*/_annotations.createml.json"), ("CreateML", f"{_EXPORT} from Roboflow")
    ),
    **dict.fromkeys(
        ("_darknet.labels", "*/_darknet.labels"), ("YOLO Darknet of Roboflow", "export it as YOLOv8, with a data.yaml")
    ),
    **dict.fromkeys(
        ("VOCdevkit/*/Annotations", "VOC[12]*/Annotations"), ("Pascal VOC by year", "give the folder of one year")
    ),
    **dict.fromkeys(("*/ann/*.json", "*/*/ann/*.json"), ("Supervisely", "export it as COCO from Supervisely")),
}
"""Name of a format and what to do, by a path that it has below the data folder."""

BY_CONTENT: dict[tuple[str, bytes], tuple[str, str]] = {
    (".json", rb'"shape_attributes"'): ("VGG Image Annotator (VIA)", "export its annotations as COCO"),
    (".csv", rb"region_shape_attributes"): ("VGG Image Annotator (VIA)", "export its annotations as COCO"),
    (".json", rb'"from_name"\s*:'): ("Label Studio's own JSON", _EXPORT),
    (".json", rb'"dm_format_version"|"infos"\s*:.*"categories"\s*:.*"items"'): ("Datumaro", _DATUMARO % "datumaro"),
    (".json", rb'"box2d"\s*:'): ("BDD100K or Scalabel", "convert it to COCO, as with scalabel.label.to_coco"),
    (".csv", rb"(?i)\Afilename,\s*width,\s*height,\s*class,\s*xmin"): ("TensorFlow's CSV", "convert it to Pascal VOC"),
    (".csv", rb"ImageID,Source,LabelName,Confidence,XMin"): ("Open Images", _DATUMARO % "open_images"),
    (".ndjson", rb'"data_row"'): ("Labelbox", "convert it to COCO with labelbox's converter"),
    (".txt", rb"\A\s*\d+( +\d*[.]\d+){4,}\s"): (
        "YOLO's labels without a list",
        "write a data.yaml beside them, with train, val and names",
    ),
}
"""The same, by the suffix and the first bytes of one of the first files in the usual places."""


def name_unread(data: Path) -> str:
    """What format a folder is in that is not read, and how to convert it; empty where none is recognised."""
    for pattern, (name, remedy) in BY_PATH.items():
        if found := next(data.glob(pattern), None):
            return _text(data, found, name, remedy)
    for suffix in dict.fromkeys(of for of, _ in BY_CONTENT):
        for path in first_files(data, suffix):
            with open(path, "rb") as file:
                head = file.read(1 << 16)
            for (of, content), (name, remedy) in BY_CONTENT.items():
                if of == suffix and re.search(content, head, re.DOTALL):
                    return _text(data, path, name, remedy)
    return ""


def _text(data: Path, path: Path, name: str, remedy: str) -> str:
    where = path.relative_to(data).as_posix()
    return f"{where} is of {name}, which is not read; {remedy.replace('{data}', str(data))}"
