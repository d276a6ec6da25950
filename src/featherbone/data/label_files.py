"""Masks: class values as indices, palettes or colours, and the codes of public data sets."""

import csv
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from featherbone.data.findings import listed
from featherbone.data.images import open_image
from featherbone.data.layouts import SPLITS, split_folders
from featherbone.data.listing import lines_of
from featherbone.errors import BadData, BadImage
from featherbone.files import read_text
from featherbone.ops.label_maps import IGNORE

CLASSES = "classes.txt"
VOID = ("void", "ignore", "unlabelled", "unlabeled", "__ignore__")
"""Names that stand for unlabelled pixels."""
LOSSY = ("JPEG", "MPO", "AVIF")
"""Formats whose pixels are not what was saved. MPO is JPEG of several pictures."""
CITYSCAPES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
"""Cityscapes' `labelIds` that count, in the order of their `trainIds`."""
CITYSCAPES_THINGS = range(24, 34)
"""Those that can be counted."""
VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Pascal VOC's classes by index."""

Values = NDArray[np.int32]


@dataclass(frozen=True)
class Code:
    """The classes of mask values."""

    names: tuple[str, ...]
    """Class names by index."""
    values: Mapping[int, int]
    """Class index by value of a grey or palette mask; `IGNORE` for unlabelled."""
    colours: Mapping[int, int] | None = None
    """Class index by colour, 65536 R + 256 G + B, of an RGB mask."""

    def table(self, coloured: bool) -> Mapping[int, int]:
        """Class index by value, or by colour."""
        return (self.colours or {}) if coloured else self.values

    def read(self, path: Path | bytes, name: str) -> tuple[Values, bool]:
        """Values (H, W) of a mask, as `read_values`; a palette image by its colours where all of them are classes."""
        return read_values(path, name, self.colours or ())

    def classes(self, values: Values, coloured: bool) -> NDArray[np.int16]:
        """Class indices (H, W) of values (H, W); -1 for a value that is not in the code."""
        known = sorted(self.table(coloured).items())
        if not known:
            return np.full(values.shape, -1, np.int16)
        keys, labels = np.array(known, np.int64).T
        places = np.searchsorted(keys, values).clip(max=len(keys) - 1)
        return np.where(keys[places] == values, labels[places], -1).astype(np.int16)


def read_values(path: Path | bytes, name: str, palette: Container[int] = ()) -> tuple[Values, bool]:
    """Values (H, W) as they are stored, and whether they are colours, 65536 R + 256 G + B. Raises `BadImage`.

    A palette image holds colours where all that it uses are of `palette`, else indices.
    """
    with open_image(path, name) as image:
        if image.format in LOSSY:
            raise BadImage(f"{name}: {image.format} blurs the classes at their borders; save masks as PNG")
        if image.mode in ("RGB", "RGBA"):
            return _colours(np.asarray(image.convert("RGB"))), True
        if image.mode not in ("1", "L", "LA", "P", "PA") and not image.mode.startswith("I"):
            raise BadImage(f"{name}: a picture of mode {image.mode}; save masks as grey, palette or RGB PNG")
        if image.mode in ("LA", "PA"):
            return np.asarray(image)[..., 0].astype(np.int32), False
        values = np.asarray(image).astype(np.int32)
        if image.mode == "P" and (colours := palette_of(image)).size:
            used = np.unique(values)
            if used.max(initial=0) < len(colours) and all(int(colours[value]) in palette for value in used):
                return colours[values], True
        return values, False


def palette_of(image: Image.Image) -> Values:
    """Colours (n,) of a palette image by index."""
    return _colours(np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3))


def _colours(channels: NDArray[np.uint8]) -> Values:
    """Colours (...), 65536 R + 256 G + B, of channels (..., 3)."""
    return channels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


class Row(NamedTuple):
    """One class of a class list."""

    name: str
    colour: int | None = None
    """65536 R + 256 G + B."""
    value: int | None = None
    """In grey or palette masks; by default the place in the list."""


