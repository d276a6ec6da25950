"""An exported file as a function: each runtime's own way to run it, on the CPU."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from featherbone.errors import BadRun, MissingExtra

Run = Callable[[Tensor], Sequence[Tensor]]
"""The input of a file to its outputs in order."""


class Runtime(NamedTuple):
    """What runs a kind of file."""

    module: str
    """Of this package; its `open_file` takes a path."""
    packages: tuple[str, ...]
    """That it imports."""
    extra: str
    """Of Featherbone, which brings them; empty where the base install does, or none can."""


RUNTIMES: dict[str, Runtime] = {
    "onnx": Runtime("onnx", ("onnxruntime",), "onnx"),
    "web": Runtime("onnx", ("onnxruntime",), "onnx"),
    "openvino": Runtime("openvino", ("openvino",), "openvino"),
    "executorch": Runtime("executorch", ("executorch",), "executorch"),
    "litert": Runtime("litert", ("ai_edge_litert",), ""),
    "coreml": Runtime("coreml", ("coremltools",), "coreml"),
    "torch": Runtime("aoti", (), ""),
}
"""By the target of an export."""


OWN = " (in an environment of its own: docs/exports.md)"


def require(packages: Sequence[str], extra: str) -> None:
    """Raise `MissingExtra`, with the command that installs it, unless the packages of a tool-chain are there."""
    if missing := [package for package in packages if find_spec(package) is None]:
        what = f"'featherbone[{extra}]'" if extra else " ".join(missing)
        raise MissingExtra(f"{', '.join(missing)} not installed; pip install {what}{'' if extra else OWN}")


class OpenFile:
    """A file of `target` as a function that can be pickled: a copy opens the file again at its first call."""

    def __init__(self, path: Path, target: str) -> None:
        self.path, self.target = path.resolve(), target
        self._run: Run | None = _open(path, target)

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        if self._run is None:
            self._run = _open(self.path, self.target)
        return self._run(images)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_run": None}


def open_file(path: Path, target: str) -> Run:
    """A file of `target` as a function. Raises `MissingExtra`, and `BadRun` for a file that its runtime refuses."""
    return OpenFile(path, target)


def _open(path: Path, target: str) -> Run:
    if target not in RUNTIMES:
        raise BadRun(f"{path}: made for {target!r}; this version runs files for {', '.join(RUNTIMES)}")
    runtime = RUNTIMES[target]
    require(runtime.packages, runtime.extra)
    return import_module(f"featherbone.runtimes.{runtime.module}").open_file(path)
