"""ONNX files, by torch's default exporter, for ONNX Runtime; in int8 with products in QDQ form."""

from collections.abc import Collection, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat, layer_of
from featherbone.exporters.targets.target import Quantizer, Run, Target, dynamic_shapes, quiet
from featherbone.files import atomic, to_json

PRODUCTS = ("Conv", "Gemm", "MatMul")
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node comes from, the innermost last."""
WEIGHT = "featherbone.weight"
"""Where `fold_transposes` notes which weight a node multiplies with."""


class ONNXQuantizer(Quantizer):
    """Products with a weight in int8: activations unsigned, weights signed and per channel."""

    def __init__(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, inputs: Sequence[Tensor]
    ) -> None:
        import onnx

        write_onnx(net, (example,), path, ["images"], names, dynamic_shapes(dynamic, example))
        self.inputs = [images.numpy() for images in inputs]
        self.model: Any = onnx.load(path)
        fold_transposes(self.model)
        self.nodes = nodes_of(self.model, {layer_of(name) for name, _ in net.named_parameters()})
        """The layer of each product with a weight, by the name of its node."""
        self.layers = set(self.nodes.values())

    def write(self, path: Path, chosen: Collection[str]) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        with quiet():
            quantize_static(
                deepcopy(self.model),
                path,
                CalibrationReader(self.inputs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(PRODUCTS),
                nodes_to_quantize=[node for node, layer in self.nodes.items() if layer in chosen],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                # only convolutions need a rounded output for their int8 kernel
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
            )


class ONNX(Target):
    """A file with the input `images` and named outputs."""

    name = "onnx"
    file = "model.onnx"
    magic = (0, (b"\x08",))  # the field of the IR's version
    packages = ("onnx", "onnxscript", "onnxruntime")
    run_packages = ("onnxruntime",)
    quantizer: ClassVar[type[Quantizer] | None] = ONNXQuantizer
    int8_packages = ("onnxruntime",)
    extra = "onnx"
    lacks = ("attention of 5 dimensions",)
    slow = ("aten._upsample_bi", "aten.adaptive_avg_pool2d")

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
        write_onnx(net, (example,), path, ["images"], names, dynamic_shapes(dynamic, example))

    def finish(self, folder: Path, about: dict[str, Any]) -> None:
        """Put the content of `featherbone.json` into the file's metadata, too."""
        import onnx

        path = folder / self.file
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {"featherbone": to_json(about)})
        with atomic(path) as partial:
            onnx.save(model, partial)

    def open(self, path: Path) -> Run:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as states

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        refusals = states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented, states.NoSuchFile
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except refusals as error:
            why = str(error).splitlines()[0]
            raise BadRun(f"{path}: ONNX Runtime does not take it ({why}); export the run again") from None
        name = session.get_inputs()[0].name

        def run(images: Tensor) -> list[Tensor]:
            outputs = session.run(None, {name: images.numpy()})
            return [torch.from_numpy(np.asarray(value)) for value in outputs]

        return run


def write_onnx(
    net: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    shapes: tuple[dict[int, Any]] | None = None,
) -> None:
    """Write a module with named inputs and outputs; `shapes` are `torch.export`'s `dynamic_shapes`."""
    with quiet():
        program = torch.onnx.export(
            net,
            example,
            dynamo=True,
            opset_version=20,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            verbose=False,
        )
        assert program is not None, "the default exporter returns its program"
        program.save(str(path))


class CalibrationReader:
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.inputs = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        images = next(self.inputs, None)
        return None if images is None else {"images": images}


def fold_transposes(model: Any) -> None:
    """Turn weights that the graph transposes into transposed weights: only a constant is rounded per channel."""
    from onnx import numpy_helper

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        order = next((list(given.ints) for given in node.attribute if given.name == "perm"), None)
        turned = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[0]]).transpose(order))
        graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        for user in graph.node:
            if node.output[0] in user.input:
                user.metadata_props.add(key=WEIGHT, value=node.input[0])
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def nodes_of(model: Any, layers: Collection[str]) -> dict[str, str]:
    """The layer of each product with a constant, by the name of its node; what belongs to no layer is omitted.

    The constant has the name of its parameter, unless the exporter computed with it; then it is found by the module.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or node.input[1] not in constants:
            continue
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = [part.strip("' ") for part in notes.get(SCOPES, "").strip("[]").split(",")]
        names = [notes.get(WEIGHT, node.input[1]), *reversed(scopes)]
        layer = next((name for name in map(layer_of, names) if name in layers), None)
        if layer is not None:
            found[node.name] = layer
    return found
