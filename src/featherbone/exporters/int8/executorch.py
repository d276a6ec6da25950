"""int8 for ExecuTorch's XNNPACK, by PT2E: activations and weights signed, weights per channel."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.exporters.forms import Flat
from featherbone.exporters.int8.sensitivity import layer_of
from featherbone.exporters.program import device_program
from featherbone.exporters.targets.executorch import lower
from featherbone.exporters.targets.target import quiet


class Source:
    """A network as a float program, ready to be made int8."""

    def __init__(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, inputs: Sequence[Tensor]
    ) -> None:
        self.path, self.inputs = path, list(inputs)
        with quiet():
            self.program = device_program(net, example)
            path.write_bytes(bytes(lower(self.program).to_executorch().buffer))
            graph = self.program.module().graph
        self.layers = {layer for node in graph.nodes if (layer := _layer(node)) is not None}
        """What can be int8."""

    def write(self, path: Path, chosen: Collection[str]) -> None:
        """The program with the `chosen` layers in int8; whatever else it computes stays float."""
        aten = torch.ops.aten
        others: tuple[Any, ...] = (aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor)
        others += (aten.cat.default, aten.adaptive_avg_pool2d.default, aten.conv_transpose2d.input)

        def rounded(node: Any) -> bool:
            """Of nodes that XNNPACK could round; what belongs to a product, as its weight and a ReLU, goes with it."""
            return _layer(node) in chosen if node.target in _products() else node.target not in others

        with quiet(), torch.no_grad():
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
            quantizer.set_filter_function(rounded)
            prepared = prepare_pt2e(self.program.module(), quantizer)
            for images in self.inputs:
                prepared(images)
            program = torch.export.export(convert_pt2e(prepared), (self.inputs[0],), strict=False)
            path.write_bytes(bytes(lower(program).to_executorch().buffer))


def _products() -> tuple[Any, ...]:
    aten = torch.ops.aten
    return aten.conv2d.default, aten.convolution.default, aten.linear.default


def _layer(node: Any) -> str | None:
    """Of a product with a weight."""
    if node.target not in _products() or node.args[1].op != "get_attr":
        return None
    return layer_of(node.args[1].target)
