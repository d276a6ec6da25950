"""Pictures of results, for images of any size."""

from collections.abc import Sequence
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageFont, ImageOps

from featherbone.files import atomic
from featherbone.fonts import find_font, readable
from featherbone.ops.label_maps import IGNORE
from featherbone.ops.rle import decode
from featherbone.results import Classification, Detections, Instances, PanopticMap, Record, Rle, SemanticMap

INK, PAPER, TRACK, BAR = "#1d2433", "#ffffff", "#e8ebf2", "#4c6fff"
PALETTE = (
    *("#456af2", "#ffb020", "#17a861", "#dc2f48", "#4fd4f7", "#a24be0", "#b5e03a", "#ff86c8", "#08837f", "#ee6010"),
    *("#b9b8ff", "#8d6a17", "#3be694", "#3a76a8", "#b5be60", "#b781ec", "#e69496", "#91ebc9", "#ba3f63", "#97f177"),
)  # the first twelve by hand, then each farthest from those before it, also for red-green colour blindness
MAX_OBJECTS = 100
"""Objects that a picture shows."""
FEW = 12
"""With more objects than this, the picture is enlarged more and names are smaller."""

Floats = NDArray[np.float64]


def font(size: int, *texts: str) -> ImageFont.FreeTypeFont:
    """A font of `size` pixels with all letters of the texts, if one is installed."""
    return _load_font(find_font(*texts), size)


@cache
def _load_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def draw_classification(image: Image.Image, record: Classification) -> Image.Image:
    """The RGB image above bars of its three classes with the highest scores."""
    image = legible(image)
    line = max(image.width // 16, 14)
    rows = list(zip(record.names, record.scores, strict=True))[:3]
    canvas = Image.new("RGB", (image.width, image.height + round(line * (1.5 * len(rows) + 0.5))), PAPER)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    text = font(round(line * 0.8), *record.names[:3])
    left, right, height = line // 2, canvas.width - round(line * 3.2), round(line * 1.2)
    y = image.height + line // 4
    for name, score in rows:
        draw.rectangle((left, y, right, y + height), TRACK)
        draw.rectangle((left, y, left + round((right - left) * score), y + height), "#b9c6ff")
        draw.text((line, y + line * 0.6), shorten(name, text, right - 2 * line), INK, text, anchor="lm")
        draw.text((canvas.width - left, y + line * 0.6), f"{score:.0%}", INK, text, anchor="rm")
        y += round(line * 1.5)
    return canvas


def draw_detections(image: Image.Image, record: Detections | Instances, score: float = 0.0) -> Image.Image:
    """The RGB image with a box, a name and, if the record has masks, a mask for each object; highest score on top.

    Drawn are the `MAX_OBJECTS` highest-scoring objects with at least `score`. Colours differ by class, or by object if
    all are of one class or have masks. Raises `ValueError` if the record is of an image of another size.
    """
    _check_size(image, record.height, record.width)
    chosen = [i for i in range(len(record)) if record.scores[i] >= score]
    chosen = sorted(chosen, key=lambda i: -record.scores[i])[:MAX_OBJECTS]
    canvas, size, corner = _stage(image, (480, 240) if len(chosen) <= FEW else (960, 480), 1600)
    canvas = canvas.copy()  # not the caller's
    line = round(min(max((canvas.width * canvas.height) ** 0.5 / 320, 2), 4))
    boxes = _on_canvas([record.boxes[i] for i in chosen], image.size, size, corner)
    has_masks = isinstance(record, Instances)
    colours = _colours([record.labels[i] for i in chosen], boxes, by_object=has_masks)
    for i, box, paint in reversed(list(zip(chosen, boxes, colours, strict=True))):
        if isinstance(record, Instances):
            _draw_mask(canvas, record.masks[i], size, corner, paint, line)
        _draw_box(canvas, box, paint, 1 if has_masks else line)
    names = [(f"{record.scores[i]:.0%}", record.names[i], paint) for i, paint in zip(chosen, colours, strict=True)]
    _draw_names(canvas, boxes, names)
    return canvas


def draw_semantic(image: Image.Image, record: SemanticMap, legend: bool = True) -> Image.Image:
    """The RGB image tinted by class, with lines between classes, above a legend of its classes, largest area first.

    Unlabelled pixels are darkened. Raises `ValueError` if the record is of an image of another size.
    """
    shown = list(record.counts())
    paints = _apart(shown)
    numbers = np.zeros(256, np.uint8)
    numbers[shown] = 1 + np.arange(len(shown))
    numbers[IGNORE] = 0
    picture = _tint(image, numbers[record.labels], [paints[i] for i in shown])
    if not legend:
        return picture
    area = record.labels.size
    rows = [(record.classes[i], f"{_percent(count / area)}", paints[i]) for i, count in record.counts().items()]
    return _with_legend(picture, rows)


def draw_panoptic(image: Image.Image, record: PanopticMap, legend: bool = True) -> Image.Image:
    """The RGB image tinted by segment, with lines between segments, names on the things, and a legend of the stuff.

    Pixels without a segment are darkened. Raises `ValueError` if the record is of an image of another size.
    """
    things = [segment for segment in record.segments if segment.thing]
    stuff = sorted((s for s in record.segments if not s.thing), key=lambda segment: -segment.area)
    paints = _apart([segment.label for segment in stuff])
    boxes = np.array([segment.box for segment in things], float).reshape(-1, 4)
    colours = _colours([s.label for s in things], boxes, by_object=True)
    by_id = dict(zip((s.id for s in things), colours, strict=True))
    by_id |= {segment.id: paints[segment.label] for segment in stuff}
    numbers = np.zeros(int(record.ids.max(initial=0)) + 1, np.int64)
    for number, segment in enumerate(record.segments, 1):
        numbers[segment.id] = number
    picture = _tint(image, numbers[record.ids], [by_id[segment.id] for segment in record.segments])
    order = sorted(things, key=lambda segment: -segment.area)[:MAX_OBJECTS]
    scale = np.divide(picture.size, image.size)[[0, 1, 0, 1]]
    places = np.array([segment.box for segment in order], float).reshape(-1, 4) * scale
    _draw_names(picture, places, [("", segment.name, by_id[segment.id]) for segment in order])
    if not legend:
        return picture
    area = record.ids.size
    return _with_legend(picture, [(s.name, f"{_percent(s.area / area)}", by_id[s.id]) for s in stuff])


def draw_record(image: Image.Image, record: Record, score: float = 0.0, legend: bool = True) -> Image.Image:
    """The picture of a record of any task: objects with at least `score`, maps with or without a `legend`."""
    if isinstance(record, Detections):
        return draw_detections(image, record, score=score)
    if isinstance(record, SemanticMap):
        return draw_semantic(image, record, legend)
    if isinstance(record, PanopticMap):
        return draw_panoptic(image, record, legend)
    return draw_classification(image, record)


def colour(index: int) -> str:
    """The colour of class or object `index`; the first twelve differ most."""
    return PALETTE[index % len(PALETTE)]


def ink(paper: str) -> str:
    """White or dark, whichever has the higher contrast with `paper`."""
    return max((PAPER, INK), key=lambda writing: contrast(writing, paper))


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, from 1 to 21 (WCAG 2.1)."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(paint: str) -> float:
    share = [value / 255 for value in ImageColor.getrgb(paint)[:3]]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in share)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _check_size(image: Image.Image, height: int, width: int) -> None:
    if (width, height) != image.size:
        raise ValueError(
            f"the record is of an image of {width}x{height} pixels, this one has {image.width}x{image.height}; pass "
            "the image that the record was made from, neither resized nor turned"
        )


