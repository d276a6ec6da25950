"""MNN models for phones, converted from ONNX."""

import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadOption, BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.onnx import ONNX, write_onnx
from featherbone.exporters.targets.target import Opener, Run, Target

CONVERT = "import sys, _mnncengine, _tools; sys.exit(not _tools.mnnconvert(sys.argv))"
"""What the command `mnnconvert` does first; then it would install a package with pip and send a report of its use."""


def open_mnn(path: str, threads: int) -> Callable[[Any], list[Any]]:
    """A file in MNN on the CPU, computed in float32. Raises `ValueError` for one that MNN refuses.

    MNN prints about the processor when it is imported, and about each file; standard output is closed to it.
    """
    import ctypes
    import os

    kept, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    try:
        from MNN import expr, nn

        options = {"backend": "CPU", "precision": "high", "numThread": threads}
        net = nn.load_module_from_file(path, [], [], runtime_manager=nn.create_runtime_manager((options,)))
    except SystemError:
        raise ValueError("it cannot be loaded") from None
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(sink)

    def run(images: Any) -> list[Any]:
        found = net.forward([expr.const(images, list(images.shape), expr.NCHW)])
        return [expr.convert(value, expr.NCHW).read().copy() for value in found]

    return run


class MNN(Target):
    """A file with the input `images` and named outputs."""

    name = "mnn"
    file = "model.mnn"
    packages = (*ONNX.packages, "MNN")
    run_packages = ("MNN",)
    int8_packages = ("MNN",)
    extra = "mnn"
    magic = (1, (b"\0\0\0",))  # a flatbuffer without a mark: the table, whose place is the first number, is near
    fp16 = True
    dynamic = ("none",)
    pre = False
    nms = False
    device_form = True
    lacks = (
        *("torchvision.nms", "torchvision.roi_align", "torchvision.deform_conv2d"),
        *("aten.upsample_bicubic2d", "aten._upsample_bi"),
    )

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False) -> None:
        """As `Target.write`. Raises `BadOption` for a network that MNN's converter does not take.

        MNN 3.6.1 approximates the operator Gelu (error 3e-4), and does not know the modes of GridSample in opset 20;
        before it there is no Gelu.
        """
        with TemporaryDirectory() as folder:
            source = f"{folder}/model.onnx"
            write_onnx(net, (example,), Path(source), ["images"], names, opset=18)
            if fp16:
                round_constants(source)
            convert("ONNX", source, path, *["--fp16"] * fp16)

    def quantize(
        self, net: Flat, source: Path, path: Path, inputs: Sequence[Tensor], floats: Collection[str] = ()
    ) -> None:
        """Weights only, per channel; MNN computes in float32."""
        convert("MNN", str(source), path, "--weightQuantBits", "8")

    def opener(self) -> Opener:
        return open_mnn

    def open(self, path: Path) -> Run:
        try:
            run = open_mnn(str(path), torch.get_num_threads())
        except ValueError as error:
            raise BadRun(f"{path}: MNN does not take it ({error}); export the run again") from None
        return lambda images: [torch.from_numpy(value) for value in run(images.contiguous().numpy())]


def convert(form: str, source: str, path: Path, *options: str) -> None:
    """Write the file `source` as an MNN file, in a process. Raises `BadOption` for a network that is not taken."""
    files = ["-f", form, "--modelFile", source, "--MNNModel", str(path), "--bizCode", "featherbone"]
    command = [sys.executable, "-P", "-c", CONVERT, *files, *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode or not path.is_file():
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise BadOption(
            f"MNN's converter does not take this network ({lines[-1][:200]}); export to onnx, openvino or executorch, "
            "or choose another backbone"
        )


def round_constants(path: str) -> None:
    """Round weights and other constants of an ONNX file to values of float16; MNN's converter would truncate them."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype("float16").astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
