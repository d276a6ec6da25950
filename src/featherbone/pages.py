"""The parts that pages are made of; a page needs nothing but itself."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from featherbone.files import write_text

STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667; --paper: #fff; --panel: #f4f6fb; --bar: #4c6fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf2; --soft: #9aa3b5; --paper: #12151d; --panel: #1b2030 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1000px; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem } .soft { color: var(--soft) }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.figures div { background: var(--panel); border-radius: .6rem; padding: .6rem 1.1rem }
.figures b { display: block; font-size: 1.5rem }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
img { max-width: 100%; height: auto; background: #fff; border-radius: .6rem }
progress { width: 12rem; accent-color: var(--bar) } code { overflow-wrap: anywhere }
"""


def write_page(path: Path, title: str, sections: Iterable[str]) -> None:
    """A page that needs nothing else, from sections of HTML."""
    body = "\n".join(sections)
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>{body}</html>\n",
    )


def figures(cells: Mapping[str, str]) -> str:
    """Numbers side by side, each over its name."""
    boxes = (f"<div><b>{html.escape(value)}</b>{html.escape(name)}</div>" for name, value in cells.items())
    return f'<div class="figures">{"".join(boxes)}</div>'


def svg(figure: Figure, alt: str) -> str:
    """A figure as an image of the page."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "featherbone"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'


def jpeg(picture: Image.Image, alt: str) -> str:
    """A picture as an image of the page."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f'<img alt="{html.escape(alt)}" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def table(values: Mapping[str, Any]) -> str:
    """Names and values, a row each."""
    rows = (
        f"<tr><td>{html.escape(str(k))}</td><td><code>{html.escape(str(v))}</code></td></tr>" for k, v in values.items()
    )
    return f"<table>{''.join(rows)}</table>"


def bars(shares: Mapping[str, float | None], notes: Sequence[str]) -> str:
    """A bar from 0 to 1 for each name, with a note behind it; None is not known."""
    rows = []
    for (name, share), note in zip(shares.items(), notes, strict=True):
        shown = "not known" if share is None else f'<progress value="{share:.3f}"></progress> {share:.1%}'
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{shown}</td><td>{html.escape(note)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"
