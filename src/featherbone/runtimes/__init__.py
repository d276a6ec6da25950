"""An exported file as a function: each runtime's own way to run it, on the CPU."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from featherbone.errors import BadOption, BadRun, MissingExtra

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
    suffix: str
    """End of a file's name."""
    magic: tuple[int, tuple[bytes, ...]]
    """What files hold at an offset: one of these."""
    code: bool = False
    """Whether files hold machine code."""


RUNTIMES: dict[str, Runtime] = {
    "onnx": Runtime("onnx", ("onnxruntime",), "onnx", ".onnx", (0, (b"\x08",))),  # the field of the IR's version
    "web": Runtime("onnx", ("onnxruntime",), "onnx", ".onnx", (0, (b"\x08",))),
    "openvino": Runtime("openvino", ("openvino",), "openvino", ".xml", (0, (b"<?xml", b"<net"))),
    "executorch": Runtime("executorch", ("executorch",), "executorch", ".pte", (4, (b"ET12",))),
    "litert": Runtime("litert", ("ai_edge_litert",), "", ".tflite", (4, (b"TFL3",))),
    "coreml": Runtime("coreml", ("coremltools",), "coreml", ".mlpackage.zip", (0, (b"PK\x03\x04",))),
    "torch": Runtime("aoti", (), "", ".pt2", (0, (b"PK\x03\x04",)), code=True),
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


def require_trust(path: Path, target: str, trust: bool) -> None:
    """Raise `BadRun` for a target without a runtime, `BadOption` for one whose files are machine code without `trust`.

    Machine code can do all that the user can, so a file of it is run only by those who made it or trust its maker.
    """
    if target not in RUNTIMES:
        raise BadRun(f"{path}: made for {target[:80]!r}; this version runs files for {', '.join(RUNTIMES)}")
    if RUNTIMES[target].code and not trust:
        raise BadOption(
            f"{path}: holds machine code, which can do all that you can; if you made it, or trust who did, "
            "pass --trust (in Python trust=True), or export to another target"
        )


def open_file(path: Path, target: str, *, trust: bool = False) -> Run:
    """A file of `target` as a function; `trust` is needed for machine code.

    Raises `MissingExtra`, `BadOption` as `require_trust`, and `BadRun` for a file of another type than the target's, or
    one that its runtime refuses.
    """
    require_trust(path, target, trust)
    return OpenFile(path, target)


def _open(path: Path, target: str) -> Run:
    runtime = RUNTIMES[target]
    offset, allowed = runtime.magic
    try:
        with open(path, "rb") as file:
            found = file.read(offset + 8)[offset:]
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror}); export the run again") from None
    if not path.name.endswith(runtime.suffix) or not found.startswith(allowed):
        raise BadRun(f"{path}: not a {runtime.suffix} file, as {target} takes it; export the run again")
    require(runtime.packages, runtime.extra)
    return import_module(f"featherbone.runtimes.{runtime.module}").open_file(path)
