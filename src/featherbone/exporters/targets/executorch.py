"""ExecuTorch programs for phones, with XNNPACK as accelerator; in int8 by PT2E."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.target import Delegation, Opener, Run, Target, quiet

ATEN = torch.ops.aten
PRODUCTS: tuple[Any, ...] = (ATEN.conv2d.default, ATEN.convolution.default, ATEN.linear.default)
OTHERS: tuple[Any, ...] = (
    *(ATEN.add.Tensor, ATEN.add_.Tensor, ATEN.mul.Tensor, ATEN.mul_.Tensor, ATEN.cat.default),
    *(ATEN.adaptive_avg_pool2d.default, ATEN.conv_transpose2d.input),
)
"""What XNNPACK could round beside products: in int8 they make LVT slower."""


def open_executorch(path: str, threads: int) -> Callable[[Any], list[Any]]:
    """A program in ExecuTorch, whose Python package takes torch's tensors and chooses the number of threads itself.

    Raises `ValueError` for a program without the method `forward`.
    """
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        from executorch.runtime import Runtime, Verification

    program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
    method = program.load_method("forward")
    if method is None:
        raise ValueError("no method forward")
    return lambda images: [value.numpy().copy() for value in method.execute([torch.from_numpy(images)])]


class ExecuTorch(Target):
    """A program with one method, `forward`; its outputs have no names, their order is that of the manifest."""

    name = "executorch"
    file = "model.pte"
    magic = (4, (b"ET12",))
    packages = ("executorch",)
    run_packages = packages
    extra = "executorch"
    int8_packages = ("torchao",)
    dynamic = ("none",)
    nms = False
    device_form = True
    max_rank = 5
    lacks = ("torchvision.nms", "torchvision.roi_align", "torchvision.deform_conv2d", "aten.col2im")
    slow = (
        *("aten.im2col", "aten.unfold.", "aten.upsample_bicubic2d", "aten.max_pool3d", "aten.roll", "aten.grid_sampl"),
        *("aten.layer_norm", "aten.scaled_dot_product_attention"),
    )

    def write(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False
    ) -> Delegation:
        with quiet():
            edge = lower(fold_constants(torch.export.export(net, (example,), strict=False)))
            found = delegation(edge)
            path.write_bytes(bytes(edge.to_executorch().buffer))
        return found

    def quantize(
        self, net: Flat, source: Path, path: Path, inputs: Sequence[Tensor], floats: Collection[str] = ()
    ) -> None:
        """By PT2E, all products with a weight: activations and weights signed, weights per channel."""
        with quiet(), torch.no_grad():
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
            quantizer.set_filter_function(in_int8)
            prepared = prepare_pt2e(torch.export.export(net, (inputs[0],), strict=False).module(), quantizer)
            for images in inputs:
                prepared(images)
            program = torch.export.export(convert_pt2e(prepared), (inputs[0],), strict=False)
            path.write_bytes(bytes(lower(program).to_executorch().buffer))

    def opener(self) -> Opener:
        return open_executorch

    def open(self, path: Path) -> Run:
        try:
            run = open_executorch(str(path), torch.get_num_threads())
        except (RuntimeError, ValueError) as error:
            raise BadRun(f"{path}: ExecuTorch does not take it ({error}); export the run again") from None
        return lambda images: [torch.from_numpy(value) for value in run(images.contiguous().numpy())]


def in_int8(node: Any) -> bool:
    """Whether a node is rounded: a product with a weight, or what belongs to it, such as the weight and a ReLU."""
    return node.args[1].op == "get_attr" if node.target in PRODUCTS else node.target not in OTHERS


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
    calls = [node for node in edge.exported_program().graph_module.graph.nodes if node.op == "call_function"]
    names = Counter(node.target.__name__.removesuffix(".default") for node in calls)
    parts = names.pop("executorch_call_delegate", 0)
    names.pop("getitem", None)
    return Delegation(parts, dict(names.most_common()))


def simplify(graph: torch.fx.GraphModule) -> Any:
    """Drop operators without effect, and replace those that XNNPACK has under another name.

    An expand to the same shape is dropped; the parts of a split become slices, and squeezes become views.
    """
    from executorch.exir.dialects._ops import ops
    from executorch.exir.pass_base import PassResult

    edge = ops.edge.aten
    views = edge.squeeze_copy.dims, edge.squeeze_copy.dim, edge.unsqueeze_copy.default
    for node in list(graph.graph.nodes):
        shape = _shape(node)
        same = node.target == edge.alias_copy.default or (
            node.target == edge.expand_copy.default and shape == _shape(node.args[0])
        )
        if same and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(node.args[0])
        elif node.target == edge.split_with_sizes_copy.default:
            _slice(graph.graph, node, edge.slice_copy.Tensor)
        elif node.target in views and shape:
            node.target, node.args, node.kwargs = edge.view_copy.default, (node.args[0], shape), {}
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return PassResult(graph, True)


def _slice(graph: torch.fx.Graph, split: Any, slicing: Any) -> None:
    """Replace each part of a split by a slice."""
    source, sizes, *rest = split.args
    dim = (rest[0] if rest else split.kwargs.get("dim", 0)) % len(source.meta["val"].shape)
    for part in list(split.users):
        index = part.args[1]
        start = sum(sizes[:index])
        with graph.inserting_before(part):
            piece = graph.call_function(slicing, (source, dim, start, start + sizes[index]))
        piece.meta = dict(part.meta)
        part.replace_all_uses_with(piece)


def _shape(node: Any) -> list[int] | None:
    """Shape of a node's tensor; None without a tensor of known size."""
    value = node.meta.get("val")
    shape = list(value.shape) if isinstance(value, Tensor) else []
    return shape if shape and all(isinstance(side, int) for side in shape) else None
