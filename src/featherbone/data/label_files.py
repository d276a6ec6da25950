"""Files whose pixels name a class: indices, palettes, colours, and the codes of the public data sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from featherbone.data.findings import listed
from featherbone.data.images import open_image
from featherbone.errors import BadData, BadImage
from featherbone.files import read_text
from featherbone.ops.label_maps import IGNORE

CLASSES = "classes.txt"
VOID = ("void", "ignore", "unlabelled", "unlabeled")
"""Names of what is no class."""
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

Values = NDArray[np.int32]


@dataclass(frozen=True)
class Code:
    """What the values of a file mean."""

    names: tuple[str, ...]
    """Of the classes."""
    values: Mapping[int, int]
    """Class by value of a grey or palette file; `IGNORE` for none."""
    colours: Mapping[int, int] | None = None
    """Class by colour, 65536 R + 256 G + B, of a coloured file."""

    def table(self, coloured: bool) -> Mapping[int, int]:
        """Class by value, or by colour."""
        return (self.colours or {}) if coloured else self.values

    def classes(self, values: Values, coloured: bool) -> NDArray[np.int16]:
        """Classes (H, W) of values (H, W); -1 for a value without a meaning."""
        table = self.table(coloured)
        known = np.array(sorted(table), np.int64)
        meaning = np.array([table[int(value)] for value in known], np.int16)
        if not len(known):
            return np.full(values.shape, -1, np.int16)
        places = np.searchsorted(known, values).clip(max=len(known) - 1)
        return np.where(known[places] == values, meaning[places], -1).astype(np.int16)


def read_values(path: Path, name: str) -> tuple[Values, bool]:
    """Values (H, W) as they are stored, and whether they are colours, 65536 R + 256 G + B. Raises `BadImage`."""
    with open_image(path, name) as image:
        if image.format in LOSSY:
            raise BadImage(f"{name}: {image.format} blurs the classes at their borders; save masks as PNG")
        if image.mode in ("RGB", "RGBA"):
            channels = np.asarray(image.convert("RGB")).astype(np.int32)
            return channels @ np.array([65536, 256, 1], np.int32), True
        if image.mode not in ("1", "L", "LA", "P") and not image.mode.startswith("I"):
            raise BadImage(f"{name}: a picture of mode {image.mode}; save masks as grey, palette or RGB PNG")
        return np.asarray(image.getchannel("L") if image.mode == "LA" else image).astype(np.int32), False


def read_code(data: Path, ignore_index: int | None = None, zero_ignored: bool = False) -> Code:
    """The code of a folder's masks, from `classes.txt` in it: a name a line, by index, with a colour if it has one.

    A line may end in a colour, as `#ff8800` or `255 136 0`. Classes called void and the like are none, nor is
    `ignore_index`, nor with `zero_ignored` index 0, for which the file has no line. Raises `BadData`.
    """
    path = data / CLASSES
    if not path.is_file():
        raise BadData(f"{data}: no {CLASSES}; write one, with the name of a class a line, in the order of the indices")
    rows = [_read_line(line) for line in read_text(path, CLASSES).splitlines() if line.strip()]
    values: dict[int, int] = {IGNORE: IGNORE}
    colours: dict[int, int] = {}
    names: list[str] = []
    for index, (name, colour) in enumerate(rows, int(zero_ignored)):
        counts = index != ignore_index and name.lower() not in VOID
        values[index] = len(names) if counts else IGNORE
        if colour is not None:
            if colour in colours:
                raise BadData(f"{CLASSES}: the colour of {name} is another class's, too; give each its own")
            colours[colour] = values[index]
        names += [name] if counts else []
    if zero_ignored:
        values[0] = IGNORE
    if ignore_index is not None:
        values[ignore_index] = IGNORE
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadData(f"{CLASSES}: {listed(twice)} named more than once; give each class its own name")
    if not names:
        raise BadData(f"{CLASSES}: no classes; write the name of a class a line")
    if len(names) >= IGNORE:
        raise BadData(f"{CLASSES}: {len(names)} classes; at most {IGNORE - 1} can be told apart")
    return Code(tuple(names), values, colours or None)


def cityscapes_code() -> Code:
    """Of `labelIds` files."""
    classes = {number: index for index, number in enumerate(CITYSCAPES)}
    return Code(tuple(CITYSCAPES.values()), {number: classes.get(number, IGNORE) for number in range(-1, 34)})


def cityscapes_train_code() -> Code:
    """Of `labelTrainIds` files."""
    return Code(tuple(CITYSCAPES.values()), {**{i: i for i in range(len(CITYSCAPES))}, IGNORE: IGNORE})


def _read_line(line: str) -> tuple[str, int | None]:
    """Name and colour, if there is one, of a line of `classes.txt`."""
    words = line.replace(",", " ").split()
    try:
        if len(words) > 1 and words[-1].startswith("#"):
            red, green, blue = ImageColor.getrgb(words[-1])[:3]
            return " ".join(words[:-1]), 65536 * red + 256 * green + blue
        if len(words) > 3 and all(word.isdigit() for word in words[-3:]):
            channels = [int(word) for word in words[-3:]]
            if max(channels) > 255:
                raise ValueError("a channel above 255")
            return " ".join(words[:-3]), int(np.dot(channels, [65536, 256, 1]))
    except ValueError as error:
        raise BadData(f"{CLASSES}: {line.strip()!r}: {error}; write a name and #rrggbb, or a name and R G B") from None
    return line.strip(), None
