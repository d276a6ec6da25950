"""Whether a model can be exported to a target, before it is trained: it is built, written, run and compared."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.errors import BadOption, FeatherboneError, MissingExtra
from featherbone.exporters.artifact import Artifact, Form, choose_form, raw_difference
from featherbone.exporters.concerns import Concern, concerns, highest_rank, operators
from featherbone.exporters.parity import Bounds
from featherbone.exporters.targets import find_target
from featherbone.exporters.targets.target import Target, quiet
from featherbone.progress import notify
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.run import build_task
from featherbone.tasks.task import KINDS

AXES = {"batch": (0, ("batch", "size")), "height": (2, ("size",)), "width": (3, ("size",))}
"""Axes of images by name, and the forms of a target's input, as in `Target.dynamic`, in which they may vary."""


class _StepError(Exception):
    """A step failed; the message names the step and the reason."""


@dataclass
class TargetExamination:
    """Result of exporting an untrained model to a target; `examine_target` fills it step by step."""

    model: str
    target: str
    task: str
    head: str | None
    image_size: tuple[int, int]
    """Height and width."""
    error: str | None = None
    """Why it cannot be exported: the step that failed, and its message."""
    form: str = ""
    """Form in which it is exported."""
    operators: dict[str, int] = field(default_factory=dict)
    """Operators of torch's exported program, with their counts."""
    rank: int | None = None
    """Maximum number of dimensions of a tensor."""
    concerns: tuple[Concern, ...] = ()
    varies: dict[str, str] = field(default_factory=dict)
    """For batch, height and width: why it cannot vary; empty if it can."""
    dynamic: str | None = None
    """Axes of the written file's input that may vary."""
    bytes: int | None = None
    difference: float | None = None
    """Between the raw values of model and file on a random image, in root mean squares; None if it did not run."""
    caveat: str = ""
    """As `Target.caveat`."""
    delegated: int | None = None
    """Parts that run on the target's accelerator, if it has one."""
    undelegated: dict[str, int] = field(default_factory=dict)
    """Operators between those parts."""

    @property
    def exit_code(self) -> int:
        """1 if the export would fail."""
        return int(self.error is not None)

    def to_json(self) -> dict[str, Any]:
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
            proof = "not run here" if self.difference is None else f"values within {self.difference:.1e}"
            proof += f", {self.caveat}" if self.caveat else ""
            lines.append(f"file    {self.bytes / 1e6:.2f} MB; {proof}")
        if self.delegated is not None:
            left = ", ".join(f"{name} {count}" for name, count in list(self.undelegated.items())[:5]) or "none"
            total = sum(self.undelegated.values())
            lines.append(f"parts   {self.delegated} parts delegated, {total} operators between them: {left}")
        return "\n".join(lines)


