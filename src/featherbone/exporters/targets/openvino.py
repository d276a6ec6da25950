"""OpenVINO models, from ONNX, in full precision, or in int8 by NNCF."""

import logging
import os
import sys
from collections.abc import Callable, Collection, Sequence
from functools import cache
from inspect import unwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.onnx import ONNX
from featherbone.exporters.targets.target import Opener, OperatorTime, Run, Target, operator_times, quiet

PRODUCTS = {"Convolution", "GroupConvolution", "MatMul"}


def open_openvino(path: str, threads: int, core: Any = None) -> Callable[[Any], list[Any]]:
    """A file in OpenVINO on the CPU; `core` is a loaded OpenVINO, by default a new one."""
    import openvino

    # without the first hint OpenVINO computes in bf16 where the processor can
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = (core or openvino.Core()).compile_model(path, "CPU", hints)

    def run(images: Any) -> list[Any]:
        found = model(images)
        return [found[i].copy() for i in range(len(model.outputs))]

    return run


class OpenVINO(Target):
    """A graph, and its weights in a second file."""

    name = "openvino"
    file = "model.xml"
    companions = ("model.bin",)
    magic = (0, (b"<?xml", b"<net"))
    packages = ("openvino", *ONNX.packages)
    run_packages = ("openvino",)
    extra = "openvino"
    int8_packages = ("nncf",)
    fp16 = True
    profiles = True
    lacks = ("torchvision.deform_conv2d", *ONNX.lacks)
    slow = ONNX.slow

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False) -> None:
        import openvino

        with TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            ONNX().write(net, example, source, names, dynamic)
            openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=fp16)

    def quantize(
        self, net: Flat, source: Path, path: Path, inputs: Sequence[Tensor], floats: Collection[str] = ()
    ) -> None:
        """By NNCF, products only: rounding the other operators saves no time that could be measured."""
        import openvino

        nncf, model = import_nncf(), _core().read_model(source)
        with quiet():
            made = unwrap(nncf.quantize)(  # what `unwrap` removes is telemetry, on if the host imported NNCF itself
                model,
                nncf.Dataset([images.numpy() for images in inputs]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs),
                ignored_scope=nncf.IgnoredScope(
                    names=list(floats),
                    types=list({node.get_type_name() for node in model.get_ops()} - PRODUCTS),
                    validate=False,
                ),
            )
            openvino.save_model(made, path, compress_to_fp16=False)

    def layers(self, source: Path) -> list[str]:
        nodes = _core().read_model(source).get_ordered_ops()
        return [node.get_friendly_name() for node in nodes if node.get_type_name() in PRODUCTS]

    def profile(self, path: Path, inputs: Sequence[Tensor], repeats: int) -> list[OperatorTime]:
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERF_COUNT": True,
        }
        request = _core().compile_model(path, "CPU", hints).create_infer_request()
        times: dict[tuple[str, str], list[float]] = {}
        for images in [*inputs] * (1 + repeats):
            request.infer([images.numpy()])
            for node in request.profiling_info:
                milliseconds = 1e3 * node.real_time.total_seconds()
                times.setdefault((node.node_type, node.node_name), []).append(milliseconds)
        return operator_times(times, len(inputs))

    def opener(self) -> Opener:
        return open_openvino

    def open(self, path: Path) -> Run:
        try:
            run = open_openvino(str(path), torch.get_num_threads(), _core())
        except RuntimeError as error:
            raise BadRun(f"{path}: OpenVINO does not take it ({str(error).splitlines()[-1]}); export again") from None
        return lambda images: [torch.from_numpy(value) for value in run(images.numpy())]


def import_nncf() -> Any:
    """NNCF, without what its first import changes: it starts telemetry and replaces the class of new loggers."""
    if "nncf" in sys.modules:
        return sys.modules["nncf"]
    before, loggers = os.environ.get("NNCF_CI"), logging.getLoggerClass()
    os.environ["NNCF_CI"] = "1"  # no telemetry
    try:
        with quiet():
            import nncf
    finally:
        logging.setLoggerClass(loggers)
        del os.environ["NNCF_CI"]
        if before is not None:
            os.environ["NNCF_CI"] = before
    for handler in logging.getLogger("nncf").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.stream = sys.stdout  # not the closed one of `quiet`
    return nncf


@cache
def _core() -> Any:
    """OpenVINO, which stays loaded until the process ends.

    It installs a stack for signal handlers, and unloading can leave that stack freed (2026.4): after two copies are
    unloaded in the order they were loaded, the next signal, such as an interrupt, ends the process.
    """
    import openvino

    return openvino.Core()
