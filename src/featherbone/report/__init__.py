"""Pages from jinja2 templates: each is one HTML file with one stylesheet that loads nothing else."""

import base64
import io
from functools import cache
from pathlib import Path

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from featherbone.files import write_text


def render(template: str, path: Path, **values: object) -> None:
    """Write the page that `templates/{template}` makes of `values` to `path`."""
    write_text(path, _environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=PackageLoader("featherbone.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(zip=zip)
    environment.filters.update(svg=svg, jpeg=jpeg, jpeg_file=jpeg_file, metric=format_metric)
    return environment


def svg(figure: Figure) -> str:
    """A plot as a data URI; the background is transparent."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "featherbone"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def jpeg(picture: Image.Image, cell: int | None = None) -> str:
    """A picture as a data URI, reduced to twice the `cell` pixels in which it is shown."""
    if cell is not None:
        picture = picture.copy()
        picture.thumbnail((2 * cell, 2 * cell))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return jpeg_file(file.getvalue())


def jpeg_file(content: bytes) -> str:
    """A JPEG file as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def format_metric(value: float | None) -> str:
    """A metric with three decimals; `None` where nothing could be measured."""
    return "not measured" if value is None else f"{value:.3f}"
