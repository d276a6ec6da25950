"""Drawn pictures with exact labels: shapes lying on grass, water or brick, for the demo and for tests.

A picture is drawn with nine samples a pixel and averaged, so edges are smooth; a pixel's label is that of its middle
sample, so labels are exact. Numbers come from one generator, and arrays meet only arithmetic that IEEE 754 rounds in
one way (no sine, no product of matrices): a seed and an index give the same picture on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.errors import BadOption
from featherbone.ops.rle import box_of

THINGS = ("circle", "square", "triangle", "star", "cross", "ring")
STUFF = ("grass", "water", "brick")
CLASSES = (*THINGS, *STUFF)
"""Names by label. A thing is known by its outline alone: colour, pattern, size, rotation and ground are free."""

SMALLEST = 32  # pixels of height and width; a thing of a smaller picture could vanish between the middle samples
SAMPLES = 3  # per pixel and axis; odd, so that there is a middle one
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


@dataclass(frozen=True)
class Segment:
    """A region of a panoptic map; `label` indexes `CLASSES`."""

    id: int
    label: int


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and all that is known about it; N things, the later ones lying on the earlier.

    `boxes` (N, 4) are tight around what is visible, x1 y1 x2 y2 in pixels; `labels` (N,) index `THINGS`; `masks`
    (N, H, W) are the visible parts. `semantic` (H, W) indexes `CLASSES`. `panoptic` (H, W) holds the ids of `segments`:
    10,000 (label + 1) and a running number, so that all three bytes of a panoptic PNG are in use.
    """

    image: Image.Image
    boxes: Floats
    labels: NDArray[np.int64]
    masks: Bools
    semantic: Bytes
    panoptic: NDArray[np.int32]
    segments: tuple[Segment, ...]


def draw_scene(seed: int, index: int, size: tuple[int, int], most: int = 5) -> Scene:
    """Draw one or two grounds and on them one to `most` things (none if 0), each at least half uncovered.

    `size` is height and width, each at least 32 pixels. Raises `BadOption`.
    """
    painting = _Painting(seed, index, size)
    painting.lay_ground(split=painting.rng.random() < 0.7)
    for _ in range(painting.rng.integers(1, most + 1) if most else 0):
        for _ in range(6):  # places; a crowded picture is left with fewer things
            if painting.add_thing(int(painting.rng.integers(len(THINGS))), radius=(0.1, 0.24), reach=0.4):
                break
    return painting.finish()


def draw_portrait(seed: int, index: int, size: tuple[int, int], label: int) -> Scene:
    """Draw one large, nearly upright thing in the middle of one ground; `label` indexes `THINGS`, `size` as above."""
    painting = _Painting(seed, index, size)
    painting.lay_ground(split=False)
    painting.add_thing(label, radius=(0.32, 0.44), reach=0.07, tilt=0.3)
    return painting.finish()


class _Painting:
    """A picture while it is drawn, in samples: the colour of each (3, H, W), and the region it shows."""

    def __init__(self, seed: int, index: int, size: tuple[int, int]) -> None:
        if min(size) < SMALLEST:
            raise BadOption(f"a scene of {size[0]}x{size[1]} pixels; give a height and a width of {SMALLEST} or more")
        self.rng = np.random.default_rng((seed, index))
        self.shape = (SAMPLES * size[0], SAMPLES * size[1])
        self.side = min(self.shape)
        self.regions = np.zeros(self.shape, np.uint16)
        self.labels: list[int] = []  # of the regions
        self.needed: list[float] = []  # pixels of the regions that must stay visible; a ground may go

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
        """Put a thing on top, its radius and its distance from the middle in sides of the picture, its tilt in radians.

        False, with nothing drawn, if that would leave another thing less than half uncovered.
        """
        r = self.side * self.rng.uniform(*radius)
        middle = (0.5 + self.rng.uniform(-reach, reach, 2)) * self.shape
        angle = self.rng.uniform(-tilt, tilt)
        corner = SAMPLES * np.floor((middle - 1.15 * r) / SAMPLES).astype(int)  # 0.15 is room for the soft edge
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

    def finish(self) -> Scene:
        """The picture in pixels, with what is still visible."""
        light = np.linspace(1.06, 0.94, self.shape[0], dtype=np.float32)[:, None]
        planes = np.clip(self.colours * light, 0, 255).astype(np.uint8)
        image = Image.merge("RGB", [Image.fromarray(plane).reduce(SAMPLES) for plane in planes])
        regions = self.regions[MIDDLES]
        labels = np.array(self.labels)
        ids = (10_000 * (labels + 1) + np.arange(len(labels))).astype(np.int32)
        things = np.flatnonzero(labels < len(THINGS))
        masks = regions == things[:, None, None]
        return Scene(
            image=image,
            boxes=np.array([box_of(mask) for mask in masks], np.float32).reshape(-1, 4),
            labels=labels[things],
            masks=masks,
            semantic=labels.astype(np.uint8)[regions],
            panoptic=ids[regions],
            segments=tuple(Segment(int(ids[i]), self.labels[i]) for i in np.unique(regions)),
        )

    def _overlap(self, corner: NDArray[np.int64], n: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where a square of n samples lies on the picture, and which part of the square that is."""
        (top, left), (height, width) = corner, self.shape
        there = np.s_[max(top, 0) : top + n, max(left, 0) : left + n]
        return there, np.s_[max(-top, 0) : height - top, max(-left, 0) : width - left]

    def _noise(self, *cell: float) -> Floats:
        """Smooth noise from 0 to 1 over the picture; `cell` is the height and width of its lumps in samples."""
        rows, columns = (math.ceil(n / c) + 1 for n, c in zip(self.shape, cell, strict=True))
        lumps = self.rng.integers(0, 256, (rows, columns), np.uint8)
        return _resize(lumps, self.shape).astype(np.float32) / np.float32(255)

    def _ground(self, label: int) -> Floats:
        """A picture full of grass, water or bricks."""
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
        """Where a thing has its second colour: nowhere, in stripes, checks or dots."""
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
    """Which points lie in a shape of about radius 1 round the origin."""
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
        case _:  # a five-pointed star lies within four of its five lines
            return _count_sides(u, v, 5, math.cos(0.4 * math.pi)) >= 4


def _count_sides(u: Floats, v: Floats, num_sides: int, distance: float) -> Bytes:
    """Of how many sides of a regular figure, at a distance from the origin, each point is on the inner side."""
    inner = np.zeros(u.shape, np.uint8)
    for side in range(num_sides):
        angle = 2 * math.pi * side / num_sides
        inner += u * np.float32(math.cos(angle)) + v * np.float32(math.sin(angle)) < distance
    return inner


def _mix(pair: Floats, field: Floats) -> Floats:
    """From the first colour where the field (H, W) is 0 to the second where it is 1: (3, H, W)."""
    first, second = pair[:, :, None, None]
    return first + field * (second - first)


def _resize(grey: Bytes, shape: tuple[int, int]) -> Bytes:
    return np.asarray(Image.fromarray(grey).resize(shape[::-1], Image.Resampling.BICUBIC))
