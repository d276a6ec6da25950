"""The one pipeline of exports: a network in its exported form, an example, the file, its runtime, the comparison."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from featherbone.data.transforms import Preprocessing
from featherbone.deployment import deploy
from featherbone.errors import BadOption
from featherbone.exporters.forms import Flat, Normalising, Picking, flatten, to_bytes
from featherbone.exporters.parity import FP16, Bounds
from featherbone.exporters.targets import TARGETS, open_file
from featherbone.exporters.targets.target import Delegation, Run, Target
from featherbone.tasks.task import KINDS

ROWS = ("boxes", "scores", "labels", "masks")
"""Raw tensors of detected objects, whose order may differ between two runtimes."""
MAX_ERROR = 1e6
"""Errors are reported up to this; a value that is not a number counts as much."""


@dataclass(frozen=True)
class Form:
    """How a task is exported."""

    target: Target
    dynamic: str = "none"
    """Which axes of the input may vary, as in `Target.dynamic`."""
    with_pre: bool = False
    """Whether the file takes bytes and normalises them."""
    with_nms: bool = False
    """Whether NMS is part of the file."""
    fp16: bool = False
    """Whether weights are stored in float16."""

    @property
    def bounds(self) -> Bounds:
        """Allowed differences between file and model."""
        return FP16 if self.fp16 else Bounds()


def choose_form(
    target: Target,
    task: str,
    head: str | None,
    dynamic: str | None = None,
    with_pre: bool = False,
    with_nms: bool = False,
    channels: int | None = None,
    fp16: bool = False,
) -> Form:
    """The form of an export; by default the batch may vary if target and head allow it.

    `channels` are as in `Preprocessing`.

    Raises `BadOption` for what the target cannot hold, naming what works, and `MissingExtra` without its tool-chain.
    """
    head_class = KINDS[task].find_head(head)[1] if head else None
    nms_inside = getattr(head_class, "nms_inside", False)
    if with_nms and not hasattr(getattr(head_class, "decoder", None), "pick"):
        raise BadOption(f"with-nms applies to detectors that are decoded with NMS; omit it, {head or task} is not one")
    if (nms_inside or with_nms) and not target.nms:
        reason = f"{head} needs" if nms_inside else "with-nms includes"
        others = [other.name for other in TARGETS.values() if other.nms]
        without = [name for name, made in KINDS[task].heads.items() if not getattr(made, "nms_inside", False)]
        remedy = f"train with the head {' or '.join(without)}" if nms_inside else "omit it"
        where = f"which is not exported to {target.name}; export to {', '.join(others)}"
        raise BadOption(f"{reason} NMS, {where}, or {remedy}")
    if channels is not None and (with_pre or not target.forms):
        what, remedy = ("with-pre includes", "omit it") if with_pre else ("the page has", "export to another target")
        raise BadOption(f"{what} the preprocessing of RGB pictures, not of images with {channels} channels; {remedy}")
    if with_pre and not target.pre:
        raise BadOption(f"with-pre includes the normalisation of bytes, and {target.name} takes only floats; omit it")
    if (with_pre or with_nms) and not target.forms:
        raise BadOption(f"files for {target.name} are normalised and decoded by the page; omit with-pre and with-nms")
    if fp16 and not target.fp16:
        able = " or ".join(name for name, other in TARGETS.items() if other.fp16)
        raise BadOption(f"fp16 is not available for {target.name}; export to {able}, or without fp16")
    one_image = nms_inside or with_nms
    allowed = tuple(axes for axes in target.dynamic if axes == "none" or not one_image)
    if dynamic is not None and dynamic not in allowed:
        where = f"for {head or task} with one image at a time" if one_image else f"for {target.name}"
        raise BadOption(f"dynamic {dynamic!r} is not available {where}; give {' or '.join(allowed)}")
    target.require()
    return Form(target, dynamic or ("batch" if "batch" in allowed else "none"), with_pre, with_nms, fp16)


@dataclass(frozen=True)
class RawDifference:
    """Difference of two sets of raw tensors, in root mean squares of all levels' tensors of the same name."""

    largest: float
    """Of any value, outside of the rows of detected objects."""
    error: float
    """Root mean square; of rows of detected objects only where there are no other tensors."""


