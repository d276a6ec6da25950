"""ONNX files for TensorRT on NVIDIA's GPUs, with operators that its parser takes.

They have the form of `onnx`, in which LIT's DTM gathers rows. GridSample is refused, because TensorRT computes that of
opset 20 wrongly without a message (issue 4646 of NVIDIA/TensorRT). Files are proven in ONNX Runtime where TensorRT or a
CUDA device is missing; nothing has been run in TensorRT yet.
"""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featherbone.errors import BadOption, BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.onnx import ONNX
from featherbone.exporters.targets.target import Run

OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
    Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace Div Dropout Einsum Elu Equal
    Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot
    Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RoiAlign Round ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()
)
"""Operators that TensorRT 10.0 reads (onnx-tensorrt, docs/operators.md), without GridSample, loops and recurrence."""
MAX_BATCH = 16
"""Maximum number of images that an engine of a file with open batch takes at once."""


class TensorRT(ONNX):
    """The file of `onnx`, refused if it holds an operator that TensorRT's parser lacks."""

    name = "tensorrt"
    int8_packages = ()  # TensorRT takes only symmetric activations
    dynamic = ("none", "batch")
    lacks = (
        *ONNX.lacks,
        *("torchvision.deform_conv2d", "aten.grid_sampl", "aten.col2im"),
        *("aten.upsample_bicubic2d", "aten._upsample_bi"),
    )
    slow = ("aten.adaptive_avg_pool2d",)

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False) -> None:
        """As `Target.write`. Raises `BadOption` for a network with operators that TensorRT's parser lacks."""
        import onnx

        super().write(net, example, path, names, dynamic)
        if found := lacking(onnx.load(path, load_external_data=False)):
            raise BadOption(
                f"the network needs {', '.join(f'{name} ({count})' for name, count in found.items())}, which TensorRT "
                "lacks or computes wrongly; choose another backbone or head, or export to onnx"
            )

    def open(self, path: Path) -> Run:
        return open_engine(path) if runs_here() else super().open(path)

    def opener(self) -> None:
        """None: on a device, `trtexec --onnx=model.onnx` measures a file."""

    def caveat(self, fp16: bool = False) -> str:
        return "" if runs_here() else "run by ONNX Runtime on the CPU, not by TensorRT"


def runs_here() -> bool:
    """Whether TensorRT is installed and there is a CUDA device."""
    return find_spec("tensorrt") is not None and torch.cuda.is_available()


def lacking(model: Any) -> dict[str, int]:
    """Operators of an ONNX model that TensorRT lacks, with their counts."""
    found: Counter[str] = Counter()
    for node in model.graph.node:
        given = {attribute.name: attribute for attribute in node.attribute}
        if node.domain or node.op_type not in OPERATORS:
            found[f"{node.domain}.{node.op_type}".lstrip(".")] += 1
        elif node.op_type == "Resize":
            found["bicubic Resize"] += "mode" in given and given["mode"].s == b"cubic"
            found["Resize with antialias"] += "antialias" in given and given["antialias"].i
    return dict(+found)


def open_engine(path: Path) -> Run:
    """A file as a function on the current CUDA device, in float32; the engine is built here and not kept.

    Raises `BadRun` for a file that TensorRT refuses. This function has not been run yet.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        why = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise BadRun(f"{path}: TensorRT does not take it ({why}); export the run again")
    given = network.get_input(0)
    name, shape = given.name, tuple(given.shape)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if shape[0] == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(name, *((batch, *shape[1:]) for batch in (1, 1, MAX_BATCH)))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    runtime = trt.Runtime(logger)
    engine = None if plan is None else runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BadRun(f"{path}: TensorRT builds no engine of it; export to onnx")
    context = engine.create_execution_context()
    outputs = [network.get_output(i).name for i in range(network.num_outputs)]
    types = [torch.from_numpy(np.empty(0, trt.nptype(engine.get_tensor_dtype(output)))).dtype for output in outputs]

    def run_part(images: Tensor) -> list[Tensor]:
        images = images.contiguous().cuda()
        context.set_input_shape(name, tuple(images.shape))
        shapes = [tuple(context.get_tensor_shape(output)) for output in outputs]
        values = [torch.empty(shape, dtype=kind, device="cuda") for shape, kind in zip(shapes, types, strict=True)]
        for tensor, value in zip((name, *outputs), (images, *values), strict=True):
            context.set_tensor_address(tensor, value.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise BadRun(f"{path}: TensorRT did not run it on images of shape {tuple(images.shape)}; export to onnx")
        return [value.cpu() for value in values]

    def run(images: Tensor) -> list[Tensor]:
        return [torch.cat(column) for column in zip(*map(run_part, images.split(MAX_BATCH)), strict=True)]

    return run
