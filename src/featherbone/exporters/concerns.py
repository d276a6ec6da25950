"""What is known of operators that a target lacks or is slow at, and what to take instead; tried in November 2026."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEVICES = ("executorch", "litert", "coreml")
MAX_RANK = 5


@dataclass(frozen=True)
class Known:
    """An operator, by how the names of its forms in torch begin."""

    operator: str
    remedy: str
    lacks: tuple[str, ...] = ()
    """Targets that do not have it."""
    slow: tuple[str, ...] = ()
    """Targets that have it in a slow form, or outside of what they hand to their accelerator."""


REGIONS = "take a head that looks at no regions: retinanet, yolov3, segformer or semantic_fpn"
KNOWN = (
    Known("torchvision.nms", "leave with-nms out, decoding does it; or " + REGIONS, ("executorch", "litert")),
    Known("torchvision.roi_align", REGIONS, DEVICES),
    Known(
        "torchvision.deform_conv2d",
        "sample with grid_sample, then multiply; LIT does",
        ("openvino", *DEVICES),
    ),
    Known("aten.col2im", "add shifted slices, as LVT does, or use a transposed convolution", DEVICES),
    Known("aten.im2col", "take shifted slices, or a convolution", slow=("executorch",)),
    Known("aten.unfold.", "pick rows by an index that is a constant", slow=("executorch",)),
    Known(
        "aten.upsample_bicubic2d",
        "bilinear, or for tables of positions the size they are trained at",
        ("coreml",),
        ("executorch",),
    ),
    Known("aten._upsample_bi", "resize without antialias", ("litert",), ("onnx", "openvino", "web")),
    Known("aten.max_pool3d", "MaxPool2d, once for each slice", ("executorch",)),
    Known("aten.roll", "windows that are not shifted", slow=("executorch",)),
    Known("aten.grid_sampl", "merge tokens by a plain convolution: LIT with deformable=False", slow=("executorch",)),
    Known(
        "aten.layer_norm", "it splits what is delegated; BatchNorm becomes part of a convolution", slow=("executorch",)
    ),
    Known(
        "aten.scaled_dot_product_attention",
        "attention by matrix products and softmax; this model has no switch for it",
        slow=("executorch",),
    ),
)
POOLING = Known(
    "aten.adaptive_avg_pool2d",
    "pool to one position, or by avg_pool2d of a fixed window",
    slow=("onnx", "openvino", "web"),
)
"""To more than one position: at open sizes its numbers are wrong."""


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
    """The most dimensions that a tensor of the program has."""
    values = (x for node in program.graph.nodes for x in _tensors(node.meta.get("val")))
    return max(x.dim() for x in values)


def concerns(program: torch.export.ExportedProgram, target: str) -> list[Concern]:
    """What a target is known to lack of a program, then what it is slow at."""
    found = operators(program)
    known = list(KNOWN)
    if any(not _pools_to_one(node) for node in _calls(program) if "adaptive_avg_pool2d" in str(node.target)):
        known.append(POOLING)
    told = []
    for one in known:
        count = sum(number for name, number in found.items() if name.startswith(one.operator))
        if count and target in one.lacks + one.slow:
            told.append(Concern(one.operator.rstrip("."), count, target in one.lacks, one.remedy))
    deep = sum("scaled_dot_product" in str(n.target) and n.args[0].meta["val"].dim() > 4 for n in _calls(program))  # type: ignore
    if deep and target in ("onnx", "openvino", "web"):
        told.append(Concern("attention of 5 dimensions", deep, True, "put windows into the batch, for 4 dimensions"))
    rank = highest_rank(program)
    if rank > MAX_RANK and target in DEVICES:
        told.append(Concern(f"tensors of rank {rank}", 1, True, f"reshape to {MAX_RANK} dimensions or fewer"))
    return sorted(told, key=lambda concern: not concern.lacks)


def _calls(program: torch.export.ExportedProgram) -> Iterable[torch.fx.Node]:
    """Nodes that call an operator of torch's or torchvision's."""
    return (n for n in program.graph.nodes if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload))


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _pools_to_one(node: torch.fx.Node) -> bool:
    sizes = node.args[1]
    return isinstance(sizes, list | tuple) and all(size == 1 for size in sizes)
