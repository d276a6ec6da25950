"""Facts of a backbone: its cost, and the figures of its paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.flop_counter import FlopCounterMode

from featherbone.backbones import FAMILIES
from featherbone.backbones.published import Published
from featherbone.deployment import use_form
from featherbone.tasks.backbone import has_weights, licence_of, preprocessing_of, require_model
from featherbone.tasks.published import PublishedModel


@dataclass(frozen=True)
class ModelFacts:
    """One row of `featherbone models`."""

    name: str
    image_size: int
    params: int
    """With the ImageNet classifier."""
    macs: int
    """Multiply-adds of one image at `image_size`, convolutions and matrix products counted."""
    strides: tuple[int, ...]
    """Strides of the maps for dense heads."""
    published: Published | None
    """Figures of the paper; None for backbones outside of the four families."""
    licence: str
    """Of the published weights that training starts from, or why there are none."""
    measured_top1: float | None = None
    """ImageNet-1K top-1 of weights trained here, in per cent; None: not run."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def published() -> dict[str, Published]:
    """Every size of the four families, in the order of the papers."""
    return {name: row for family in FAMILIES for name, row in family.PUBLISHED.items()}


def count_macs(model: nn.Module, height: int, width: int, channels: int = 3) -> int:
    """Multiply-adds of one image (C, H, W), convolutions and matrix products counted, on the model's device."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, channels, height, width, device=device))
    return counter.get_total_flops() // 2


def count_cost(make: Callable[[], nn.Module], height: int, width: int, channels: int = 3) -> tuple[int, int | None]:
    """Parameters of the network that `make` builds, and multiply-adds of one image; nothing is computed.

    The latter are None if the network refuses the size, or has an operator whose shapes cannot be derived.
    """
    with torch.random.fork_rng(devices=()), torch.device("meta"):
        net = make().requires_grad_(False)
    use_form(net, "compiled")  # the shapes of which do not depend on what is found in the image
    try:
        with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
            macs = count_macs(net.to_empty(device="cpu"), height, width, channels)
    except Exception:  # networks raise errors of any type
        macs = None
    return sum(parameter.numel() for parameter in net.parameters()), macs


def model_facts(name: str) -> ModelFacts:
    """Facts of a timm model, found on the meta device: nothing is computed. Raises `UnknownModel`."""
    require_model(name)
    size = preprocessing_of(name)
    with torch.device("meta"):
        model = timm.create_model(name).requires_grad_(False)
        try:
            maps: Any = timm.create_model(name, features_only=True)
            strides = tuple(maps.feature_info.reduction())
        except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError):  # timm has no maps of it
            strides = ()
    params = sum(parameter.numel() for parameter in model.parameters())
    macs = count_macs(model, size.height, size.width)
    return ModelFacts(name, size.height, params, macs, strides, published().get(name), weights_of(name))


def weights_of(name: str) -> str:
    """The licence of a backbone's published weights in a few words; "none" where there are none."""
    licence = licence_of(name)
    if has_weights(name):
        return (licence or "not stated").partition(";")[0]
    return licence or "none"


def model_table(rows: Sequence[ModelFacts], markdown: bool) -> str:
    """The rows as a table, for a terminal or in Markdown."""
    cells = [
        ("model", "input", "params", "MACs", "strides", "published params, MACs, top-1", "measured top-1", "weights")
    ]
    for row in rows:
        paper = ""
        if p := row.published:
            figures = (("{:g}M", p.params), ("{:g}G", p.gmacs), ("{:g}%", p.top1))
            paper = ", ".join(form.format(value) for form, value in figures if value is not None) or "no classifier"
        cost = f"{row.params / 1e6:.3f}M", f"{row.macs / 1e9:.2f}G"
        strides = ", ".join(map(str, row.strides)) or "no maps"
        measured = "not run" if row.measured_top1 is None else f"{row.measured_top1:.1f}%"
        cells.append((row.name, str(row.image_size), *cost, strides, paper, measured, row.licence))
    return as_table(cells, markdown)


def dense_models_table(models: Mapping[str, PublishedModel]) -> str:
    """The published detectors and segmentation models by name, as a table for a terminal."""
    cells = [("published model", "task", "published, %", "weights", "available")]
    for name, model in models.items():
        source = model.checkpoint
        figures = ", ".join(f"{metric} {value:g}" for metric, value in model.figures.items())
        how = "downloaded in a browser" if source.by_hand else "downloaded when used"
        cells.append((name, model.task, figures, source.licence.partition(";")[0], how))
    return as_table(cells, markdown=False)


def as_table(cells: Sequence[Sequence[str]], markdown: bool) -> str:
    """Rows of cells, the first with the titles, as a table for a terminal or in Markdown."""
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in cells]
        return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(lines)


if __name__ == "__main__":
    print(model_table([model_facts(name) for name in published()], markdown=True))
