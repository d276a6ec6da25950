"""Formats of images with marked objects beside COCO's: a file each, found through one registry."""

from pathlib import Path

from featherbone.data.formats.cvat import Cvat
from featherbone.data.formats.format import Format
from featherbone.data.formats.labelme import Labelme
from featherbone.data.formats.voc import Voc
from featherbone.data.yolo import Yolo

FORMATS: tuple[Format, ...] = (Yolo(), Voc(), Cvat(), Labelme())
"""In the order in which they are tried."""


def find_format(folder: Path) -> Format | None:
    """The first format that `folder` is in, None if there is none."""
    return next((one for one in FORMATS if one.matches(folder)), None)
