"""Fonts for names in any alphabet."""

import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from featherbone.progress import notify
from featherbone.text import printable

DEJAVU = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
"""Distributed with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew, ...; no Chinese, Japanese or Korean."""
_reported: set[str] = set()


def find_font(*texts: str) -> str:
    """File of a font with all letters of the texts: DejaVu Sans, else the first installed one, else DejaVu Sans."""
    return _find_font(frozenset("".join(map(one_line, texts))))


def readable(text: str, file: str) -> str:
    """`text` in one line; letters that the font lacks become codes such as `[65E5]`, which is reported once."""
    text = one_line(text)
    missing = [letter for letter in dict.fromkeys(text) if ord(letter) not in _letters(file)]
    for letter in missing:
        text = text.replace(letter, f"[{ord(letter):04X}]")
    if new := [letter for letter in missing if letter not in _reported]:
        _reported.update(new)
        notify(
            f"no installed font has {''.join(new)}: pictures show the codes of these letters; install a font that has "
            "them, such as fonts-noto-cjk for Chinese, Japanese and Korean",
            "note",
        )
    return text


def one_line(text: str) -> str:
    """`text` without line breaks and invisible format characters."""
    return " ".join("".join(c for c in printable(text) if unicodedata.category(c) != "Cf").split())


@cache
def _find_font(letters: frozenset[str]) -> str:
    codes = {ord(letter) for letter in letters}
    return next((file for file in (DEJAVU, *_installed(codes <= _letters(DEJAVU))) if codes <= _letters(file)), DEJAVU)


@cache
def _installed(none: bool) -> tuple[str, ...]:
    """Files of installed fonts, regular ones first; empty if `none`, which saves the search."""
    return () if none else tuple(sorted(findSystemFonts(), key=lambda file: ("regular" not in file.lower(), file)))


@cache
def _letters(file: str) -> frozenset[int]:
    """Codes of the letters of a font; empty if Pillow cannot load it."""
    try:
        ImageFont.truetype(file, 12)
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
