"""OpenVINO, in full precision."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.runtimes import Run


def open_file(path: Path) -> Run:
    """An OpenVINO model (.xml, with its .bin beside it) as a function."""
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
    """OpenVINO, for as long as the process lives.

    It gives the process a stack for signal handlers, and unloading it can leave that stack freed (2026.4): with two
    unloaded in the order they came, the next signal, a worker's end or an interrupt, ends the process.
    """
    import openvino

    return openvino.Core()