def _colours(labels: Sequence[int], boxes: Floats, by_object: bool) -> list[str]:
    """A colour for each object: by class, or, by object, one that differs from those of objects nearby."""
    if not by_object and len(set(labels)) != 1:
        paints = _apart(labels)
        return [paints[label] for label in labels]
    chosen: list[int] = []
    for i, box in enumerate(boxes):
        gaps = np.maximum(np.maximum(boxes[:i, :2] - box[2:], box[:2] - boxes[:i, 2:]), 0)
        closeness = 1 / (1 + np.hypot(*gaps.T))
        chosen.append(int(np.bincount(np.array(chosen, int), closeness, len(PALETTE)).argmin()))
    return [colour(index) for index in chosen]


def _apart(labels: Sequence[int]) -> dict[int, str]:
    """A colour for each class, the same in every picture unless it collides with that of another class."""
    taken: dict[int, int] = {}
    for label in sorted(set(labels)):
        turns = ((label + turn) % len(PALETTE) for turn in range(len(PALETTE)))
        taken[label] = next((index for index in turns if index not in taken.values()), label)
    return {label: colour(index) for label, index in taken.items()}


def _tint(image: Image.Image, numbers: NDArray[Any], paints: Sequence[str]) -> Image.Image:
    """The image with pixels of number 1 + i (H, W) tinted in `paints[i]`, those of 0 darkened, and lines between."""
    _check_size(image, *numbers.shape)
    canvas, size, corner = _stage(image, (240, 240), 1600)
    small = Image.fromarray(numbers.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    shown = np.asarray(small)
    table = np.array([ImageColor.getrgb(paint) for paint in (INK, *paints)], np.float32)
    line = round(min(max((size[0] * size[1]) ** 0.5 / 500, 1), 3))
    edge = np.zeros(shown.shape, bool)
    for step in range(1, line + 1):
        edge[:-step] |= shown[:-step] != shown[step:]
        edge[:, :-step] |= shown[:, :-step] != shown[:, step:]
    below = np.asarray(canvas.crop((*corner, corner[0] + size[0], corner[1] + size[1])), np.float32)
    tinted = 0.5 * below + 0.5 * table[shown]
    tinted[edge] = 0.75 * table[shown][edge] + 0.25 * 255
    canvas = canvas.copy()  # not the caller's
    canvas.paste(Image.fromarray(tinted.round().astype(np.uint8)), corner)
    return canvas


def _with_legend(picture: Image.Image, rows: Sequence[tuple[str, str, str]]) -> Image.Image:
    """The picture above a legend of rows (name, number, colour), in as many columns as fit."""
    if not rows:
        return picture
    line = round(min(max(picture.width / 30, 18), 34))
    face = font(round(line * 0.62), *(name for name, _, _ in rows))
    columns = max(picture.width // (line * 9), 1)
    height = line * -(-len(rows) // columns) + line // 2
    canvas = Image.new("RGB", (picture.width, picture.height + height), PAPER)
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    width = picture.width / columns
    for i, (name, number, paint) in enumerate(rows):
        x, y = i % columns * width + line // 3, picture.height + line // 4 + i // columns * line
        draw.rounded_rectangle((x, y + line * 0.2, x + line * 0.6, y + line * 0.8), 3, paint, (0, 0, 0, 60))
        room = width - 1.4 * line - face.getlength(f"  {number}")
        text = f"{shorten(name, face, room)}  {number}"
        draw.text((x + line * 0.85, y + line / 2), text, INK, face, anchor="lm")
    return canvas


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def _on_canvas(
    boxes: Sequence[Sequence[float]], given: tuple[int, int], size: tuple[int, int], corner: tuple[int, int]
) -> Floats:
    """Boxes (n, 4) of an image of size `given`, in pixels of a canvas that shows it in `size` at `corner`."""
    placed = np.array(boxes, float).reshape(-1, 4) * np.divide(size, given)[[0, 1, 0, 1]]
    placed = placed.clip(0, np.array(size)[[0, 1, 0, 1]]).round()
    placed[:, :2] = np.minimum(placed[:, :2], np.array(size) - 1)
    placed[:, 2:] = np.maximum(placed[:, 2:], placed[:, :2] + 1)  # at least one pixel
    return placed + np.array(corner)[[0, 1, 0, 1]]


def _overlaps(boxes: Floats, others: Floats) -> Floats:
    """Areas (n, m) of the intersections of two sets of boxes."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    return sides.clip(0).prod(-1)


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _draw_mask(
    canvas: Image.Image, rle: Rle, size: tuple[int, int], corner: tuple[int, int], paint: str, line: int
) -> None:
    """A translucent mask with an outline; the canvas shows the image in `size` at `corner`."""
    covered = decode(rle)
    columns, rows = (np.flatnonzero(covered.any(axis)) for axis in (0, 1))
    if not len(rows):
        return
    fx, fy = size[0] / covered.shape[1], size[1] / covered.shape[0]
    x1, y1 = int(columns[0] * fx), int(rows[0] * fy)
    x2, y2 = min(int((columns[-1] + 1) * fx) + 1, size[0]), min(int((rows[-1] + 1) * fy) + 1, size[1])
    left, top = int(x1 / fx), int(y1 / fy)
    part = Image.fromarray(covered[top : ceil(y2 / fy), left : ceil(x2 / fx)].astype(np.uint8) * 255)
    source = x1 / fx - left, y1 / fy - top, min(x2 / fx - left, part.width), min(y2 / fy - top, part.height)
    how = Image.Resampling.NEAREST if fx > 3 else Image.Resampling.BILINEAR
    mask = part.resize((x2 - x1, y2 - y1), how, source)
    core = ImageOps.crop(ImageOps.expand(mask, line).filter(ImageFilter.BoxBlur(line)), line)
    edge = ImageChops.subtract(mask, core.point([0] * 255 + [255]))  # the core is farther than `line` from the outside
    place = corner[0] + x1, corner[1] + y1
    canvas.paste(paint, place, mask.point([value * 2 // 5 for value in range(256)]))
    canvas.paste(paint, place, edge)


def _draw_box(canvas: Image.Image, box: Floats, paint: str, line: int) -> None:
    """A line along the inside of the box, with a thin shade on both sides for contrast."""
    draw = ImageDraw.Draw(canvas, "RGBA")
    x1, y1, x2, y2 = (int(side) for side in box)
    draw.rectangle((x1 - 1, y1 - 1, x2, y2), outline=(0, 0, 0, 90), width=line + 2)
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=paint, width=line)


def _draw_names(canvas: Image.Image, boxes: Floats, names: Sequence[tuple[str, str, str]]) -> None:
    """Labels of score, name and colour, one at each box; the first get the best places and are on top."""
    height = round(min(max((canvas.width * canvas.height) ** 0.5 / (29 if len(names) <= FEW else 38), 18), 38))
    face, pad = font(round(height * 0.66), *(name for _, name, _ in names)), height // 3
    texts, sizes = [], []
    for (score, name, _), box in zip(names, boxes, strict=True):
        room = min(max(box[2] - box[0], canvas.width * 0.3), canvas.width) - 2 * pad
        text = f"{shorten(name, face, room - face.getlength(f' {score}'))} {score}".strip()
        texts.append(text)
        sizes.append((round(face.getlength(text)) + 2 * pad, height))
    places = _places(boxes, np.array(sizes, float).reshape(-1, 2), canvas.size)
    draw = ImageDraw.Draw(canvas)
    for (x1, y1, x2, y2), text, (_, _, paper) in reversed(list(zip(places, texts, names, strict=True))):
        shape = Image.new("L", (4 * int(x2 - x1), 4 * height))
        ImageDraw.Draw(shape).rounded_rectangle((0, 0, shape.width - 1, shape.height - 1), height, 255)
        canvas.paste(paper, (int(x1), int(y1), int(x2), int(y2)), shape.reduce(4))
        draw.text((x1 + pad, (y1 + y2) / 2), text, ink(paper), face, anchor="lm")


def _places(boxes: Floats, sizes: Floats, canvas: tuple[int, int]) -> Floats:
    """Boxes of labels of `sizes` (n, 2): at their objects, inside the canvas, apart from each other and small objects.

    Candidates are left, right, centre and both sides of each box, first above it, then along its height, then below;
    the first of those that cover the smallest area is taken.
    """
    limit = np.maximum(np.array(canvas) - sizes, 0)
    placed = np.zeros((0, 4))
    for (x1, y1, x2, y2), (w, h), corner in zip(boxes, sizes, limit, strict=True):
        rows = (y1 - h, *np.arange(y1, y2 - h, h + 2), y2 - h, y2)
        tried = np.array([(x, y, x, y) for y in rows for x in (x1, x2 - w, (x1 + x2 - w) / 2, x1 - w, x2)])
        tried = tried.round().clip(0, corner[[0, 1, 0, 1]]) + np.array((0, 0, w, h))
        small = boxes[_areas(boxes) < 3 * w * h]
        covers = 3 * _overlaps(tried, placed + np.array((-2, -2, 2, 2))).sum(1) + _overlaps(tried, small).sum(1)
        placed = np.concatenate((placed, tried[[covers.argmin()]]))
    return placed


def legible(image: Image.Image, min_width: int = 240, max_side: int = 1600) -> Image.Image:
    """The image resized to a width of `min_width` or more and sides of up to `max_side`; a slim one gets margins."""
    return _stage(image, (min_width, 1), max_side)[0]


def _stage(
    image: Image.Image, minimum: tuple[int, int], max_side: int
) -> tuple[Image.Image, tuple[int, int], tuple[int, int]]:
    """The image on a canvas of `minimum` width and height or more; its size there, and its upper left corner."""
    scale = min(max(minimum[0] / image.width, minimum[1] / image.height, 1.0), max_side / max(image.size))
    if scale != 1:
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        image = image.resize(size, Image.Resampling.NEAREST if scale > 3 else Image.Resampling.BICUBIC)
    width, height = max(image.width, minimum[0]), max(image.height, minimum[1])
    corner = (width - image.width) // 2, (height - image.height) // 2
    if (width, height) == image.size:
        return image, image.size, corner
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(image, corner)
    return canvas, image.size, corner


def shorten(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """`text` in one line, made `readable` in the font, and cut with an ellipsis to `width` pixels."""
    text = readable(text, str(face.path))
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int = 8, cell: int = 150
) -> Image.Image:
    """Images in a grid of cells of `cell` pixels, each with its caption below."""
    columns = max(min(columns, len(images)), 1)
    gap, line = 8, 20
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * (cell + line + gap) + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    text = font(13, *captions)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        scale = cell / max(image.size)
        small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
        x, y = gap + i % columns * (cell + gap), gap + i // columns * (cell + line + gap)
        sheet.paste(small, (x + (cell - small.width) // 2, y + (cell - small.height) // 2))
        draw.text((x + cell / 2, y + cell + line / 2), shorten(caption, text, cell), INK, text, anchor="mm")
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save the picture atomically, in the format of the suffix."""
    with atomic(path) as partial:
        picture.save(partial, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"), quality=90)
