"""ONNX files, by torch's default exporter, for ONNX Runtime; in int8 with products in QDQ form."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.target import (
    Opener,
    OperatorTime,
    Run,
    Target,
    dynamic_shapes,
    operator_times,
    quiet,
)
from featherbone.files import atomic, to_json

PRODUCTS = ("Conv", "Gemm", "MatMul")


def open_onnx(path: str, threads: int) -> Callable[[Any], list[Any]]:
    """A file in ONNX Runtime on the CPU.

    Tensors are freed after their last use: ONNX Runtime's plan keeps buffers for tensors of the same size, which takes
    two to four times the memory and is no faster (docs/speed.md).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = options.enable_mem_reuse = False
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: list(session.run(None, {name: images}))


class ONNX(Target):
    """A file with the input `images` and named outputs."""

    name = "onnx"
    file = "model.onnx"
    magic = (0, (b"\x08",))  # the field of the IR's version
    packages = ("onnx", "onnxscript", "onnxruntime")
    run_packages = ("onnxruntime",)
    extra = "onnx"
    int8_packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    profiles = True
    lacks: ClassVar[tuple[str, ...]] = ("attention of 5 dimensions",)
    slow: ClassVar[tuple[str, ...]] = ("aten._upsample_bi", "aten.adaptive_avg_pool2d")

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False) -> None:
        write_onnx(net, (example,), path, ["images"], names, dynamic_shapes(dynamic, example))

    def quantize(
        self, net: Flat, source: Path, path: Path, inputs: Sequence[Tensor], floats: Collection[str] = ()
    ) -> None:
        """By ONNX Runtime, in QDQ form: activations unsigned, weights signed and per channel."""
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        model = onnx.load(source)
        fold_transposes(model)
        with quiet():
            quantize_static(
                model,
                path,
                CalibrationReader(inputs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(PRODUCTS),
                nodes_to_quantize=[layer for layer in products(model) if layer not in floats],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                # only convolutions need a rounded output for their int8 kernel
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
            )

    def layers(self, source: Path) -> list[str]:
        import onnx

        model = onnx.load(source)
        fold_transposes(model)
        return products(model)

    def finish(self, folder: Path, about: dict[str, Any]) -> None:
        """Put the content of `featherbone.json` into the file's metadata, too."""
        import onnx

        path = folder / self.file
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {"featherbone": to_json(about)})
        with atomic(path) as partial:
            onnx.save(model, partial)

    def profile(self, path: Path, inputs: Sequence[Tensor], repeats: int) -> list[OperatorTime]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        times: dict[tuple[str, str], list[float]] = {}
        with TemporaryDirectory() as folder:
            options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
            for images in [*inputs] * (1 + repeats):
                session.run(None, {name: images.numpy()})
            events = json.loads(Path(session.end_profiling()).read_text())
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                times.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1e3)
        return operator_times(times, len(inputs))

    def opener(self) -> Opener | None:
        return open_onnx

    def open(self, path: Path) -> Run:
        from onnxruntime.capi import onnxruntime_pybind11_state as states

        refusals = states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented, states.NoSuchFile
        try:
            run = open_onnx(str(path), torch.get_num_threads())
        except refusals as error:
            why = str(error).splitlines()[0]
            raise BadRun(f"{path}: ONNX Runtime does not take it ({why}); export the run again") from None
        return lambda images: [torch.from_numpy(np.asarray(value)) for value in run(images.numpy())]


def write_onnx(
    net: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    shapes: tuple[dict[int, Any]] | None = None,
    opset: int = 20,
) -> None:
    """Write a module with named inputs and outputs; `shapes` are `torch.export`'s `dynamic_shapes`."""
    with quiet():
        program = torch.onnx.export(
            net,
            example,
            dynamo=True,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            verbose=False,
        )
        assert program is not None, "the default exporter returns its program"
        program.save(str(path))


class CalibrationReader:
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        images = next(self.inputs, None)
        return None if images is None else {"images": images.numpy()}


def fold_transposes(model: Any) -> None:
    """Turn weights that the graph transposes into transposed weights: only a constant is rounded per channel."""
    from onnx import numpy_helper

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        order = next((list(given.ints) for given in node.attribute if given.name == "perm"), None)
        turned = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[0]]).transpose(order))
        graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def products(model: Any) -> list[str]:
    """Names of the nodes that multiply with a constant weight; not stacks of matrices, which fail with a scale each."""
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] in ranks]
    return [node.name for node in nodes if node.op_type != "MatMul" or ranks[node.input[1]] == 2]
