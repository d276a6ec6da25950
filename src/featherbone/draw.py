"""Results as pictures, on images of any size."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from featherbone.files import atomic
from featherbone.results import Classification, Record

INK, PAPER, TRACK, BAR = "#1d2433", "#ffffff", "#e8ebf2", "#4c6fff"


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it covers most alphabets."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def draw_classification(image: Image.Image, record: Classification, truth: str | None = None) -> Image.Image:
    """The RGB image above its three likeliest classes as bars; `truth` is written beside them where it is known."""
    image = legible(image)
    line = max(image.width // 16, 14)
    rows = list(zip(record.names, record.scores, strict=True))[:3]
    canvas = Image.new(
        "RGB", (image.width, image.height + round(line * (1.5 * len(rows) + (1.9 if truth else 0.5)))), PAPER
    )
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    y = image.height + line // 4
    text = font(round(line * 0.8))
    for name, score in rows:
        right = canvas.width - round(line * 3.2)
        draw.rectangle((line // 2, y, right, y + round(line * 1.2)), TRACK)
        draw.rectangle((line // 2, y, line // 2 + round((right - line // 2) * score), y + round(line * 1.2)), "#b9c6ff")
        draw.text((line, y + line * 0.6), shorten(name, text, right - 2 * line), INK, text, anchor="lm")
        draw.text((canvas.width - line // 2, y + line * 0.6), f"{score:.0%}", INK, text, anchor="rm")
        y += round(line * 1.5)
    if truth:
        draw.text(
            (line // 2, y + line * 0.6), shorten(f"true: {truth}", text, canvas.width - line), INK, text, anchor="lm"
        )
    return canvas


def draw_record(image: Image.Image, record: Record) -> Image.Image:
    """The picture of any task's record."""
    return draw_classification(image, record)


def legible(image: Image.Image, least: int = 240, most: int = 1600) -> Image.Image:
    """The image at least `least` pixels wide and at most `most` high and wide; a slim one gets margins."""
    scale = min(max(least / image.width, 1.0), most / max(image.size))
    if scale != 1:
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        image = image.resize(size, Image.Resampling.NEAREST if scale > 3 else Image.Resampling.BICUBIC)
    if image.width >= least:
        return image
    canvas = Image.new("RGB", (least, image.height), PAPER)
    canvas.paste(image, ((least - image.width) // 2, 0))
    return canvas


def shorten(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, cut and ended by dots where it is wider than `width` pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], columns: int = 8, cell: int = 150
) -> Image.Image:
    """Images in a grid, each fitted into `cell` pixels, with its caption below."""
    columns = max(min(columns, len(images)), 1)
    gap, line = 8, 20
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * (cell + line + gap) + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    text = font(13)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        scale = cell / max(image.size)
        small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
        x, y = gap + i % columns * (cell + gap), gap + i // columns * (cell + line + gap)
        sheet.paste(small, (x + (cell - small.width) // 2, y + (cell - small.height) // 2))
        draw.text((x + cell / 2, y + cell + line / 2), shorten(caption, text, cell), INK, text, anchor="mm")
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """The picture to `path`, atomically, in the format of its suffix."""
    with atomic(path) as partial:
        picture.save(partial, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"), quality=90)
