"""OpenVINO, in full precision."""

from pathlib import Path

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.runtimes import Run


def open_file(path: Path) -> Run:
    """An OpenVINO model (.xml, with its .bin beside it) as a function."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        model = openvino.Core().compile_model(str(path), "CPU", hints)
    except RuntimeError as error:
        raise BadRun(f"{path}: OpenVINO does not take it ({str(error).splitlines()[-1]}); export again") from None

    def run(images: Tensor) -> list[Tensor]:
        found = model(images.numpy())
        return [torch.from_numpy(found[i].copy()) for i in range(len(model.outputs))]

    return run
