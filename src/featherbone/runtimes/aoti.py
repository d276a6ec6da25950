"""Packages of torch's ahead-of-time compiler."""

from pathlib import Path

import torchvision  # noqa: F401  # its operators may be in a package
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.runtimes import Run


def open_file(path: Path) -> Run:
    """A package (.pt2) as a function. It holds machine code: run only what comes from where you trust."""
    from torch._inductor import aoti_load_package

    try:
        compiled = aoti_load_package(str(path))
    except RuntimeError as error:
        raise BadRun(f"{path}: torch does not take it ({str(error).splitlines()[0]}); export the run again") from None

    def run(images: Tensor) -> list[Tensor]:
        found = compiled(images)
        return [value.clone() for value in (found if isinstance(found, list | tuple) else (found,))]

    return run
