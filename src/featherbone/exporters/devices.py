"""Whether a model can be exported to a target, before anyone trains it: it is built, written, run and compared."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadOption, FeatherboneError, MissingExtra
from featherbone.exporters.concerns import DEVICES, Concern, concerns, highest_rank, operators
from featherbone.exporters.contract import Form
from featherbone.exporters.onnx import quiet
from featherbone.exporters.parity import Bounds, raw_difference
from featherbone.exporters.program import device_program
from featherbone.exporters.targets import Target, find_target, settle
from featherbone.progress import say
from featherbone.runtimes import open_file
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.raw import Flat
from featherbone.tasks.run import build_task
from featherbone.tasks.task import KINDS

AXES = {"batch": 0, "height": 2, "width": 3}
FIXED = "has files of one input size alone"


class _Failed(Exception):
    """A step did not succeed; its text says which and why."""


@dataclass(frozen=True)
class TargetExamination:
    """What became of an untrained model on its way to a target."""

    model: str
    target: str
    task: str
    head: str | None
    image_size: tuple[int, int]
    """Height and width."""
    error: str | None = None
    """Why it cannot be exported: the step that failed, and what was said."""
    form: str = ""
    """In which form it is exported."""
    operators: dict[str, int] = field(default_factory=dict)
    """Of torch's exported program, with their counts."""
    rank: int | None = None
    """Most dimensions of a tensor."""
    concerns: tuple[Concern, ...] = ()
    varies: dict[str, str] = field(default_factory=dict)
    """For batch, height and width: why it cannot vary; empty where it can."""
    dynamic: str | None = None
    """What the file that was written lets vary."""
    bytes: int | None = None
    difference: float | None = None
    """Between the raw values of model and file on a random image, in root mean squares; None where it did not run."""
    delegated: int | None = None
    """Parts handed to XNNPACK, for ExecuTorch."""
    undelegated: dict[str, int] = field(default_factory=dict)
    """Operators between those parts."""

    @property
    def exit_code(self) -> int:
        """1 where the export would fail."""
        return int(self.error is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.image_size
        what = f"{self.model}, {self.head or self.task} at {height}x{width}, for {self.target}"
        lines = [f"{what}: {'CANNOT be exported' if self.error else 'can be exported'}"]
        if self.error:
            lines.append(f"error   {self.error}")
        if self.form:
            lines.append(f"form    {self.form}")
        for concern in self.concerns:
            word = "lacks" if concern.lacks else "slow"
            lines.append(f"{word:<7} {concern.operator} ({concern.count}): {concern.remedy}")
        lines += [f"varies  {name}: {f'no, {why}' if why else 'yes'}" for name, why in self.varies.items()]
        if self.bytes is not None:
            proof = "it did not run here" if self.difference is None else f"values within {self.difference:.1e}"
            lines.append(f"file    {self.bytes / 1e6:.2f} MB; {proof}")
        if self.delegated is not None:
            left = ", ".join(f"{name} {count}" for name, count in list(self.undelegated.items())[:5]) or "none"
            total = sum(self.undelegated.values())
            lines.append(f"xnnpack {self.delegated} parts delegated, {total} operators between them: {left}")
        return "\n".join(lines)


def examine_target(
    model: str,
    target: str,
    task: str = "classification",
    head: str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> TargetExamination:
    """Build an untrained model of three classes, write it for a target, run the file and compare; nothing is kept.

    Raises `UnknownModel` and `BadOption` for names that are none, and `MissingExtra` without the target's tool-chain.
    """
    kind = find_target(target)
    card = untrained_card(model, task, head, image_size)
    size = (card.preprocessing.height, card.preprocessing.width)
    told = TargetExamination(model, target, card.task, card.head, size)
    try:
        dynamic = settle(kind, card.task, card.head)
    except MissingExtra:
        raise
    except BadOption as error:
        return replace(told, error=f"{error}")
    found: dict[str, Any] = {}
    try:
        _examine(card, Form(kind, dynamic), found)
    except _Failed as failed:
        found["error"] = str(failed)
    held = found.get("difference") is not None and not found.get("error")
    known = found.get("concerns", ())
    return replace(told, **{**found, "concerns": tuple(one for one in known if not (one.lacks and held))})


def untrained_card(model: str, task: str, head: str | None, image_size: int | tuple[int, int] | None) -> Card:
    """The card of a model with three classes, for panoptic segmentation two of them counted."""
    classes = ("a", "b", "c")
    if task not in KINDS:
        raise BadOption(f"no task {task!r}; available: {', '.join(KINDS)}")
    name, head_class = KINDS[task].find_head(head)
    if head_class is None:
        return Card(task, model, classes, preprocessing_of(model, image_size))
    size = dense_preprocessing(model, head_class, image_size)
    return Card(task, model, classes, size, head=name, things=(0, 1))


def _examine(card: Card, form: Form, found: dict[str, Any]) -> None:
    """All steps, what each finds put into `found` under the names of `TargetExamination`. Raises `_Failed`."""
    p, target = card.preprocessing, form.target
    for_device = target.name in DEVICES
    with step("building"), torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = form.network(card, build_task(card))
        images = torch.randn(1, 3, p.height, p.width)
    with step("running the untrained model"), torch.inference_mode():
        expected = net(images)
        names = net.names(images)
    found["form"] = (
        "attention as matrix products, sampling as grid_sample, tables at the size of the image"
        if for_device
        else "as it is trained"
    )
    with step("torch.export"), quiet():
        program = export(net, images, None, for_device)
    found["operators"], found["rank"] = operators(program), highest_rank(program)
    found["concerns"] = tuple(concerns(program, target.name))
    found["varies"] = may_vary(net, images, target)
    open_batch = not found["varies"]["batch"]
    dynamic = found["dynamic"] = form.dynamic if open_batch else "none"
    with TemporaryDirectory() as folder:
        path = Path(folder) / target.file
        with step(f"writing {target.name}"):
            found.update(write(net, replace(form, dynamic=dynamic), form.example(card, images), path, names))
        found["bytes"] = sum(file.stat().st_size for file in Path(folder).iterdir())
        if target.name == "coreml" and sys.platform != "darwin":
            return
        with step(f"running {target.name}"):
            got = open_file(path, target.name, trust=True)(images)
    shapes = [[list(x.shape) for x in side] for side in (expected, got)]
    if shapes[0] != shapes[1]:
        raise _Failed(f"comparing: the file gives {shapes[1]}, the model {shapes[0]}")
    differs = raw_difference(*(dict(zip(names, side, strict=True)) for side in (expected, got)))
    found["difference"] = differs
    if not differs <= Bounds.raw:
        raise _Failed(f"comparing: raw values differ by up to {differs:.2g} of their size (allowed {Bounds.raw:g})")


@contextmanager
def step(name: str) -> Iterator[None]:
    """A part of the way, told on the way; whatever goes wrong in it becomes `_Failed`."""
    say(name, "doctor")
    try:
        yield
    except FeatherboneError as error:
        raise _Failed(f"{name}: {error}") from None
    except Exception as error:  # tool-chains raise whatever they like, and the report is what was asked for
        raise _Failed(f"{name}: {told_by(error)}") from None


def told_by(error: BaseException) -> str:
    """The kind of the error at the root of one, and the first lines that say something."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"[:400].rstrip()


def write(net: Flat, form: Form, example: Tensor, path: Path, names: list[str]) -> dict[str, Any]:
    """The file; for ExecuTorch also what was delegated."""
    if form.target.name == "executorch":
        from featherbone.exporters.executorch import write_counted

        parts, left = write_counted(net, example, path)
        return {"delegated": parts, "undelegated": left}
    form.target.write(net, example, path, names, form.dynamic)
    return {}


def export(
    net: Flat, example: Tensor, shapes: tuple[dict[int, Any]] | None, for_device: bool
) -> torch.export.ExportedProgram:
    """A network as torch's program in the form that the target gets."""
    if for_device:
        return device_program(net, example, shapes)
    return torch.export.export(net, (example,), dynamic_shapes=shapes, strict=False)


def may_vary(net: Flat, images: Tensor, target: Target) -> dict[str, str]:
    """Which axes of the input can be left open, as `TargetExamination.varies`: what the target takes, and torch."""
    takes = {"batch": ("batch", "size"), "height": ("size",), "width": ("size",)}
    possible = [axis for axis in AXES if set(takes[axis]) & set(target.dynamic)]
    told = {axis: "" if axis in possible else f"{target.name} {FIXED}" for axis in AXES}
    if possible and (why := _refused(net, images, possible, target)):
        alone = {axis: _refused(net, images, [axis], target) for axis in possible} if len(possible) > 1 else {}
        told |= alone if any(alone.values()) else dict.fromkeys(possible, why)
    return told


def _refused(net: Flat, images: Tensor, axes: list[str], target: Target) -> str:
    """Why torch refuses to leave these axes open, or nothing."""
    shapes = ({AXES[axis]: torch.export.Dim.DYNAMIC for axis in axes},)
    example = images.expand(2, -1, -1, -1).contiguous() if "batch" in axes else images
    try:
        with quiet():
            export(net, example, shapes, target.name in DEVICES)
    except Exception as error:  # as in `step`
        fixed = re.search(r"specialized it to be a constant \((\d+)\)", str(error))
        return f"the model takes {fixed[1]} alone" if fixed else told_by(error)
    return ""
