"""int8 for ONNX Runtime: products with a weight in QDQ form, activations unsigned, weights signed per channel."""

from collections.abc import Collection, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from featherbone.exporters.forms import Flat
from featherbone.exporters.int8.sensitivity import layer_of
from featherbone.exporters.targets.onnx import write_onnx
from featherbone.exporters.targets.target import quiet

PRODUCTS = ("Conv", "Gemm", "MatMul")
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node comes from, the innermost last."""
WEIGHT = "featherbone.weight"
"""Where `fold_transposes` notes which weight a node multiplies with."""


class Source:
    """A network as a float ONNX file, ready to be made int8."""

    def __init__(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, inputs: Sequence[Tensor]
    ) -> None:
        import onnx

        write_onnx(net, example, path, names, dynamic)
        self.path, self.inputs = path, [images.numpy() for images in inputs]
        self.model: Any = onnx.load(path)
        fold_transposes(self.model)
        layers = {layer_of(name) for name, _ in net.named_parameters()}
        self.nodes = nodes_of(self.model, layers)
        """The layer of each product with a weight, by the name of its node."""

    @property
    def layers(self) -> set[str]:
        """What can be int8."""
        return set(self.nodes.values())

    def write(self, path: Path, chosen: Collection[str]) -> None:
        """The file with the `chosen` layers in int8; whatever else it computes stays float."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        with quiet():
            quantize_static(
                deepcopy(self.model),
                path,
                _Reader(self.inputs),
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


class _Reader:
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.left = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        """The next, or None."""
        images = next(self.left, None)
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
                note = user.metadata_props.add()
                note.key, note.value = WEIGHT, node.input[0]
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def nodes_of(model: Any, layers: Collection[str]) -> dict[str, str]:
    """The layer of each product with a constant, by the name of its node; what belongs to no layer is left out.

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