def read_code(data: Path, ignore_index: int | None = None, zero_ignored: bool = False) -> Code:
    """The code of a folder's masks, from the first of `CLASS_FILES` in it or in a folder of a split.

    `classes.txt` has a name a line, by index; a line may end in a colour, as `#ff8800` or `255 136 0`. Where every
    class has a grey colour, these are the values of grey masks. Classes called void or the like are unlabelled, as are
    `ignore_index` and, with `zero_ignored`, index 0, for which a list of names has no line. Raises `BadData`.
    """
    path = _find_list(data)
    if path is None:
        raise BadData(
            f"{data}: no {CLASSES}; write one, with the name of a class a line, in the order of the indices; also read "
            f"are {', '.join(list(CLASS_FILES)[1:])}"
        )
    rows = CLASS_FILES[path.name](read_text(path, path.name), path.name)
    return code_of(rows, path.name, ignore_index, zero_ignored or path.name == ADE20K)


def has_code(data: Path) -> bool:
    """Whether there is a list of classes."""
    return _find_list(data) is not None


def _find_list(data: Path) -> Path | None:
    folders = (data, *(folder for split in SPLITS for folder in split_folders(data, split)))
    return next((folder / name for folder in folders for name in CLASS_FILES if (folder / name).is_file()), None)


def code_of(rows: Sequence[Row], file: str, ignore_index: int | None = None, zero_ignored: bool = False) -> Code:
    """The code of listed classes; messages call the list `file`."""
    places = [row.value if row.value is not None else i for i, row in enumerate(rows, int(zero_ignored))]
    given = [row.colour for row in rows if row.colour is not None]
    if len(given) == len(rows) and all(colour % 0x010101 == 0 for colour in given):
        places = [colour // 0x010101 for colour in given]
    values: dict[int, int] = {IGNORE: IGNORE}
    colours: dict[int, int] = {}
    names: list[str] = []
    for place, row in zip(places, rows, strict=True):
        counts = place != ignore_index and row.name.lower() not in VOID and not (zero_ignored and place == 0)
        label = len(names) if counts else IGNORE
        if row.colour is not None:
            if row.colour in colours and colours[row.colour] != label:
                raise BadData(f"{file}: the colour of {row.name} is also another class's; give each a different one")
            colours[row.colour] = label
        if place in values and place != IGNORE:
            raise BadData(f"{file}: the value {place} of {row.name} is also another class's; give each a different one")
        values[place] = label
        names += [row.name] if counts else []
    if zero_ignored:
        values[0] = IGNORE
    if ignore_index is not None:
        values[ignore_index] = IGNORE
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadData(f"{file}: {listed(twice)} listed more than once; give each class a different name")
    if not names:
        raise BadData(f"{file}: no classes; write the name of a class a line")
    if len(names) >= IGNORE:
        raise BadData(f"{file}: {len(names)} classes; the maximum is {IGNORE - 1}")
    return Code(tuple(names), values, colours or None)


def voc_code() -> Code:
    """Of Pascal VOC's masks: indices in VOC's palette, or its colours, and its border as no class."""
    named = (*enumerate(VOC), (IGNORE, "void"))
    rows = [Row(name, int(_colours(np.array(voc_colour(value), np.uint8))), value) for value, name in named]
    return code_of(rows, "Pascal VOC")


def voc_colour(index: int) -> tuple[int, int, int]:
    """Red, green and blue of an index in VOC's palette, which spreads its bits over their highest bits."""
    red, green, blue = (
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)
    )
    return red, green, blue


def cityscapes_code() -> Code:
    """Of `labelIds` files."""
    classes = {number: index for index, number in enumerate(CITYSCAPES)}
    return Code(tuple(CITYSCAPES.values()), {number: classes.get(number, IGNORE) for number in range(-1, 34)})


def cityscapes_train_code() -> Code:
    """Of `labelTrainIds` files."""
    return Code(tuple(CITYSCAPES.values()), {**{i: i for i in range(len(CITYSCAPES))}, IGNORE: IGNORE})


