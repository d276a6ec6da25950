"""Fonts for names in any alphabet."""

import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from featherbone.progress import say
from featherbone.text import printable

DEJAVU = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
"""Comes with matplotlib; has Latin, Greek, Cyrillic, Arabic, Hebrew and others, but no Chinese, Japanese or Korean."""
_reported: set[str] = set()


def find_font(*texts: str) -> str:
    """The file of a font with all letters of the texts: DejaVu Sans, or the first installed; else DejaVu Sans."""
    return _find_font(frozenset("".join(map(one_line, texts))))


def readable(text: str, file: str) -> str:
    """`text` in one line, letters that the font lacks as their codes, as `[65E5]`, which is reported once."""
    text = one_line(text)
    missing = [letter for letter in dict.fromkeys(text) if ord(letter) not in _letters(file)]
    for letter in missing:
        text = text.replace(letter, f"[{ord(letter):04X}]")
    if new := [letter for letter in missing if letter not in _reported]:
        _reported.update(new)
        say(
            f"no installed font has {''.join(new)}: pictures show the codes of letters; install a font that has them, "
            "as fonts-noto-cjk for Chinese, Japanese and Korean",
            "note",
        )
    return text


def one_line(text: str) -> str:
    """`text` without line breaks and invisible marks of format."""
    return " ".join("".join(c for c in printable(text) if unicodedata.category(c) != "Cf").split())


@cache
def _find_font(letters: frozenset[str]) -> str:
    codes = {ord(letter) for letter in letters}
    return next((file for file in (DEJAVU, *_installed(codes <= _letters(DEJAVU))) if codes <= _letters(file)), DEJAVU)


@cache
def _installed(none: bool) -> tuple[str, ...]:
    """Files of installed fonts, regular ones first; or `none`, which saves the search."""
    return () if none else tuple(sorted(findSystemFonts(), key=lambda file: ("regular" not in file.lower(), file)))


@cache
def _letters(file: str) -> frozenset[int]:
    """Codes of the letters that a font has; none where it cannot be drawn with."""
    try:
        ImageFont.truetype(file, 12)
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