def examine_target(
    model: str,
    target: str,
    task: str = "classification",
    head: str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> TargetExamination:
    """Build an untrained model of three classes, write it for a target, run the file and compare; nothing is kept.

    Raises `UnknownModel` and `BadOption` for unknown names, and `MissingExtra` without the target's tool-chain.
    """
    kind = find_target(target)
    card = untrained_card(model, task, head, image_size)
    size = (card.preprocessing.height, card.preprocessing.width)
    result = TargetExamination(model, target, card.task, card.head, size)
    try:
        _examine(card, choose_form(kind, card.task, card.head), result)
    except MissingExtra:
        raise
    except (BadOption, _StepError) as error:
        result.error = str(error)
    if result.difference is not None and not result.error:  # then it has what it was known to lack
        result.concerns = tuple(concern for concern in result.concerns if not concern.lacks)
    return result


def untrained_card(model: str, task: str, head: str | None, image_size: int | tuple[int, int] | None) -> Card:
    """The card of a model with three classes, for panoptic segmentation two of them things."""
    if task not in KINDS:
        raise BadOption(f"no task {task!r}; available: {', '.join(KINDS)}")
    classes = ("a", "b", "c")
    name, head_class = KINDS[task].find_head(head)
    if head_class is None:
        return Card(task, model, classes, preprocessing_of(model, image_size))
    size = dense_preprocessing(model, head_class, image_size)
    return Card(task, model, classes, size, head=name, things=(0, 1))


def _examine(card: Card, form: Form, result: TargetExamination) -> None:
    """All steps. Raises `_StepError`."""
    p, target = card.preprocessing, form.target
    images = torch.randn(1, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    with step("building"), torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        task = build_task(card).eval()
    with step("running the untrained model"):
        artifact = Artifact.of(task, replace(form, dynamic="none"), images, p)
        expected = artifact.expected(images)
    result.form = "in basic operators, at one image size" if target.device_form else "as it is trained"
    with step("torch.export"), quiet():
        program = torch.export.export(artifact.net, (images,), strict=False)
    result.operators, result.rank = operators(program), highest_rank(program)
    result.concerns = tuple(concerns(program, target))
    with step("checking which axes may vary"):
        flexible = Artifact.of(task, replace(form, dynamic="size"), images, p).net
    result.varies = may_vary(flexible, images, target)
    if form.dynamic != "none" and not result.varies["batch"]:
        artifact = Artifact.of(task, form, images, p)
    result.dynamic = artifact.form.dynamic
    with TemporaryDirectory() as name:
        folder = Path(name)
        with step(f"writing {target.name}"):
            delegation = artifact.write(folder)
        if delegation is not None:
            result.delegated, result.undelegated = delegation.parts, delegation.between
        result.bytes = sum(file.stat().st_size for file in folder.iterdir())
        if target.platform not in (None, sys.platform):
            return
        with step(f"running {target.name}"):
            got = artifact.outputs(folder, images)
    shapes = [[list(x.shape) for x in side.values()] for side in (expected, got)]
    if shapes[0] != shapes[1]:
        raise _StepError(f"comparing: the outputs of the file are {shapes[1]}, of the model {shapes[0]}")
    result.difference, result.caveat = raw_difference(expected, got).largest, target.caveat()
    if not result.difference <= Bounds.raw:
        raise _StepError(
            f"comparing: raw values differ by up to {result.difference:.2g} of their size (allowed {Bounds.raw:g})"
        )


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print the name of a step; every error in it becomes a `_StepError`."""
    notify(name, "doctor")
    try:
        yield
    except FeatherboneError as error:
        raise _StepError(f"{name}: {error}") from None
    except Exception as error:  # tool-chains raise errors of any type, and the report is the result
        raise _StepError(f"{name}: {root_cause(error)}") from None


def root_cause(error: BaseException) -> str:
    """The type of the error that caused another, and the first lines of its message."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"[:400].rstrip()


def may_vary(net: nn.Module, images: Tensor, target: Target) -> dict[str, str]:
    """Which axes of the input may vary with target and network, as `TargetExamination.varies`."""
    possible = [name for name, (_, forms) in AXES.items() if set(forms) & set(target.dynamic)]
    reasons = {name: "" if name in possible else f"{target.name} files have a fixed input size" for name in AXES}
    if possible and (why := _refusal(net, images, possible)):
        single = {name: _refusal(net, images, [name]) for name in possible} if len(possible) > 1 else {}
        reasons |= single if any(single.values()) else dict.fromkeys(possible, why)
    return reasons


def _refusal(net: nn.Module, images: Tensor, names: list[str]) -> str:
    """Why torch cannot export with these axes open; empty if it can."""
    shapes = ({AXES[name][0]: torch.export.Dim.DYNAMIC for name in names},)
    example = images.expand(2, -1, -1, -1).contiguous() if "batch" in names else images
    try:
        with quiet():
            torch.export.export(net, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # as in `step`
        fixed = re.search(r"specialized it to be a constant \((\d+)\)", str(error))
        return f"the model takes only {fixed[1]}" if fixed else root_cause(error)
    return ""
