"""LiteRT, by its Python interpreter."""

from pathlib import Path

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.runtimes import Run


def open_file(path: Path) -> Run:
    """A LiteRT file (.tflite) as a function."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise BadRun(f"{path}: LiteRT does not take it ({str(error).splitlines()[0]}); export the run again") from None
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise BadRun(f"{path}: {len(signatures)} signatures instead of one; export the run again")
    ((_, signature),) = signatures.items()
    runner = interpreter.get_signature_runner()
    (given,) = signature["inputs"]
    order = sorted(signature["outputs"], key=lambda name: int(name.rpartition("_")[2]))

    def run(images: Tensor) -> list[Tensor]:
        found = runner(**{given: images.contiguous().numpy()})
        return [torch.from_numpy(found[name].copy()) for name in order]

    return run
