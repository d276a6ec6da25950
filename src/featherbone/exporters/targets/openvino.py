"""OpenVINO models, from ONNX, in full precision, or in int8 by NNCF."""

import os
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.onnx import ONNX, ONNXQuantizer
from featherbone.exporters.targets.target import Quantizer, Run, Target, quiet

PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
OTHERS = (
    *("Add", "Subtract", "Multiply", "Divide", "SquaredDifference", "MVN", "NormalizeL2", "GroupNormalization"),
    *("ConvolutionBackpropData", "GroupConvolutionBackpropData"),
    *("AvgPool", "MaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "Interpolate", "Concat", "PRelu"),
)
"""What NNCF would round beside the layers that are ranked; that it does not, costs no time that could be measured."""


class OpenVINOQuantizer(Quantizer):
    """Products with a weight in int8, found by their names in the ONNX file."""

    def __init__(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, inputs: Sequence[Tensor]
    ) -> None:
        import openvino

        os.environ.setdefault("NNCF_CI", "1")  # no telemetry
        onnx_file = path.with_suffix(".onnx")
        source = ONNXQuantizer(net, example, onnx_file, names, dynamic, inputs)
        self.inputs = source.inputs
        with quiet():
            self.model = openvino.convert_model(onnx_file)
            openvino.save_model(self.model, path, compress_to_fp16=False)
        graph = source.model.graph
        layers = {node.output[0]: source.nodes[node.name] for node in graph.node if node.name in source.nodes}
        self.nodes = nodes_of(self.model, layers)
        self.layers = {layer for layer in self.nodes.values() if layer is not None}

    def write(self, path: Path, chosen: Collection[str]) -> None:
        """As `Quantizer.write`.

        Ranges are minimum and maximum: NNCF's default, means of each image's, cut what few images need.
        """
        with quiet():
            import nncf
            import openvino
            from nncf.quantization import advanced_parameters as advanced
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
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                    smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
                ),
            )
            openvino.save_model(model, path, compress_to_fp16=False)


class OpenVINO(Target):
    """A graph, and its weights in a second file."""

    name = "openvino"
    file = "model.xml"
    companions = ("model.bin",)
    magic = (0, (b"<?xml", b"<net"))
    packages = ("openvino", *ONNX.packages)
    run_packages = ("openvino",)
    quantizer = OpenVINOQuantizer
    int8_packages = ("nncf",)
    extra = "openvino"
    lacks = ("torchvision.deform_conv2d", *ONNX.lacks)
    slow = ONNX.slow

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
        import openvino

        with TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            ONNX().write(net, example, source, names, dynamic)
            openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)

    def open(self, path: Path) -> Run:
        # without the first hint OpenVINO computes in bf16 where the processor can
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            model = _core().compile_model(str(path), "CPU", hints)
        except RuntimeError as error:
            raise BadRun(f"{path}: OpenVINO does not take it ({str(error).splitlines()[-1]}); export again") from None

        def run(images: Tensor) -> list[Tensor]:
            found = model(images.numpy())
            return [torch.from_numpy(found[i].copy()) for i in range(len(model.outputs))]

        return run


@cache
def _core() -> Any:
    """OpenVINO, which stays loaded until the process ends.

    It installs a stack for signal handlers, and unloading can leave that stack freed (2026.4): after two copies are
    unloaded in the order they were loaded, the next signal, such as an interrupt, ends the process.
    """
    import openvino

    return openvino.Core()


def nodes_of(model: Any, layers: dict[str, str]) -> dict[str, str | None]:
    """The layer of each product by the name of its node, None without a weight; `layers` are by their ONNX tensors.

    OpenVINO separates a product from its bias; then the sum has the tensor's name.
    """
    found: dict[str, str | None] = {}
    for node in model.get_ops():
        if node.get_type_name() in PRODUCTS:
            users = [target.get_node() for target in node.output(0).get_target_inputs()]
            sources = [node, *(user for user in users if user.get_type_name() == "Add")]
            names = [name for source in sources for name in source.output(0).get_names()]
            found[node.get_friendly_name()] = next((layers[name] for name in names if name in layers), None)
    return found