def _read_names(text: str, file: str) -> list[Row]:
    """A name a line, with a colour if it has one; labelme's `__ignore__` in the first line has no index."""
    rows = []
    for line in lines_of(text):
        words = line.replace(",", " ").split()
        if len(words) > 1 and words[-1].startswith("#"):
            rows.append(Row(" ".join(words[:-1]), _colour(line, file, words[-1])))
        elif len(words) > 3 and all(word.isdigit() for word in words[-3:]):
            rows.append(Row(" ".join(words[:-3]), _colour(line, file, *words[-3:])))
        else:
            rows.append(Row(line))
    return rows[1:] if rows and rows[0].name == "__ignore__" else rows


def _colour(line: str, file: str, *words: str) -> int:
    """A colour written as #rrggbb, or as three numbers."""
    try:
        channels = [int(word) for word in words] if len(words) == 3 else ImageColor.getrgb(words[0])[:3]
        if not all(0 <= channel <= 255 for channel in channels):
            raise ValueError("a channel above 255")
    except ValueError as error:
        raise BadData(f"{file}: {line.strip()!r}: {error}; write a name and #rrggbb, or a name and R G B") from None
    return int(_colours(np.array(channels, np.uint8)))


def _read_camvid(text: str, file: str) -> list[Row]:
    """CamVid's table: R G B and the name."""
    lines = [line.split(maxsplit=3) for line in lines_of(text, "#")]
    if odd := next((line for line in lines if len(line) < 4), None):
        raise BadData(f"{file}: {' '.join(odd)!r}; write R G B and a name a line")
    return [Row(name, _colour(f"{name} {r} {g} {b}", file, r, g, b)) for r, g, b, name in lines]


def _read_cvat(text: str, file: str) -> list[Row]:
    """CVAT's and Datumaro's table for VOC: name:R,G,B:parts:actions."""
    rows = []
    for line in lines_of(text, "#"):
        name, channels = f"{line}:".split(":")[:2]
        colour = _colour(line, file, *channels.split(",")) if channels.count(",") == 2 else None
        rows.append(Row(name, colour))
    return rows


def _read_table(text: str, file: str) -> list[Row]:
    """A table with columns name, r, g and b, as `class_dict.csv` has them, or value and class, as Roboflow's."""
    table = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    rows = []
    for line in ({str(key).strip().lower(): str(value).strip() for key, value in row.items()} for row in table):
        name = line.get("name") or line.get("class")
        if not name or not (line.get("pixel value", "").isdigit() or {"r", "g", "b"} <= line.keys()):
            raise BadData(f"{file}: columns {', '.join(line)}; write name,r,g,b, or Pixel Value,Class")
        if "pixel value" in line:
            rows.append(Row(name, value=int(line["pixel value"])))
        else:
            rows.append(Row(name, _colour(", ".join(line.values()), file, line["r"], line["g"], line["b"])))
    return rows


def _read_ade20k(text: str, file: str) -> list[Row]:
    """ADE20K's table: index, three shares, whether it is stuff, and the name, by tabs; the index 0 is no class."""
    lines = [line.split("\t") for line in lines_of(text)]
    if any(len(line) < 2 for line in lines) or any(not line[0].strip().isdigit() for line in lines[1:]):
        raise BadData(f"{file}: not ADE20K's table of index ... name by tabs; write {CLASSES} instead")
    return [Row(line[-1].strip(), value=int(line[0])) for line in lines[1:]]


ADE20K = "objectInfo150.txt"
CLASS_FILES: Mapping[str, Callable[[str, str], list[Row]]] = {
    **{CLASSES: _read_names, "class_dict.csv": _read_table, "label_colors.txt": _read_camvid},
    **{"labelmap.txt": _read_cvat, "_classes.csv": _read_table, ADE20K: _read_ade20k},
    **{"class_names.txt": _read_names, "labels.txt": _read_names},
}
"""Files that list classes and how they are read, the first that is there: ours, CamVid's, CVAT's, Roboflow's, ADE20K's
and labelme's."""
