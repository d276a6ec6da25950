"""CoreML, on macOS."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from featherbone.errors import BadOption, BadRun
from featherbone.runtimes import Run


def open_file(path: Path) -> Run:
    """The archive of a CoreML package (.mlpackage.zip) as a function. Raises `BadOption` anywhere but on macOS."""
    if sys.platform != "darwin":
        raise BadOption(f"{path}: CoreML files run on macOS alone, this is {sys.platform}; run it there")
    import coremltools as ct

    with TemporaryDirectory() as folder:
        try:
            with ZipFile(path) as archive:
                archive.extractall(folder)
            model = ct.models.MLModel(str(Path(folder) / "model.mlpackage"), compute_units=ct.ComputeUnit.CPU_ONLY)
        except (BadZipFile, OSError, RuntimeError, ValueError) as error:
            raise BadRun(f"{path}: CoreML does not take it ({error}); export the run again") from None
    names = [output.name for output in model.get_spec().description.output]

    def run(images: Tensor) -> list[Tensor]:
        found = model.predict({"images": images.contiguous().numpy()})
        return [torch.from_numpy(found[name].copy()) for name in names]

    return run
