"""ExecuTorch."""

import warnings
from pathlib import Path

from torch import Tensor

from featherbone.errors import BadRun
from featherbone.runtimes import Run


def open_file(path: Path) -> Run:
    """An ExecuTorch program (.pte) as a function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        from executorch.runtime import Runtime, Verification

    try:
        program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        method = program.load_method("forward")
    except RuntimeError as error:
        raise BadRun(f"{path}: ExecuTorch does not take it ({error}); export the run again") from None
    if method is None:
        raise BadRun(f"{path}: no ExecuTorch program with a method forward; export the run again")

    def run(images: Tensor) -> list[Tensor]:
        return [value.clone() for value in method.execute([images.contiguous()])]

    return run
