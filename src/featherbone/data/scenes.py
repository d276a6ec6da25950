"""Drawn pictures of shapes on grass, water or brick, for the demo.

A picture is drawn with nine samples per pixel and averaged, so edges are smooth; the label of a pixel is that of its
centre sample, so labels are exact. Random numbers come from one generator, and arrays are computed only with operations
that IEEE 754 rounds exactly (no sine, no matrix product): a seed and an index give the same picture on every machine.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.errors import BadOption
from featherbone.files import atomic_folder, check_new_folder

THINGS = ("circle", "square", "triangle", "star", "cross", "ring")
STUFF = ("grass", "water", "brick")
CLASSES = (*THINGS, *STUFF)
"""Names by label. Things differ only in their outline: colour, pattern, size, rotation and ground are random."""

SMALLEST = 32  # pixels of height and width; a thing in a smaller picture could fall between the centre samples
SAMPLES = 3  # per pixel and axis; odd, so that one is the centre
MIDDLES = np.s_[SAMPLES // 2 :: SAMPLES, SAMPLES // 2 :: SAMPLES]

RAMPS = {"grass": ((44, 92, 38), (148, 186, 84)), "water": ((24, 84, 138), (150, 208, 224)),
         "brick": ((196, 186, 170), (164, 78, 58))}  # fmt: skip
COLOURS = np.array(
    [(231, 76, 60), (243, 146, 28), (247, 202, 64), (155, 89, 182), (52, 63, 94), (236, 122, 170),
     (26, 188, 156), (41, 98, 200), (245, 240, 228), (112, 62, 42), (160, 215, 70), (120, 205, 250)], np.float32
)  # fmt: skip

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


def draw_portrait(seed: int, index: int, size: tuple[int, int], label: int) -> Image.Image:
    """Draw one large, nearly upright thing in the middle of one ground.

    `label` indexes `THINGS`; `size` is height and width, each at least 32 pixels. Raises `BadOption`.
    """
    painting = Painting(seed, index, size)
    painting.add_portrait(label)
    return painting.image()


def write_classification(
    folder: Path, train: int = 1200, val: int = 300, size: tuple[int, int] = (64, 64), seed: int = 0
) -> None:
    """Write portraits as `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, the classes in turn.

    The folder must be new or empty, and appears when it is complete. Raises `BadOption`.
    """
    if min(train, val) < 1:
        raise BadOption(f"{train} training and {val} validation images; use at least one of each")
    check_new_folder(folder)
    with atomic_folder(folder) as new:
        for stream, (split, count) in enumerate((("train", train), ("val", val))):
            for number in range(count):
                label = number % len(THINGS)
                path = new / split / THINGS[label] / f"{number:05}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_drawing(draw_portrait(seed, 2 * number + stream, size, label), path)


def save_drawing(image: Image.Image, path: Path) -> None:
    """Save a small drawing; as JPEG, its colours are not subsampled."""
    image.save(path, quality=92, subsampling=0)


class Painting:
    """A picture while it is drawn, as samples: `colours` (3, H, W) and `regions` (H, W), which index `labels`."""

    def __init__(self, seed: int, index: int, size: tuple[int, int]) -> None:
        if min(size) < SMALLEST:
            raise BadOption(f"drawing of {size[0]}x{size[1]} pixels; use a height and a width of {SMALLEST} or more")
        self.rng = np.random.default_rng((seed, index))
        self.shape = (SAMPLES * size[0], SAMPLES * size[1])
        self.side = min(self.shape)
        self.regions = np.zeros(self.shape, np.uint16)
        self.labels: list[int] = []  # one per region
        self.needed: list[float] = []  # minimum number of visible pixels per region

    def lay_ground(self, split: bool) -> None:
        """Fill the picture with one ground and, if `split`, with another below a wavy border."""
        upper, lower = (len(THINGS) + int(kind) for kind in self.rng.permutation(len(STUFF))[:2])
        self.colours = self._ground(upper)
        self.labels, self.needed = [upper], [0]
        if split:
            start, slope = self.rng.uniform((0.3, -0.3), (0.5, 0.3)).astype(np.float32)
            x, y = (np.linspace(0, 1, n, dtype=np.float32) for n in (self.shape[1], self.shape[0]))
            border = start + slope * (x - 0.5) + 0.2 * self._noise(self.side, self.side / 3)[0]
            below = y[:, None] > border
            np.copyto(self.colours, self._ground(lower), where=below)
            self.regions[below] = 1
            self.labels, self.needed = [upper, lower], [0, 0]

    def add_thing(self, label: int, radius: tuple[float, float], reach: float, tilt: float = math.pi) -> bool:
        """Draw a thing on top; radius and distance from the centre are fractions of the side, the tilt is in radians.

        Returns False and draws nothing if another thing would be more than half covered.
        """
        r = self.side * self.rng.uniform(*radius)
        middle = (0.5 + self.rng.uniform(-reach, reach, 2)) * self.shape
        angle = self.rng.uniform(-tilt, tilt)
        corner = SAMPLES * np.floor((middle - 1.15 * r) / SAMPLES).astype(int)  # 0.15 is the margin of the soft edge
        n = math.ceil(2.3 * r) + SAMPLES
        y, x = (((np.arange(n) + start - m) / r).astype(np.float32) for start, m in zip(corner, middle, strict=True))
        y, cos, sin = y[:, None], np.float32(math.cos(angle)), np.float32(math.sin(angle))
        u, v = cos * x + sin * y, cos * y - sin * x
        inside = _inside(THINGS[label], u, v)

        there, here = self._overlap(corner, n)
        mask, pixels = inside[here], inside[here][MIDDLES]
        shown = np.bincount(self.regions[MIDDLES].ravel(), minlength=len(self.labels))
        shown -= np.bincount(self.regions[there][MIDDLES][pixels], minlength=len(self.labels))
        if any(shown < self.needed):
            return False

        soft = _resize(_resize(inside * np.uint8(255), (14, 14)), (n, n)).astype(np.float32) / 255
        under, shadow = self._overlap(corner + round(0.12 * r), n)
        self.colours[:, *under] *= 1 - 0.5 * soft[shadow]
        bevel = 0.75 + 0.4 * soft - 0.16 * (x + y)  # lit from the upper left
        pair = COLOURS[self.rng.permutation(len(COLOURS))[:2]] + self.rng.integers(-16, 17, 3).astype(np.float32)
        colours = _mix(pair, self._pattern(u, v)) * bevel
        np.copyto(self.colours[:, *there], colours[:, *here], where=mask)
        self.regions[there][mask] = len(self.labels)
        self.labels.append(label)
        self.needed.append(pixels.sum() / 2)
        return True

    def add_portrait(self, label: int) -> None:
        """Fill the picture with one ground and one thing."""
        self.lay_ground(split=False)
        self.add_thing(label, radius=(0.32, 0.44), reach=0.07, tilt=0.3)

    def image(self) -> Image.Image:
        """The picture in pixels."""
        light = np.linspace(1.06, 0.94, self.shape[0], dtype=np.float32)[:, None]
        planes = np.clip(self.colours * light, 0, 255).astype(np.uint8)
        return Image.merge("RGB", [Image.fromarray(plane).reduce(SAMPLES) for plane in planes])

    def _overlap(self, corner: NDArray[np.int64], n: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part of the picture that a square of n samples at `corner` covers, and that part of the square."""
        (top, left), (height, width) = corner, self.shape
        there = np.s_[max(top, 0) : top + n, max(left, 0) : left + n]
        return there, np.s_[max(-top, 0) : height - top, max(-left, 0) : width - left]

    def _noise(self, *cell: float) -> Floats:
        """Smooth noise from 0 to 1 over the picture; `cell` is the height and width of its features in samples."""
        rows, columns = (math.ceil(n / c) + 1 for n, c in zip(self.shape, cell, strict=True))
        lumps = self.rng.integers(0, 256, (rows, columns), np.uint8)
        return _resize(lumps, self.shape).astype(np.float32) / np.float32(255)

    def _ground(self, label: int) -> Floats:
        """Colours of grass, water or bricks over the whole picture."""
        kind, unit = CLASSES[label], self.side / 32
        y, x = (np.arange(n, dtype=np.float32) / np.float32(unit) for n in self.shape)
        y = y[:, None] + np.float32(self.rng.uniform(0, 9))
        match kind:
            case "grass":
                field = 0.55 * self._noise(1.6 * unit, 0.4 * unit) + 0.45 * self._noise(5 * unit, 5 * unit)
            case "water":
                phase = y / 3 + 1.6 * self._noise(6 * unit, 8 * unit)
                wave = np.abs(2 * (phase - np.floor(phase)) - 1)
                field = 0.6 * wave * wave + 0.4 * self._noise(unit, 5 * unit)
            case _:
                row = np.floor(y / 3)
                across = x / 6 + row / 2
                column = np.floor(across)
                joint = (y - 3 * row < 0.45) | (across - column < 0.075)
                tones = self.rng.random((16, 16), np.float32)[row.astype(int) % 16, column.astype(int) % 16]
                field = np.where(joint, 0, 0.65 + 0.25 * tones) + 0.15 * self._noise(0.5 * unit, unit)
        ramp = np.array(RAMPS[kind], np.float32) + self.rng.integers(-14, 15, 3).astype(np.float32)
        return _mix(ramp, field)

    def _pattern(self, u: Floats, v: Floats) -> Floats:
        """1 where a thing has its second colour: nowhere, in stripes, checks or dots."""
        count = np.float32(self.rng.uniform(1.6, 2.6))
        cell_u, cell_v = np.floor(count * u), np.floor(count * v)
        match self.rng.integers(4):
            case 0:
                second = np.zeros_like(u)
            case 1:
                second = 2 * (count * v - cell_v) < 1
            case 2:
                second = (cell_u + cell_v) % 2 == 0
            case _:
                across, down = count * u - cell_u - 0.5, count * v - cell_v - 0.5
                second = across * across + down * down < 0.09
        return second.astype(np.float32)


def _inside(shape: str, u: Floats, v: Floats) -> Bools:
    """Which points are inside a shape of radius about 1 around the origin."""
    match shape:
        case "circle":
            return u * u + v * v < 0.81
        case "ring":
            square = u * u + v * v
            return (square < 0.9) & (square > 0.27)
        case "cross":
            wide, tall = np.abs(u), np.abs(v)
            return (np.minimum(wide, tall) < 0.3) & (np.maximum(wide, tall) < 0.95)
        case "square":
            return np.maximum(np.abs(u), np.abs(v)) < 0.75
        case "triangle":
            return _count_sides(u, v, 3, 0.5) == 3
        case _:  # a point of a five-pointed star is inside at least four of its five lines
            return _count_sides(u, v, 5, math.cos(0.4 * math.pi)) >= 4


def _count_sides(u: Floats, v: Floats, num_sides: int, distance: float) -> Bytes:
    """For each point, the number of sides of a regular polygon, at `distance` from the origin, that it is inside of."""
    inner = np.zeros(u.shape, np.uint8)
    for side in range(num_sides):
        angle = 2 * math.pi * side / num_sides
        inner += u * np.float32(math.cos(angle)) + v * np.float32(math.sin(angle)) < distance
    return inner


def _mix(pair: Floats, field: Floats) -> Floats:
    """Interpolate from the first colour, where the field (H, W) is 0, to the second, where it is 1: (3, H, W)."""
    first, second = pair[:, :, None, None]
    return first + field * (second - first)


def _resize(grey: Bytes, shape: tuple[int, int]) -> Bytes:
    return np.asarray(Image.fromarray(grey).resize(shape[::-1], Image.Resampling.BICUBIC))
