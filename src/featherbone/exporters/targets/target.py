"""What a target is: how its files are written and run, and what they cannot hold."""

import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from featherbone.errors import MissingExtra
from featherbone.exporters.forms import Flat

Run = Callable[[Tensor], Sequence[Tensor]]
"""The input of a file to its outputs in order."""
Opener = Callable[[str, int], Callable[[Any], list[Any]]]
"""Path of a file and number of threads to a function: the array of the input to those of the outputs in order."""


@dataclass(frozen=True)
class Delegation:
    """How a program is divided between an accelerator and the runtime's own operators."""

    parts: int
    """Delegated parts."""
    between: dict[str, int]
    """Operators between these parts, with their counts."""


class OperatorTime(NamedTuple):
    """Time of all nodes of one type in a file."""

    kind: str
    nodes: int
    milliseconds: float


class Target(ABC):
    """A kind of exported file. `register` in `featherbone.exporters.targets` makes a subclass's instance available."""

    name: ClassVar[str]
    file: ClassVar[str]
    """Name of the file in an export's folder."""
    companions: ClassVar[tuple[str, ...]] = ()
    """Names of further files that belong to it, such as weights."""
    magic: ClassVar[tuple[int, tuple[bytes, ...]]] = (0, (b"",))
    """An offset in the file, and the byte strings one of which is there."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Python packages that write the file."""
    run_packages: ClassVar[tuple[str, ...]] = ()
    """Python packages that run it."""
    extra: ClassVar[str] = ""
    """Extra of Featherbone that installs the packages; empty if none does."""
    int8_packages: ClassVar[tuple[str, ...]] = ()
    """Further packages that write int8 files; empty if the target has no int8 form."""
    fp16: ClassVar[bool] = False
    """Whether weights can be stored in float16; `write` is called with `fp16` only then."""
    platform: ClassVar[str | None] = None
    """`sys.platform` on which files run; None for all."""
    machine_code: ClassVar[bool] = False
    """Whether files hold machine code, which runs only with the user's trust."""
    published: ClassVar[bool] = False
    """Whether the folder is for publication; reports with the user's images are then written beside it."""
    dynamic: ClassVar[tuple[str, ...]] = ("none", "batch", "size")
    """Which axes of the input may vary: none, the batch, or batch, height and width."""
    profiles: ClassVar[bool] = False
    """Whether `profile` is available."""
    forms: ClassVar[bool] = True
    """Whether normalisation and NMS of detectors may be part of the file."""
    pre: ClassVar[bool] = True
    """Whether normalisation can be part of the file."""
    nms: ClassVar[bool] = True
    """Whether NMS and RoIAlign can be part of the file."""
    device_form: ClassVar[bool] = False
    """Whether networks are exported in the form for devices, in basic operators."""
    max_rank: ClassVar[int | None] = None
    """Maximum number of dimensions of a tensor."""
    lacks: ClassVar[tuple[str, ...]] = ()
    """Keys of `concerns.REMEDIES`: operators that the target does not have."""
    slow: ClassVar[tuple[str, ...]] = ()
    """Keys of `concerns.REMEDIES`: operators that it has in a slow form, or outside of its accelerator."""

    @abstractmethod
    def write(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False
    ) -> Delegation | None:
        """Write a network; `example` is an input, `names` are those of its outputs, `dynamic` states the open axes.

        With `fp16`, weights are stored in float16, and the runtime computes in float32.
        """

    @abstractmethod
    def open(self, path: Path) -> Run:
        """A file as a function on the CPU. Raises `BadRun` for a file that the runtime refuses."""

    def opener(self) -> Opener | None:
        """A function that opens files without Featherbone, whose source `bench --to` copies to a script for devices.

        It imports what it needs inside itself. None if there is none.
        """
        return None

    def profile(self, path: Path, inputs: Sequence[Tensor], repeats: int) -> list[OperatorTime]:
        """The time of every type of operator in a file, by the runtime's profiler: one call for each of `inputs`.

        Medians of `repeats` after an untimed turn, slowest first.
        """
        raise NotImplementedError(f"{self.name} has no profiler")

    def quantize(
        self, net: Flat, source: Path, path: Path, inputs: Sequence[Tensor], floats: Collection[str] = ()
    ) -> None:
        """Write a network in int8 to `path`, except for the layers `floats`.

        `source` is its float file, in another folder; `inputs` determine the ranges of activations.
        """
        raise NotImplementedError(f"{self.name} has no int8 form")

    def layers(self, source: Path) -> list[str]:
        """Names of the layers of a float file that `quantize` can leave in float; none if it cannot choose."""
        return []

    def finish(self, folder: Path, about: dict[str, Any]) -> None:  # noqa: B027 - nothing to do for most targets
        """Complete the folder of a written file, given the content of its `featherbone.json`."""

    def caveat(self, fp16: bool = False) -> str:
        """What running files on this machine does not show; empty if it shows what a device computes.

        `fp16` if their weights are stored in float16.
        """
        return ""

    def require(self) -> None:
        """Raise `MissingExtra` unless files can be written."""
        require(self.packages, self.extra)

    def size(self, folder: Path) -> int:
        """Bytes of the file in a folder and of those that belong to it."""
        return sum((folder / name).stat().st_size for name in (self.file, *self.companions))


def require(packages: Sequence[str], extra: str) -> None:
    """Raise `MissingExtra`, with the command that installs it, unless the packages of a tool-chain are installed."""
    if missing := [package for package in packages if find_spec(package) is None]:
        what = f"'featherbone[{extra}]'" if extra else " ".join(missing)
        where = "" if extra else " (in a separate environment: docs/exports.md)"
        raise MissingExtra(f"{', '.join(missing)} not installed; pip install {what}{where}")


def operator_times(times: Mapping[tuple[str, str], Sequence[float]], calls: int) -> list[OperatorTime]:
    """The times of operator types from milliseconds of nodes (type, name), for so many `calls`, without the first."""
    nodes: dict[str, list[float]] = {}
    for (kind, _), values in times.items():
        nodes.setdefault(kind, []).append(calls * median(values[calls:]))
    found = [OperatorTime(kind, len(values), sum(values)) for kind, values in nodes.items() if sum(values)]
    return sorted(found, key=lambda one: -one.milliseconds)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output, logging and warnings of tool-chains about their own internals."""
    with ExitStack() as stack:
        sink = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(redirect_stdout(sink))
        stack.enter_context(redirect_stderr(sink))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        yield


def dynamic_shapes(dynamic: str, example: Tensor) -> tuple[dict[int, Any]] | None:
    """The `dynamic_shapes` of `torch.export` for the one input, like `example`: float NCHW, or uint8 NHWC."""
    if dynamic == "none":
        return None
    height = 1 if example.dtype == torch.uint8 else 2
    axes = (0, height, height + 1) if dynamic == "size" else (0,)
    return (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