@dataclass(frozen=True)
class Artifact:
    """A network on its way to a file in a folder."""

    form: Form
    reference: nn.Module
    """Module with the same raw tensors as the file, from normalised images."""
    net: Flat
    """Module that is written."""
    example: Tensor
    """Input of `net`."""
    names: list[str]
    """Names of its outputs."""
    normalisation: Preprocessing | None = None
    """That of a file which normalises."""

    @staticmethod
    def of(module: nn.Module, form: Form, images: Tensor, preprocessing: Preprocessing | None = None) -> "Artifact":
        """The artifact of a task or a timm model for normalised images like `images` (N, C, H, W).

        `preprocessing` is needed for a form with normalisation.
        """
        height, width = images.shape[2:]
        if form.target.device_form:
            net: nn.Module = deploy(module, (height, width), "device")
        elif form.dynamic == "size":
            net = deploy(module, form="size")
        else:
            net = deploy(module, (height, width), "graph")
        reference = module
        if form.with_nms:
            reference, net = Picking(reference), Picking(net)
        normalisation = preprocessing if form.with_pre else None
        if normalisation is not None:
            net = Normalising(net, normalisation)
        flat = Flat(net).cpu().to(memory_format=torch.contiguous_format)  # tool-chains need plain strides
        batch = images[:1] if form.dynamic == "none" else images[:1].expand(2, -1, -1, -1)  # exporters keep 1 fixed
        example = file_input(batch, normalisation)
        return Artifact(form, reference, flat, example, flat.names(example), normalisation)

    def write(self, folder: Path) -> Delegation | None:
        form = self.form
        return form.target.write(self.net, self.example, self.path(folder), self.names, form.dynamic, form.fp16)

    def quantize(self, source: Path, folder: Path, images: Tensor, floats: Collection[str] = ()) -> None:
        """Write the file in int8 to `folder`, given the folder `source` of the float file, as `Target.quantize`.

        Normalised `images` determine the ranges of activations.
        """
        inputs = [part.contiguous() for part in self.input(images).split(1)]
        self.form.target.quantize(self.net, self.path(source), self.path(folder), inputs, floats)

    def path(self, folder: Path) -> Path:
        return folder / self.form.target.file

    def open(self, folder: Path) -> Run:
        return open_file(self.path(folder), self.form.target.name, trust=True)

    def input(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) as the file takes them."""
        return file_input(images, self.normalisation)

    def expected(self, images: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return flatten(self.reference(images))

    def outputs(self, folder: Path, images: Tensor) -> dict[str, Tensor]:
        found = run_batch(self.open(folder), self.input(images), self.form.dynamic == "none")
        return dict(zip(self.names, found, strict=True))


def file_input(images: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """Normalised images (B, C, H, W) as a file takes them; `preprocessing` is that of a file which normalises."""
    return images.contiguous() if preprocessing is None else to_bytes(images, preprocessing)


def run_batch(run: Run, given: Tensor, one_image: bool) -> list[Tensor]:
    """The outputs of a file for a batch; `one_image` if it takes one at a time."""
    columns = zip(*(run(part) for part in (given.split(1) if one_image else (given,))), strict=True)
    return [torch.cat(column) for column in columns]


def compared_names(expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of the raw tensors that are compared, by group, such as the levels of one kind of map.

    Rows of detected objects are compared only where there are no other tensors.
    """
    groups: dict[str, list[str]] = {}
    for name, value in expected.items():
        if value.is_floating_point():
            groups.setdefault(name.rstrip("0123456789"), []).append(name)
    return {group: names for group, names in groups.items() if not is_rows(group)} or groups


def is_rows(group: str) -> bool:
    """Whether tensors of this name hold rows of detected objects."""
    return group.removeprefix("things_") in ROWS


def raw_difference(expected: dict[str, Tensor], got: dict[str, Tensor]) -> RawDifference:
    """Compare raw tensors by name; with other shapes or values that are not finite, the largest difference is inf."""
    largest, squares = 0.0, []
    for group, names in compared_names(expected).items():
        if any(got[name].shape != expected[name].shape for name in names):
            return RawDifference(float("inf"), MAX_ERROR)
        mine, theirs = (torch.cat([side[name].double().flatten() for name in names]) for side in (expected, got))
        power = mine.square().mean().clamp(min=1e-24)
        squares.append(float((mine - theirs).square().mean() / power))
        if not is_rows(group):
            worst = float((mine - theirs).abs().max() / power.sqrt())
            largest = max(largest, worst) if theirs.isfinite().all() else float("inf")
    error = sqrt(sum(squares) / max(len(squares), 1))
    return RawDifference(largest, error if error < MAX_ERROR else MAX_ERROR)
