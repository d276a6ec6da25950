"""Operators that targets lack or are slow at, and what to use instead; tried in November 2026."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from featherbone.exporters.targets.target import Target

REGIONS = "use a head without regions: nms_free, nms_free_masks or nms_free_panoptic"
REMEDIES = {
    "torchvision.nms": "omit with-nms, NMS is then part of decoding; or " + REGIONS,
    "torchvision.roi_align": REGIONS,
    "torchvision.deform_conv2d": "sample with grid_sample, then multiply, as LIT does",
    "aten.col2im": "add shifted slices, as LVT does, or use a transposed convolution",
    "aten.im2col": "use shifted slices, or a convolution",
    "aten.unfold.": "select rows by a constant index",
    "aten.upsample_bicubic2d": "bilinear; for position tables the size they are trained at",
    "aten._upsample_bi": "resize without antialias",
    "aten.max_pool3d": "MaxPool2d, once for each slice",
    "aten.roll": "windows that are not shifted",
    "aten.grid_sampl": "merge tokens by a plain convolution: LIT with deformable=False",
    "aten.layer_norm": "it splits what is delegated; BatchNorm becomes part of a convolution",
    "aten.scaled_dot_product_attention": "attention by matrix products and softmax; this model has no switch for it",
    "aten.adaptive_avg_pool2d": "pool to one position, or by avg_pool2d of a fixed window",
    "attention of 5 dimensions": "put windows into the batch, for 4 dimensions",
}
"""What to use instead of operators, by the beginning of their names in torch."""


@dataclass(frozen=True)
class Concern:
    """An operator of a model that a target is known to lack, or to be slow at."""

    operator: str
    count: int
    lacks: bool
    remedy: str


def operators(program: torch.export.ExportedProgram) -> dict[str, int]:
    """The operators of an exported program, such as `aten.linear.default`, with their counts, most frequent first."""
    return dict(Counter(str(node.target) for node in _calls(program)).most_common())


def highest_rank(program: torch.export.ExportedProgram) -> int:
    """The maximum number of dimensions of a tensor in the program."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    tensors = (x for value in values for x in (value if isinstance(value, list | tuple) else [value]))
    return max(x.dim() for x in tensors if isinstance(x, Tensor))


def concerns(program: torch.export.ExportedProgram, target: Target) -> list[Concern]:
    """What a target is known to lack of a program, then what it is slow at."""
    names = Counter(name for node in _calls(program) for name in _names(node))
    counts = {key: sum(number for name, number in names.items() if name.startswith(key)) for key in REMEDIES}
    found = [
        Concern(key.rstrip("."), counts[key], key in target.lacks, remedy)
        for key, remedy in REMEDIES.items()
        if counts[key] and key in target.lacks + target.slow
    ]
    rank = highest_rank(program)
    if target.max_rank is not None and rank > target.max_rank:
        remedy = f"reshape to {target.max_rank} dimensions or fewer"
        found.append(Concern(f"tensors of rank {rank}", 1, True, remedy))
    return sorted(found, key=lambda concern: not concern.lacks)


def _names(node: torch.fx.Node) -> Iterable[str]:
    """The keys under which a call counts; pooling to one position is no concern."""
    name = str(node.target)
    if "scaled_dot_product" in name and node.args[0].meta["val"].dim() > 4:  # type: ignore[union-attr]
        yield "attention of 5 dimensions"
    sizes = node.args[1] if "adaptive_avg_pool2d" in name else ()
    if not sizes or not all(size == 1 for size in sizes):  # type: ignore[union-attr]
        yield name


def _calls(program: torch.export.ExportedProgram) -> Iterable[torch.fx.Node]:
    """Nodes that call an operator of torch or torchvision."""
    return (n for n in program.graph.nodes if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload))
