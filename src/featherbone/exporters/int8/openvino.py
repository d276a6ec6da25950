"""int8 for OpenVINO, by NNCF from the ONNX file."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from featherbone.exporters.forms import Flat
from featherbone.exporters.int8 import onnx
from featherbone.exporters.targets.target import quiet

PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
OTHERS = (
    *("Add", "Subtract", "Multiply", "Divide", "SquaredDifference", "MVN", "NormalizeL2", "GroupNormalization"),
    *("ConvolutionBackpropData", "GroupConvolutionBackpropData"),
    *("AvgPool", "MaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "Interpolate", "Concat", "PRelu"),
)
"""What NNCF would round beside the layers that are ranked; that it does not, costs no time that could be measured."""


class Source:
    """A network as a float OpenVINO model, ready to be made int8."""

    def __init__(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, inputs: Sequence[Tensor]
    ) -> None:
        import openvino

        os.environ.setdefault("NNCF_CI", "1")  # no telemetry
        source = onnx.Source(net, example, path.with_suffix(".onnx"), names, dynamic, inputs)
        self.path, self.inputs = path, source.inputs
        with quiet():
            self.model = openvino.convert_model(source.path)
            openvino.save_model(self.model, path, compress_to_fp16=False)
        made = {
            node.output[0]: source.nodes[node.name] for node in source.model.graph.node if node.name in source.nodes
        }
        self.nodes = nodes_of(self.model, made)
        """The layer of each product by the name of its node; None for products without a weight."""

    @property
    def layers(self) -> set[str]:
        """What can be int8."""
        return {layer for layer in self.nodes.values() if layer is not None}

    def write(self, path: Path, chosen: Collection[str]) -> None:
        """The file with the `chosen` layers in int8; whatever else it computes stays float.

        Ranges are the least and the largest value: NNCF's own, means of each image's, cut what few images need.
        """
        with quiet():
            import nncf
            import openvino
            from nncf.quantization.advanced_parameters import (
                AdvancedQuantizationParameters,
                AdvancedSmoothQuantParameters,
            )
            from nncf.quantization.range_estimator import RangeEstimatorParametersSet

            model = nncf.quantize(
                self.model.clone(),
                nncf.Dataset(self.inputs),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(self.inputs),
                ignored_scope=nncf.IgnoredScope(
                    names=[node for node, layer in self.nodes.items() if layer not in chosen],
                    types=list(OTHERS),
                    validate=False,
                ),
                advanced_parameters=AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                    smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
                ),
            )
            openvino.save_model(model, path, compress_to_fp16=False)


def nodes_of(model: Any, made: dict[str, str]) -> dict[str, str | None]:
    """The layer of each product by the name of its node, from the tensors that layers `made` in ONNX.

    OpenVINO parts a product from its bias; then the sum has the tensor's name.
    """
    found: dict[str, str | None] = {}
    for node in model.get_ops():
        if node.get_type_name() not in PRODUCTS:
            continue
        after = [target.get_node() for target in node.output(0).get_target_inputs()]
        givers = [node, *(each for each in after if each.get_type_name() == "Add")]
        names = [name for giver in givers for name in giver.output(0).get_names()]
        found[node.get_friendly_name()] = next((made[name] for name in names if name in made), None)
    return found
