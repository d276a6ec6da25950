"""The parts that every report of a run is made of."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from featherbone.engine.run import read_metrics
from featherbone.fonts import find_font, readable
from featherbone.pages import svg, table
from featherbone.tasks.card import Card, count_measured


def heading(card: Card) -> str:
    """What was trained on what, and measured on what."""
    head = f" with {card.head}" if card.head else ""
    trained = (
        f"{card.data['train']} training and {card.data['val']} validation images, " if "train" in card.data else ""
    )
    return (
        f"<h1>{html.escape(card.backbone + head)}</h1>"
        f'<p class="soft">{card.task} of {len(card.classes)} classes on {html.escape(Path(card.data["path"]).name)}: '
        f"{trained}measured on {count_measured(card.metrics)}</p>"
    )


def plot_names(names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Names as a plot shows them, of 20 letters at most, and the style of text in which they stay what they are."""
    file = find_font(*names)
    shown = [readable(name, file) for name in names]
    style = {"fontproperties": Path(file), "parse_math": False}
    return [name if len(name) <= 20 else name[:19] + "…" for name in shown], style


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
