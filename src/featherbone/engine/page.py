"""The parts that every report page is made of."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from featherbone.engine.run import read_metrics
from featherbone.files import write_text
from featherbone.tasks.card import Card

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


def heading(card: Card) -> str:
    """What was trained on what."""
    head = f" with {card.head}" if card.head else ""
    return (
        f"<h1>{html.escape(card.backbone + head)}</h1>"
        f'<p class="soft">{card.task} of {len(card.classes)} classes on {html.escape(Path(card.data["path"]).name)}: '
        f"{card.data['train']} training and {card.data['val']} validation images</p>"
    )


def figures(cells: Mapping[str, str]) -> str:
    """Numbers side by side, each over its name."""
    boxes = (f"<div><b>{html.escape(value)}</b>{html.escape(name)}</div>" for name, value in cells.items())
    return f'<div class="figures">{"".join(boxes)}</div>'


def shown(value: float | None) -> str:
    """A metric for people; None where nothing could be measured."""
    return "nothing to measure" if value is None else f"{value:.3f}"


def provenance(card: Card) -> list[str]:
    """What was left out, how it was trained, with what, and under which licence."""
    skipped = card.data.get("skipped", {})
    left_out = [f"<h2>Left out ({len(skipped)})</h2>", table(dict(list(skipped.items())[:50]))] if skipped else []
    about = {**card.versions, "starting weights": card.weights_licence, "data": card.data["fingerprint"]}
    return [*left_out, "<h2>Settings</h2>", table(card.settings), "<h2>Versions and licence</h2>", table(about)]


def curves(run: Path, metrics: Mapping[str, str]) -> list[str]:
    """A section of loss and validation metrics (names of `metrics.jsonl`, and what to call them), if there are any."""
    rows = read_metrics(run)
    return ["<h2>Curves</h2>", svg(draw_curves(rows, metrics), "loss and metrics over the epochs")] if rows else []


def draw_curves(rows: Sequence[dict[str, Any]], metrics: Mapping[str, str]) -> Figure:
    """Training and validation loss, and validation metrics from 0 to 1, over the epochs."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    style = {"marker": "o", "markersize": 3} if len(rows) < 40 else {}
    left.plot(
        [row["epoch"] for row in rows],
        [row["train"]["loss"] for row in rows],
        label="training",
        color="#4c6fff",
        **style,
    )
    measured = [row for row in rows if row["val"]]
    epochs = [row["epoch"] for row in measured]
    if measured and "loss" in measured[0]["val"]:
        left.plot(epochs, [row["val"]["loss"] for row in measured], label="validation", color="#e4572e", **style)
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    for (key, name), colour in zip(metrics.items(), ("#e4572e", "#4c6fff", "#2a9d6f"), strict=False):
        right.plot(epochs, [row["val"].get(key) for row in measured], label=name, color=colour, **style)
    right.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


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
