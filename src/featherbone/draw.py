"""Pictures of results, for images of any size."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageFont, ImageOps

from featherbone.data.bands import AnyImage, to_picture
from featherbone.files import atomic
from featherbone.fonts import find_font, readable
from featherbone.ops.rle import box_of, decode
from featherbone.results import Classification, Detections, Instances, LabelSet, PanopticMap, Record, Rle, SemanticMap

INK, PAPER, TRACK, BAR = "#1d2433", "#ffffff", "#e8ebf2", "#4c6fff"
PALETTE = (
    *("#456af2", "#ffb020", "#17a861", "#dc2f48", "#4fd4f7", "#a24be0", "#b5e03a", "#ff86c8", "#08837f", "#ee6010"),
    *("#b9b8ff", "#8d6a17", "#3be694", "#3a76a8", "#b5be60", "#b781ec", "#e69496", "#91ebc9", "#ba3f63", "#97f177"),
)  # the first twelve by hand, then each farthest from those before it, also for red-green colour blindness
MAX_OBJECTS = 100
"""Objects that a picture shows."""
MAX_LABELS = 8
"""Labels of one image that a picture shows."""
MAX_SIDE = 1600
"""Longest side of a picture in pixels."""
MIN_MAP = 240, 240
"""Minimum width and height of the picture of a map."""
FEW = 12
"""With more objects than this, the picture is enlarged more and names are smaller."""

Floats = NDArray[np.float64]


def font(size: int, *texts: str) -> ImageFont.FreeTypeFont:
    """A font of `size` pixels with all letters of the texts, if one is installed."""
    return _load_font(find_font(*texts), size)


@cache
def _load_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def draw_classification(image: Image.Image, record: Classification, score: float = 0.0) -> Image.Image:
    """The RGB image above bars of its three classes with the highest scores; names in brackets if it abstains.

    Of a set of labels, up to `MAX_LABELS` with scores above `score` are shown.
    """
    names, count = record.names, 3
    if isinstance(record, LabelSet):
        record, count = record.above(score), MAX_LABELS
        names = record.names
    elif record.abstained:
        names = tuple(f"({name})" for name in names)
    image = legible(image)
    line = max(image.width // 16, 14)
    rows = list(zip(names, record.scores, strict=True))[:count]
    canvas = Image.new("RGB", (image.width, image.height + round(line * (1.5 * len(rows) + 0.5))), PAPER)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    text = font(round(line * 0.8), *record.names[:count])
    left, right, height = line // 2, canvas.width - round(line * 3.2), round(line * 1.2)
    y = image.height + line // 4
    for name, score in rows:
        draw.rectangle((left, y, right, y + height), TRACK)
        draw.rectangle((left, y, left + round((right - left) * score), y + height), "#b9c6ff")
        draw.text((line, y + line * 0.6), shorten(name, text, right - 2 * line), INK, text, anchor="lm")
        draw.text((canvas.width - left, y + line * 0.6), f"{score:.0%}", INK, text, anchor="rm")
        y += round(line * 1.5)
    return canvas


def draw_detections(
    image: Image.Image, record: Detections | Instances, score: float = 0.0, ids: Sequence[int | None] = ()
) -> Image.Image:
    """The RGB image with a box, a name and, if the record has masks, a mask for each object; highest score on top.

    Drawn are the `MAX_OBJECTS` highest-scoring objects with at least `score`. Colours differ by class, or by object if
    all are of one class or have masks; with `ids` of tracks, which follow the names, by track. Raises `ValueError` if
    the record is of an image of another size.
    """
    _check_size(image, record.height, record.width)
    chosen = [i for i in range(len(record)) if record.scores[i] >= score]
    chosen = sorted(chosen, key=lambda i: -record.scores[i])[:MAX_OBJECTS]
    minimum = (480, 240) if len(chosen) <= FEW else (960, 480)
    picture = _scale(image, minimum)
    line = round(min(max((picture.width * picture.height) ** 0.5 / 320, 2), 4))
    boxes = _scale_boxes([record.boxes[i] for i in chosen], image.size, picture.size)
    has_masks = isinstance(record, Instances)
    colours = _colours([record.labels[i] for i in chosen], boxes, by_object=has_masks)
    if ids:
        colours = [BAR if (number := ids[i]) is None else colour(number) for i in chosen]
    for i, box, paint in reversed(list(zip(chosen, boxes, colours, strict=True))):
        if isinstance(record, Instances):
            _draw_mask(picture, record.masks[i], paint, line)
        _draw_box(picture, box, paint, 1 if has_masks else line)
    texts = [f"{record.names[i]} #{ids[i]}" if ids and ids[i] is not None else record.names[i] for i in chosen]
    scores = [f"{record.scores[i]:.0%}" for i in chosen]
    names = list(zip(scores, texts, colours, strict=True))
    return _with_names(picture, minimum, boxes, names)


def draw_semantic(image: Image.Image, record: SemanticMap, legend: bool = True) -> Image.Image:
    """The RGB image tinted by class, with lines between classes, above a legend of its classes, largest area first.

    Unlabelled pixels are darkened. Raises `ValueError` if the record is of an image of another size.
    """
    counts = record.counts()
    paints = _apart(list(counts))
    numbers = np.zeros(256, np.uint8)  # 0 for unlabelled pixels, which are not counted
    numbers[list(counts)] = 1 + np.arange(len(counts))
    picture = _pad(_tint(image, numbers[record.labels], [paints[i] for i in counts]), MIN_MAP)
    area = record.labels.size
    rows = [(record.classes[i], _percent(count / area), paints[i]) for i, count in counts.items()]
    return _with_legend(picture, rows) if legend else picture


def draw_panoptic(image: Image.Image, record: PanopticMap, legend: bool = True) -> Image.Image:
    """The RGB image tinted by segment, with lines between segments, names on the things, and a legend of the stuff.

    Pixels without a segment are darkened. Raises `ValueError` if the record is of an image of another size.
    """
    things = [segment for segment in record.segments if segment.thing]
    stuff = sorted((s for s in record.segments if not s.thing), key=lambda segment: -segment.area)
    paints = _apart([segment.label for segment in stuff])
    boxes = np.array([segment.box for segment in things], float).reshape(-1, 4)
    colours = _colours([s.label for s in things], boxes, by_object=True)
    by_id = {segment.id: paint for segment, paint in zip(things, colours, strict=True)}
    by_id |= {segment.id: paints[segment.label] for segment in stuff}
    numbers = np.zeros(int(record.ids.max(initial=0)) + 1, np.int64)
    numbers[[segment.id for segment in record.segments]] = 1 + np.arange(len(record.segments))
    picture = _tint(image, numbers[record.ids], [by_id[segment.id] for segment in record.segments])
    order = sorted(things, key=lambda segment: -segment.area)[:MAX_OBJECTS]
    boxes = _scale_boxes([segment.box for segment in order], image.size, picture.size)
    picture = _with_names(picture, MIN_MAP, boxes, [("", segment.name, by_id[segment.id]) for segment in order])
    rows = [(s.name, _percent(s.area / record.ids.size), by_id[s.id]) for s in stuff]
    return _with_legend(picture, rows) if legend else picture


def draw_record(
    image: AnyImage, record: Record, score: float = 0.0, legend: bool = True, ids: Sequence[int | None] = ()
) -> Image.Image:
    """The picture of a record of any task: objects with at least `score`, maps with or without a `legend`.

    `ids` are those of the tracks of objects.
    """
    image = to_picture(image)
    if isinstance(record, Detections):
        return draw_detections(image, record, score=score, ids=ids)
    if isinstance(record, SemanticMap):
        return draw_semantic(image, record, legend)
    if isinstance(record, PanopticMap):
        return draw_panoptic(image, record, legend)
    return draw_classification(image, record, score)


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
    picture = _scale(image, MIN_MAP)
    shown = np.asarray(Image.fromarray(numbers.astype(np.int32)).resize(picture.size, Image.Resampling.NEAREST))
    table = np.array([ImageColor.getrgb(paint) for paint in (INK, *paints)], np.float32)
    line = round(min(max((picture.width * picture.height) ** 0.5 / 500, 1), 3))
    edge = np.zeros(shown.shape, bool)
    for step in range(1, line + 1):
        edge[:-step] |= shown[:-step] != shown[step:]
        edge[:, :-step] |= shown[:, :-step] != shown[:, step:]
    tinted = 0.5 * np.asarray(picture, np.float32) + 0.5 * table[shown]
    tinted[edge] = 0.75 * table[shown][edge] + 0.25 * 255
    return Image.fromarray(tinted.round().astype(np.uint8))


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


def _scale_boxes(boxes: Sequence[Sequence[float]], given: tuple[int, int], size: tuple[int, int]) -> Floats:
    """Boxes (n, 4) of an image of the size `given`, in pixels of a picture of it of another `size`."""
    points = (np.array(boxes, float).reshape(-1, 2, 2) * np.divide(size, given)).clip(0, size).round()
    low = np.minimum(points[:, 0], np.array(size) - 1)
    return np.concatenate((low, np.maximum(points[:, 1], low + 1)), 1)  # at least one pixel


def _overlaps(boxes: Floats, others: Floats) -> Floats:
    """Areas (n, m) of the intersections of two sets of boxes."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    return sides.clip(0).prod(-1)


