"""OpenVINO models, from ONNX, in full precision."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.onnx import ONNX, write_onnx
from featherbone.exporters.targets.target import Quantizer, Run, Target


class OpenVINO(Target):
    """A graph, and its weights in a second file."""

    name = "openvino"
    file = "model.xml"
    companions = ("model.bin",)
    magic = (0, (b"<?xml", b"<net"))
    packages = ("openvino", *ONNX.packages)
    run_packages = ("openvino",)
    int8_packages = ("nncf",)
    extra = "openvino"
    lacks = ("torchvision.deform_conv2d", *ONNX.lacks)
    slow = ONNX.slow

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
        import openvino

        with TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            write_onnx(net, example, source, names, dynamic)
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

    def quantizer(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, inputs: Sequence[Tensor]
    ) -> Quantizer:
        from featherbone.exporters.int8.openvino import Source

        return Source(net, example, path, names, dynamic, inputs)


@cache
def _core() -> Any:
    """OpenVINO, which stays loaded until the process ends.

    It installs a stack for signal handlers, and unloading can leave that stack freed (2026.4): after two copies are
    unloaded in the order they were loaded, the next signal, such as an interrupt, ends the process.
    """
    import openvino

    return openvino.Core()
