"""ExecuTorch programs for phones: what XNNPACK computes is handed to it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.exporters.onnx import quiet
from featherbone.exporters.program import device_program
from featherbone.tasks.raw import Flat


def write(net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
    """A network as a program with one method, `forward`; its outputs have no names, their order is that of `names`."""
    write_counted(net, example, path)


def write_counted(net: Flat, example: Tensor, path: Path) -> tuple[int, dict[str, int]]:
    """The program, and what `delegation` says of it."""
    with quiet():
        edge = lower(fold_constants(device_program(net, example)))
        told = delegation(edge)
        path.write_bytes(bytes(edge.to_executorch().buffer))
    return told


def fold_constants(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A program in which what follows from parameters alone is computed: XNNPACK takes products with constants only."""
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    program = constant_prop_pass(program)
    for name, value in program.constants.items():  # ExecuTorch 1.5 would write a part of a tensor from that one's start
        program.constants[name] = value.detach().clone()
    return program


def lower(program: torch.export.ExportedProgram) -> Any:
    """An exported program as ExecuTorch's `EdgeProgramManager`, what XNNPACK takes delegated to it."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(program, transform_passes=[plainer], partitioner=[XnnpackPartitioner()])


def delegation(edge: Any) -> tuple[int, dict[str, int]]:
    """How many delegated parts a lowered program has, and the operators between them with their counts."""
    parts, left = 0, {}  # type: int, dict[str, int]
    for node in edge.exported_program().graph_module.graph.nodes:
        name = _name(node)
        if "call_delegate" in name:
            parts += 1
        elif node.op == "call_function" and "getitem" not in name:
            left[name] = left.get(name, 0) + 1
    return parts, dict(sorted(left.items(), key=lambda item: -item[1]))


def plainer(graph: torch.fx.GraphModule) -> Any:
    """Operators between delegated parts that do nothing, dropped, and those that XNNPACK has by another name, renamed.

    An expand to the same shape goes; parts of a split become slices, and squeezes views.
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
    """Each part of a split as a slice."""
    source, sizes, *rest = split.args
    dim = (rest[0] if rest else split.kwargs.get("dim", 0)) % len(source.meta["val"].shape)  # type: ignore
    for part in list(split.users):
        start = sum(sizes[: part.args[1]])  # type: ignore
        with graph.inserting_before(part):
            piece = graph.call_function(slicing, (source, dim, start, start + sizes[part.args[1]]))  # type: ignore
        piece.meta = dict(part.meta)
        part.replace_all_uses_with(piece)


def _shape(node: Any) -> list[int] | None:
    """Of the tensor that a node gives, where it gives one of known size."""
    value = node.meta.get("val")
    shape = list(value.shape) if isinstance(value, Tensor) else []
    return shape if shape and all(isinstance(side, int) for side in shape) else None


def _name(node: torch.fx.Node) -> str:
    """An operator as `aten.slice_copy.Tensor`."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(node.target)
    return f"{schema.name.replace('::', '.')}{'.' + schema.overload_name if schema.overload_name else ''}"
