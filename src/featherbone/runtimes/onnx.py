"""ONNX Runtime."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.runtimes import Run


def open_file(path: Path) -> Run:
    """An ONNX file as a function."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented, states.NoSuchFile) as e:
        raise BadRun(
            f"{path}: ONNX Runtime does not take it ({str(e).splitlines()[0]}); export the run again"
        ) from None
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> list[Tensor]:
        outputs = session.run(None, {name: images.numpy()})
        return [torch.from_numpy(np.asarray(value)) for value in outputs]

    return run
