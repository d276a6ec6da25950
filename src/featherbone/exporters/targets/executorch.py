"""ExecuTorch programs for phones, with XNNPACK as accelerator."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.program import device_program
from featherbone.exporters.targets.target import Delegation, Quantizer, Run, Target, quiet


class ExecuTorch(Target):
    """A program with one method, `forward`; its outputs have no names, their order is that of the manifest."""

    name = "executorch"
    file = "model.pte"
    magic = (4, (b"ET12",))
    packages = ("executorch",)
    run_packages = packages
    int8_packages = ("torchao",)
    extra = "executorch"
    dynamic = ("none",)
    nms = False
    device_form = True
    max_rank = 5
    lacks = ("torchvision.nms", "torchvision.roi_align", "torchvision.deform_conv2d", "aten.col2im")
    slow = (
        *("aten.im2col", "aten.unfold.", "aten.upsample_bicubic2d", "aten.max_pool3d", "aten.roll", "aten.grid_sampl"),
        *("aten.layer_norm", "aten.scaled_dot_product_attention"),
    )

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> Delegation:
        with quiet():
            edge = lower(fold_constants(device_program(net, example)))
            found = delegation(edge)
            path.write_bytes(bytes(edge.to_executorch().buffer))
        return found

    def open(self, path: Path) -> Run:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental
            from executorch.runtime import Runtime, Verification

        try:
            program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
            method = program.load_method("forward")
        except RuntimeError as error:
            raise BadRun(f"{path}: ExecuTorch does not take it ({error}); export the run again") from None
        if method is None:
            raise BadRun(f"{path}: no ExecuTorch program with a method forward; export the run again")

        def run(images: Tensor) -> list[Tensor]:
            return [value.clone() for value in method.execute([images.contiguous()])]

        return run

    def quantizer(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, inputs: Sequence[Tensor]
    ) -> Quantizer:
        from featherbone.exporters.int8.executorch import Source

        return Source(net, example, path, names, dynamic, inputs)


def fold_constants(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A program in which everything that depends only on parameters is a constant: XNNPACK needs constant weights."""
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    program = constant_prop_pass(program)
    for name, value in program.constants.items():  # ExecuTorch 1.5 would serialise a view from the start of its tensor
        program.constants[name] = value.detach().clone()
    return program


def lower(program: torch.export.ExportedProgram) -> Any:
    """An exported program as ExecuTorch's `EdgeProgramManager`, delegated to XNNPACK where it can be."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(program, transform_passes=[simplify], partitioner=[XnnpackPartitioner()])


def delegation(edge: Any) -> Delegation:
    """How a lowered program is divided."""
    parts, between = 0, Counter[str]()
    for node in edge.exported_program().graph_module.graph.nodes:
        name = _name(node)
        if "call_delegate" in name:
            parts += 1
        elif node.op == "call_function" and "getitem" not in name:
            between[name] += 1
    return Delegation(parts, dict(between.most_common()))


def simplify(graph: torch.fx.GraphModule) -> Any:
    """Drop operators without effect, and replace those that XNNPACK has under another name.

    An expand to the same shape is dropped; the parts of a split become slices, and squeezes become views.
    """
    from executorch.exir.dialects._ops import ops
    from executorch.exir.pass_base import PassResult

    edge = ops.edge.aten
    for node in list(graph.graph.nodes):
        shape = _shape(node)
        same = node.target == edge.alias_copy.default or (
            node.target == edge.expand_copy.default and shape == _shape(node.args[0])
        )
        if same and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(node.args[0])
        elif node.target == edge.split_with_sizes_copy.default:
            _slice(graph.graph, node, edge.slice_copy.Tensor)
        elif node.target in (edge.squeeze_copy.dims, edge.squeeze_copy.dim, edge.unsqueeze_copy.default) and shape:
            node.target, node.args, node.kwargs = edge.view_copy.default, (node.args[0], shape), {}
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return PassResult(graph, True)


def _slice(graph: torch.fx.Graph, split: torch.fx.Node, slicing: Any) -> None:
    """Replace each part of a split by a slice."""
    source, sizes, *rest = split.args
    dim = (rest[0] if rest else split.kwargs.get("dim", 0)) % len(source.meta["val"].shape)  # type: ignore
    for part in list(split.users):
        start = sum(sizes[: part.args[1]])  # type: ignore
        with graph.inserting_before(part):
            piece = graph.call_function(slicing, (source, dim, start, start + sizes[part.args[1]]))  # type: ignore
        piece.meta = dict(part.meta)
        part.replace_all_uses_with(piece)


def _shape(node: Any) -> list[int] | None:
    """Shape of a node's tensor; None without a tensor of known size."""
    value = node.meta.get("val")
    shape = list(value.shape) if isinstance(value, Tensor) else []
    return shape if shape and all(isinstance(side, int) for side in shape) else None


def _name(node: torch.fx.Node) -> str:
    """Name of an operator, such as `aten.slice_copy.Tensor`."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(node.target)
    return f"{schema.name.replace('::', '.')}{'.' + schema.overload_name if schema.overload_name else ''}"