def _draw_mask(picture: Image.Image, rle: Rle, paint: str, line: int) -> None:
    """A translucent mask with an outline."""
    height, width = rle["size"]
    full = decode(rle)
    x1, y1, x2, y2 = box_of(full)
    if x1 == x2:
        return
    how = Image.Resampling.NEAREST if picture.width > 3 * width else Image.Resampling.BILINEAR
    scale = np.divide(picture.size, (width, height))
    reach = np.maximum(scale, 1)  # a bilinear mask is that much wider
    left, top = np.floor(np.array((x1, y1)) * scale - reach).clip(0).astype(int).tolist()
    right, bottom = np.ceil(np.array((x2, y2)) * scale + reach).clip(0, picture.size).astype(int).tolist()
    source = (left / scale[0], top / scale[1], min(right / scale[0], width), min(bottom / scale[1], height))
    mask = Image.fromarray(full.astype(np.uint8, "C") * 255).resize((right - left, bottom - top), how, source)
    box = mask.getbbox()
    if box is None:
        return
    place = left + box[0], top + box[1]
    mask = mask.crop(box)
    core = ImageOps.crop(ImageOps.expand(mask, line).filter(ImageFilter.BoxBlur(line)), line)
    edge = ImageChops.subtract(mask, core.point([0] * 255 + [255]))  # the core is farther than `line` from the outside
    picture.paste(paint, place, mask.point([value * 2 // 5 for value in range(256)]))
    picture.paste(paint, place, edge)


def _draw_box(canvas: Image.Image, box: Floats, paint: str, line: int) -> None:
    """A line along the inside of the box, with a thin shade on both sides for contrast."""
    draw = ImageDraw.Draw(canvas, "RGBA")
    x1, y1, x2, y2 = (int(side) for side in box)
    draw.rectangle((x1 - 1, y1 - 1, x2, y2), outline=(0, 0, 0, 90), width=line + 2)
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=paint, width=line)


def _with_names(
    picture: Image.Image, minimum: tuple[int, int], boxes: Floats, names: Sequence[tuple[str, str, str]]
) -> Image.Image:
    """The picture, padded, with labels of score, name and colour at the boxes; the first get the best places."""
    canvas = _pad(picture, minimum)
    boxes = boxes + np.subtract(canvas.size, picture.size)[[0, 1, 0, 1]] // 2
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
    return canvas


def _places(boxes: Floats, sizes: Floats, canvas: tuple[int, int]) -> Floats:
    """Boxes of labels of `sizes` (n, 2): at their objects, inside the canvas, apart from each other and small objects.

    Candidates are left, right, centre and both sides of each box, first above it, then along its height, then below;
    the first of those that cover the smallest area is taken.
    """
    limit = np.maximum(np.array(canvas) - sizes, 0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    placed = np.zeros((0, 4))
    for (x1, y1, x2, y2), (w, h), corner in zip(boxes, sizes, limit, strict=True):
        rows = (y1 - h, *np.arange(y1, y2 - h, h + 2), y2 - h, y2)
        tried = np.array([(x, y, x, y) for y in rows for x in (x1, x2 - w, (x1 + x2 - w) / 2, x1 - w, x2)])
        tried = tried.round().clip(0, corner[[0, 1, 0, 1]]) + np.array((0, 0, w, h))
        small = boxes[areas < 3 * w * h]
        covers = 3 * _overlaps(tried, placed + np.array((-2, -2, 2, 2))).sum(1) + _overlaps(tried, small).sum(1)
        placed = np.concatenate((placed, tried[[covers.argmin()]]))
    return placed


def legible(image: Image.Image) -> Image.Image:
    """The image resized to a width of 240 or more and sides of up to `MAX_SIDE`; a slim one gets margins."""
    return _pad(_scale(image, (240, 1)), (240, 1))


def _scale(image: Image.Image, minimum: tuple[int, int]) -> Image.Image:
    """The image enlarged to the `minimum` width and height, with sides of up to `MAX_SIDE`."""
    scale = min(max(minimum[0] / image.width, minimum[1] / image.height, 1.0), MAX_SIDE / max(image.size))
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    return image.resize(size, Image.Resampling.NEAREST if scale > 3 else Image.Resampling.BICUBIC)


def _pad(picture: Image.Image, minimum: tuple[int, int]) -> Image.Image:
    """The picture in the middle of a canvas of the `minimum` width and height or more."""
    size = max(picture.width, minimum[0]), max(picture.height, minimum[1])
    canvas = Image.new("RGB", size, PAPER)
    canvas.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return canvas


def shorten(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """`text` in one line, made `readable` in the font, and cut with an ellipsis to `width` pixels."""
    text = readable(text, str(face.path))
    lengths = (end for end in range(len(text) - 1, 0, -1) if face.getlength(text[:end] + "…") <= width)
    return text if face.getlength(text) <= width else text[: next(lengths, 0)] + "…"


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
