"""COCO's JSON files as typed values, lenient where tools differ."""

import codecs
import gc
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from featherbone import files
from featherbone.data.objects import to_json
from featherbone.errors import BadData

T = TypeVar("T")
C = TypeVar("C")
A = TypeVar("A")
Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number as such, as text, or as a float without fraction."""

MAX_PIXELS = 1e9
"""Largest coordinate of a box."""
GZIP = b"\x1f\x8b"
ALLOWED: dict[Any, str] = {
    **dict.fromkeys(("id", "image_id", "category_id"), "a whole number from 0 to 2^63 - 1"),
    **dict.fromkeys(("width", "height"), "whole pixels, or nothing to use the size of the image file"),
    "file_name": "the path of the image as text",
    "name": "the name of the class as text",
    "bbox": "x, y, width and height in pixels: four finite numbers",
    "area": "a number of pixels",
    "iscrowd": "0 or 1",
    "score": "a finite number",
    "isthing": "1 for a class that can be counted, else 0",
    "segments_info": "a list of segments with id and category_id",
    **dict.fromkeys(("images", "annotations", "categories"), "a list of values with names"),
}
"""Allowed values of COCO's fields, for messages."""
NONE = msgspec.Raw(b"null")
EMPTY = frozenset((b"null", b"[]", b"{}", b'""', b"0", b"false"))
"""JSON of an annotation that has no mask."""
LISTS = ("images", "annotations", "categories", "segments_info")


class StatedSize(msgspec.Struct, kw_only=True):
    """An image that may state its size."""

    width: int | None = None
    height: int | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width; None where they are not stated."""
        height, width = self.height or 0, self.width or 0
        return (height, width) if min(height, width) > 0 else None


class CocoImage(StatedSize):
    """A listed image."""

    id: Id
    file_name: str


class CocoCategory(msgspec.Struct):
    """A class."""

    id: Id
    name: str | int
    supercategory: Any = None

    @property
    def label(self) -> str:
        """The name as text, without spaces around it."""
        return str(self.name).strip()


class CocoAnnotation(msgspec.Struct):
    """An object in an image."""

    image_id: Id
    category_id: Id
    id: int | float | str | None = None
    bbox: list[float] | None = None
    segmentation: Any = None
    """Checked where masks are read, by `ops.rle.fault`."""
    area: float | None = None
    iscrowd: bool | float | None = None

    @property
    def shape(self) -> bytes:
        """The segmentation as JSON without spaces, empty where there is none."""
        return to_json(self.segmentation) if self.segmentation else b""


class RawAnnotation(CocoAnnotation):
    """The same with a segmentation that was checked to be JSON, but not parsed."""

    segmentation: msgspec.Raw = NONE

    @property
    def shape(self) -> bytes:
        """The segmentation as JSON without spaces, empty where there is none."""
        text = bytes(self.segmentation)
        if text.startswith(b"["):
            text = text.translate(None, b" \t\r\n")
        elif text.startswith(b"{"):
            text = msgspec.json.format(text, indent=-1)
        return b"" if text in EMPTY else text


class CocoResult(msgspec.Struct):
    """A detection in COCO's results format."""

    image_id: Id
    category_id: Id
    score: float
    bbox: list[float] | None = None
    segmentation: Any = None
    file_name: str = ""
    """Path of the image, where it is stated."""


class PanopticCategory(CocoCategory, kw_only=True):
    """A class of panoptic maps."""

    isthing: bool | int


class PanopticSegment(msgspec.Struct):
    """A segment of a panoptic map."""

    id: Id
    category_id: Id
    iscrowd: bool | float | None = None
    bbox: list[int | float] | None = None
    area: int | float | None = None

    @property
    def stated(self) -> dict[str, Any]:
        """What is given of box, area and category."""
        given = {"bbox": self.bbox, "area": self.area, "category_id": self.category_id}
        return {key: value for key, value in given.items() if value is not None}


class PanopticAnnotation(msgspec.Struct):
    """The segments of an image, whose map is in `file_name`."""

    image_id: Id
    file_name: str
    segments_info: list[PanopticSegment]


