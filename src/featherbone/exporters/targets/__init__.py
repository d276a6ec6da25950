"""The targets by name. A new one is a file here that defines a `Target`, and its name in two lines below."""

from pathlib import Path
from typing import Any

from torch import Tensor

from featherbone.errors import BadOption, BadRun, did_you_mean
from featherbone.exporters.targets.aotinductor import AOTInductor
from featherbone.exporters.targets.coreml import CoreML
from featherbone.exporters.targets.executorch import ExecuTorch
from featherbone.exporters.targets.litert import LiteRT
from featherbone.exporters.targets.mnn import MNN
from featherbone.exporters.targets.ncnn import NCNN
from featherbone.exporters.targets.onnx import ONNX
from featherbone.exporters.targets.openvino import OpenVINO
from featherbone.exporters.targets.target import Run, Target, require
from featherbone.exporters.targets.tensorrt import TensorRT
from featherbone.exporters.targets.web import WebPage

TARGETS: dict[str, Target] = {}


def register(target: Target) -> None:
    """Make a target available by its name in all commands."""
    TARGETS[target.name] = target


for each in (ONNX, OpenVINO, ExecuTorch, AOTInductor, LiteRT, CoreML, NCNN, MNN, TensorRT, WebPage):
    register(each())


def find_target(name: str) -> Target:
    """A target by name. Raises `BadOption`."""
    if name not in TARGETS:
        raise BadOption(f"no target {name!r}{did_you_mean(name, TARGETS)}; available: {', '.join(TARGETS)}")
    return TARGETS[name]


def require_trust(path: Path, target: str, trust: bool) -> None:
    """Raise `BadRun` for an unknown target, and `BadOption` for one whose files are machine code without `trust`.

    Machine code can do everything that the user can, so it runs only for those who made it or trust its maker.
    """
    if target not in TARGETS:
        raise BadRun(f"{path}: made for {target[:80]!r}; this version runs files for {', '.join(TARGETS)}")
    if TARGETS[target].machine_code and not trust:
        raise BadOption(
            f"{path}: holds machine code, which can do all that you can; if you made it, or trust who did, "
            "pass --trust (in Python trust=True), or export to another target"
        )


def open_file(path: Path, target: str, *, trust: bool = False) -> Run:
    """A file of `target` as a function; `trust` is needed for machine code.

    Raises `MissingExtra`, the errors of `require_trust`, and `BadRun` for a file of another type than the target's, or
    one that its runtime refuses.
    """
    require_trust(path, target, trust)
    return OpenFile(path, TARGETS[target])


class OpenFile:
    """A file of `target` as a function that can be pickled: a copy opens the file again at its first call."""

    def __init__(self, path: Path, target: Target) -> None:
        self.path, self.target = path.resolve(), target
        self.run: Run | None = _open(path, target)

    def __call__(self, images: Tensor) -> Any:
        if self.run is None:
            self.run = _open(self.path, self.target)
        return self.run(images)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "run": None}


def _open(path: Path, target: Target) -> Run:
    offset, allowed = target.magic
    suffix = "".join(Path(target.file).suffixes)
    try:
        with open(path, "rb") as file:
            start = file.read(offset + 8)[offset:]
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror}); export the run again") from None
    if not path.name.endswith(suffix) or not start.startswith(allowed):
        raise BadRun(f"{path}: not a {suffix} file as {target.name} needs it; export the run again")
    require(target.run_packages, target.extra)
    return target.open(path)
