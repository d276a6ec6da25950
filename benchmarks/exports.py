"""Every task x head x target: parity with the model, file size, and latency against eager, in one run.

The models are untrained, their heads scaled so that answers differ as a trained one's do; pictures are drawn. A file
that is not the same as its model is not hidden: its row says so. Writes a table in Markdown and the same as JSON.

    python benchmarks/exports.py --models lvt lightvit_tiny xformer_small lit_tiny mobilenetv3_large_100
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from featherbone.data.scenes import draw_portrait
from featherbone.data.transforms import Preprocessing
from featherbone.errors import FeatherboneError
from featherbone.exporters.artifact import choose_form
from featherbone.exporters.contract import ExportDiffers, export_task
from featherbone.exporters.exported import open_task
from featherbone.exporters.parity import Parity
from featherbone.exporters.targets import TARGETS, find_target
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.run import build_task
from featherbone.tasks.task import KINDS

PAPER = ("lvt", "lightvit_tiny", "xformer_small", "lit_tiny", "mobilenetv3_large_100")
HEAD_NAMES = ("classifier", *(name for kind in KINDS.values() for name in kind.heads if name != "panoptic_fpn"))
CLASSES = tuple(f"class {i}" for i in range(10))


@dataclass(frozen=True)
class Row:
    """One model exported to one target."""

    model: str
    head: str
    target: str
    outcome: str
    """`same`, or in words what is not."""
    parity: Parity | None = None
    megabytes: float = 0.0
    milliseconds: float = 0.0
    eager: float = 0.0
    """Milliseconds of the model itself, in turn with the file."""
    seconds: float = 0.0
    """That writing and proving took."""

    def cells(self) -> list[str]:
        """Of the table."""
        if self.parity is None:
            return [self.model, self.head, self.target, self.outcome, *[""] * 8]
        worst = self.parity.worst
        numbers = [
            "" if worst.score is None else f"{worst.score:.1e}",
            "" if worst.box_iou is None else f"{worst.box_iou:.4f}",
            "" if worst.mask_iou is None else f"{worst.mask_iou:.4f}",
            "" if worst.agreement is None else f"{worst.agreement:.2%}",
            f"{self.parity.raw:.0e}",
        ]
        if not self.megabytes:
            return [self.model, self.head, self.target, self.outcome, *numbers, "", "", ""]
        speed = [f"{self.megabytes:.1f}", f"{self.milliseconds:.1f}", f"{self.eager / self.milliseconds:.2f}"]
        return [self.model, self.head, self.target, self.outcome, *numbers, *speed]


TITLES = ("model", "head", "target", "outcome", "score", "box IoU", "mask IoU", "pixels", "raw", "MB", "ms", "x eager")


def build(model: str, head: str, side: int, pictures: Sequence[Image.Image]) -> tuple[Card, Any]:
    """An untrained model that says something of each picture, and its card."""
    torch.manual_seed(0)
    if head == "classifier":
        task, size = "classification", Preprocessing(side, side)
    else:
        task = next(kind.name for kind in KINDS.values() if head in kind.heads)
        size = dense_preprocessing(model, KINDS[task].find_head(head)[1], side)
    things = range(5) if task == "panoptic" else ()
    card = Card(task, model, CLASSES, size, head=None if head == "classifier" else head, things=tuple(things))
    net = build_task(card)
    enliven(net, torch.stack([size.transform()(picture) for picture in pictures]))
    return card, net


@torch.no_grad()
def enliven(net: torch.nn.Module, images: Tensor) -> None:
    """Give an untrained task answers that differ, neither alike nor all sure: it is ready for evaluation then.

    Batch norms take the statistics of the `images`; layers of the head are scaled to outputs of variance 1, one after
    the other (arXiv 1511.06422); biases that predict almost no object are raised.
    """

    def scale(layer: Any, _: Any, output: Tensor) -> Tensor:
        hooks.pop(layer).remove()  # a layer of several maps is scaled on the first, the finest
        size = output.std().clamp(min=1e-6)
        layer.weight /= size
        return output / size

    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None  # the plain mean
    net.train()
    net.backbone(images)
    net.eval()
    layers = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    hooks: dict[Any, Any] = {}
    for name, layer in net.named_modules():
        if name.startswith("head") and isinstance(layer, layers):
            hooks[layer] = layer.register_forward_hook(scale)
            if layer.bias is not None:
                layer.bias.clamp_(min=-1)
    net(images)


def measure(model: str, head: str, target: str, side: int, count: int, repeats: int) -> Row:
    """One row; `count` pictures prove the file."""
    pictures = [draw_portrait(0, i, (side + 13 * i, side + 40), i % 6) for i in range(count)]
    card, net = build(model, head, side, pictures)
    folder = Path(tempfile.mkdtemp())
    start = time.perf_counter()
    try:
        name, _, precision = target.partition("-")
        form = choose_form(find_target(name), card.task, card.head, "none", fp16=precision == "fp16")
        parity = export_task(card, net, form, folder / "out", pictures)
        seconds = time.perf_counter() - start
        _, file = open_task(folder / "out")
        image = torch.randn(1, 3, side, side)
        eager, exported = in_turn([lambda: net(image), lambda: file(image)], repeats)
        size = form.target.size(folder / "out")
        return Row(model, head, target, "same", parity, size / 1e6, exported, eager, seconds)
    except ExportDiffers as error:
        return Row(model, head, target, str(error).split("images ", 1)[-1].split("; see")[0])
    except FeatherboneError as error:
        return Row(model, head, target, str(error))
    except Exception as error:  # a tool-chain's own failure is a result, too
        return Row(model, head, target, f"fails: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
    finally:
        shutil.rmtree(folder)


def in_turn(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median milliseconds of each call, the calls taking turns after two rounds to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for turn in range(repeats + 2):
            for call, taken in zip(calls, times, strict=True):
                start = time.perf_counter()
                call()
                if turn >= 2:
                    taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def table(rows: Sequence[Row]) -> str:
    """Of all rows, in Markdown."""
    lines = [TITLES, ["---"] * len(TITLES), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure what the arguments ask for, print and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(PAPER))
    parser.add_argument("--heads", nargs="+", default=list(HEAD_NAMES), choices=HEAD_NAMES)
    parser.add_argument(
        "--targets", nargs="+", default=[t for t in TARGETS if t != "web"], help="also with a precision: ncnn-fp16"
    )
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("exports.json"))
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    for model in given.models:
        for head in given.heads:
            for target in given.targets:
                rows.append(measure(model, head, target, given.image_size, given.count, given.repeats))
                print(" | ".join(rows[-1].cells()), flush=True)
                given.out.write_text(json.dumps(about(given, rows), indent=1))
    given.out.with_suffix(".md").write_text(table(rows) + "\n")
    return rows


def about(given: argparse.Namespace, rows: Sequence[Row]) -> dict[str, Any]:
    """Everything as plain values."""
    told = [{**vars(row), "parity": row.parity and row.parity.to_json()} for row in rows]
    versions = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    return {"date": date.today().isoformat(), "image_size": given.image_size, **versions, "rows": told}


if __name__ == "__main__":
    main()