class CocoFile(msgspec.Struct, Generic[C, A]):
    """What an annotation file holds."""

    images: list[CocoImage]
    categories: list[C]
    annotations: list[A]


class PanopticResults(msgspec.Struct):
    """What a file of panoptic results holds."""

    annotations: list[PanopticAnnotation]


@contextmanager
def without_collector() -> Iterator[None]:
    """Pause the collection of cycles, which would visit the values of a large file repeatedly."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_objects(path: Path, name: str) -> CocoFile[CocoCategory, Any]:
    """An annotation file of objects, whose annotations `parse_annotation` takes.

    Raises `BadData` for a file that is not COCO's, for ids given twice, and where there are no categories.
    """
    content = read_bytes(path, name)
    file: CocoFile[CocoCategory, Any]
    try:
        file = msgspec.json.decode(content, type=CocoFile[CocoCategory, msgspec.Raw], strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        file = _convert(_parse(content, name), CocoFile[CocoCategory, Any], name)
    _check_listing(file, name)
    return file


_DECODER = msgspec.json.Decoder(RawAnnotation, strict=False)


def parse_annotation(row: Any, name: str, place: str) -> tuple[CocoAnnotation, str]:
    """An annotation of `read_objects`, and what is wrong with it: reason and remedy, or nothing.

    Raises `BadData` for one that names no image.
    """
    if isinstance(row, msgspec.Raw):
        try:
            found: CocoAnnotation = _DECODER.decode(row)
            return found, _fault(found, name, place)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            row = _parse(bytes(row), name)
    try:
        found = _typed(row, CocoAnnotation)
        return found, _fault(found, name, place)
    except msgspec.ValidationError as fault:
        error = _explain(fault, row, name, place)
        try:
            return CocoAnnotation(_typed(row["image_id"], Id), 0), error
        except (TypeError, LookupError, msgspec.ValidationError):
            raise BadData(error) from None


def read_typed(path: Path, name: str, kind: type[T]) -> T:
    """A file of COCO's as a value of `kind`. Raises `BadData`, which states place, value and what is allowed."""
    content = read_bytes(path, name)
    try:
        return msgspec.json.decode(content, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _convert(_parse(content, name), kind, name)


def _convert(value: Any, kind: type[T], name: str) -> T:
    try:
        return _typed(value, kind)
    except msgspec.ValidationError as fault:
        raise BadData(_explain(fault, value, name)) from None


def _typed(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except UnicodeEncodeError:  # half a letter (an escape \ud800), which msgspec refuses as text once it is spelled out
        return msgspec.convert(json.loads(json.dumps(value).replace("\\ud", "\\\\ud")), kind, strict=False)


def read_bytes(path: Path, name: str) -> bytes:
    """The bytes of a JSON file, without the byte order mark of Windows. Raises `BadData`."""
    content = files.read_bytes(path, name)
    if content.startswith(GZIP):
        raise BadData(f"{name}: compressed with gzip; unpack it with: gunzip")
    return content.removeprefix(codecs.BOM_UTF8)


def _check_listing(file: CocoFile[Any, Any], name: str) -> None:
    """Raise `BadData` where two images or categories have one id, and for no categories, or one without a name."""
    rows: list[Any]
    for kind, rows in (("images", file.images), ("categories", file.categories)):
        seen: dict[int, int] = {}
        for place, row in enumerate(rows):
            if row.id in seen:
                raise BadData(
                    f"{name}: {kind}[{seen[row.id]}] and {kind}[{place}] have the id {row.id}, an id given to two "
                    f"{kind}; renumber them"
                )
            seen[row.id] = place
    if not file.categories:
        raise BadData(f"{name}: no categories; list the classes")
    for place, category in enumerate(file.categories):
        if not category.label:
            raise BadData(f"{name}: categories[{place}].name is empty; write {ALLOWED['name']}")


def read_panoptic(path: Path, name: str) -> CocoFile[PanopticCategory, PanopticAnnotation]:
    """An annotation file of panoptic maps. Raises `BadData`, as `read_typed`, also for ids and boxes without sense."""
    file = read_typed(path, name, CocoFile[PanopticCategory, PanopticAnnotation])
    _check_listing(file, name)
    _check_segments(file.annotations, name)
    return file


def read_panoptic_results(path: Path, name: str) -> dict[int, PanopticAnnotation]:
    """Panoptic results by the id of the image. Raises `BadData` as `read_panoptic`."""
    rows = read_typed(path, name, PanopticResults).annotations
    _check_segments(rows, name)
    return {row.image_id: row for row in rows}


def _check_segments(rows: list[PanopticAnnotation], name: str) -> None:
    """Raise `BadData` for an image with two annotations, and for ids of segments that a map cannot hold."""
    seen: dict[int, int] = {}
    for place, row in enumerate(rows):
        where = f"{name}: annotations[{place}]"
        if row.image_id in seen:
            raise BadData(f"{where} is of image {row.image_id}, as annotations[{seen[row.image_id]}]; join the two")
        seen[row.image_id] = place
        for at, segment in enumerate(row.segments_info):
            if segment.id >= 1 << 24:
                raise BadData(
                    f"{where}.segments_info[{at}].id is {segment.id}, but maps hold R + 256 G + 65536 B; number the "
                    "segments of an image from 1 to 2^24 - 1, in file and map"
                )
            if not _is_box(segment.bbox):
                raise BadData(f"{where}.segments_info[{at}].bbox is {segment.bbox}; write {ALLOWED['bbox']}")


def _is_box(box: Sequence[float] | None) -> bool:
    """Whether a box that is given has four finite numbers of pixels."""
    if box is None or len(box) != 4:
        return box is None
    x, y, width, height = box
    highest = MAX_PIXELS  # NaN is not below it
    return -highest <= x <= highest and -highest <= y <= highest and abs(width) <= highest and abs(height) <= highest


def _explain(fault: msgspec.ValidationError, value: Any, name: str, place: str = "") -> str:
    """Message for an error of msgspec in `value` at `place` of the file: place, given and allowed values."""
    text, _, path = str(fault).partition(" - at `$")
    steps = [field or int(index) for field, index in re.findall(r"\.(\w+)|\[(\d+)\]", path)]
    fields = [at for at, step in enumerate(steps) if step in ALLOWED and step not in LISTS]
    steps = steps[: fields[-1] + 1] if fields else steps  # of a number in a box the whole box is shown
    for step in steps:
        value = value[step]
    where = (place + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)).lstrip(".")
    if missing := re.search(r"missing required field `(\w+)`", text):
        return f"{name}: {where or 'the file'} has no {missing[1]}; write {ALLOWED.get(missing[1], 'it')}"
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    kind = "a list of values with names" if "Expected `array`" in text else 'values with names, {"id": 1, ...}'
    allowed = ALLOWED.get(steps[-1] if steps else "", kind)
    return f"{name}: {where or 'the file'} is {shown}; write {allowed}"


def _parse(content: bytes, name: str) -> Any:
    """JSON with the NaN and Infinity that Python writes. Raises `BadData`."""
    try:
        return json.loads(content)
    except RecursionError:
        raise BadData(f"{name}: nested too deeply; COCO's files have few levels: write it again") from None
    except ValueError as error:
        raise BadData(f"{name}: not JSON ({error}); write it again") from None


def _fault(row: CocoAnnotation, name: str, place: str) -> str:
    """Message for an invalid value of an annotation of the right types."""
    if row.iscrowd not in (0, 1, None):
        reason = f"iscrowd is {row.iscrowd:g}; write {ALLOWED['iscrowd']}"
    elif row.bbox is None and not row.shape:
        reason = f"bbox is missing, and so is the mask; write {ALLOWED['bbox']}"
    elif not _is_box(row.bbox):
        reason = f"bbox is {row.bbox}; write {ALLOWED['bbox']}"
    else:
        return ""
    return f"{name}: {place}.{reason}; correct or remove it"
