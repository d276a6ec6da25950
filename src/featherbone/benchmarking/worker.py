"""A process that holds one model in one runtime, and measures it whenever the parent, `speed`, asks."""

import logging
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import featherbone  # noqa: F401 - registers our backbones
from featherbone.benchmarking.clock import Limits, Memory, layer_times, turn
from featherbone.benchmarking.table import LayerTime
from featherbone.benchmarking.training import training_step
from featherbone.deployment import deploy
from featherbone.exporters.artifact import Artifact, Form, raw_difference, run_batch
from featherbone.exporters.exported import open_task
from featherbone.exporters.manifest import read_manifest
from featherbone.exporters.target_check import root_cause
from featherbone.exporters.targets import find_target, open_file
from featherbone.exporters.targets.target import Target
from featherbone.tasks.published import load_model
from featherbone.tasks.variant import split_variant

Size = tuple[int, int]
"""Height and width."""
LIMITS, WRITING = "limits", "writing"
"""Jobs without a runtime: measuring the machine's limits, and writing files."""
TORCH = ("eager", "compiled")
"""Runtimes that need no file."""
INT8, FP16 = "-int8", "-fp16"
EXPECTED = "expected.pt"
"""Raw tensors of the eager model, beside the folder of its file."""
CALIBRATION = 4
"""Random images for the ranges of an int8 file."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how."""

    models: tuple[str, ...]
    runtimes: tuple[str, ...] = ("eager",)
    batches: tuple[int, ...] = (1,)
    sides: tuple[int, ...] = ()
    """Of square images; by default each model's size."""
    repeats: int = 20
    """Maximum number of rounds that count."""
    seconds: float = 4.0
    """Budget of time for each row, on average: when it is used, or all medians have settled, rounds end."""
    train: bool = False
    per_layer: bool = False
    device: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    trust: bool = False
    """Whether exported files may hold machine code."""


@dataclass(frozen=True)
class Job:
    """The part of a plan that a worker measures; it is sent to the process."""

    plan: Plan
    device: str
    """Device of torch; files run on the CPU."""
    model: str = ""
    """timm name, path of a run or of an exported file, or name of a published detector or segmentation model.

    It may have a suffix with arguments of the backbone, as `split_variant` takes it.
    """
    kind: str = "name"
    """name, run (also a published detector or segmentation model) or file."""
    runtime: str = "eager"
    folder: Path = Path()
    """Where files for the comparison are written."""
    dynamic: str = "none"
    """Which axes of their input may vary, if the exporter manages it."""
    examples: int = 1
    """Number of images with expected outputs."""
    channels: int = 3

    @property
    def of_file(self) -> bool:
        """Whether the runtime runs a file."""
        return self.kind == "file" or self.runtime not in TORCH

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.plan.precision == "bf16" else torch.float32

    @property
    def target(self) -> Target:
        """The target of the runtime, without a precision."""
        return target_of(self.runtime)

    def file_folder(self, size: Size) -> Path:
        """The folder of the file that a worker runs."""
        if self.kind == "file":
            return read_manifest(Path(self.model))[0].parent
        return self.folder / f"{size[0]}x{size[1]}/file"

    def load_model(self, size: Size) -> Any:
        """The model of a backbone's name or a run, in evaluation mode."""
        return load_model(self.model)[1] if self.kind == "run" else build(self.model, size)


def serve(job: Job, pipe: Connection) -> None:
    """Answer requests, a method and its arguments, with (True, result) or (False, reason), until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted as well, and ends this process
    os.dup2(2, 1)  # standard output is the parent's
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # of compilers, about themselves
    if job.plan.threads is not None:
        torch.set_num_threads(job.plan.threads)
    if job.device == "cpu":
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no further processes
    owner: Any = None
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):  # the parent has finished, or died
            return
        try:
            owner = owner or owner_of(job)
            answer = (True, getattr(owner, method)(*arguments))
        except Exception as error:  # compilers raise errors of any type, and the row states them
            answer = (False, root_cause(error))
        with suppress(OSError):
            pipe.send(answer)


def owner_of(job: Job) -> Any:
    """The object whose methods answer the requests for a job."""
    if job.runtime == LIMITS:
        return Limits(torch.device(job.device), job.dtype)
    return Writer() if job.runtime == WRITING else Subject(job)


def build(name: str, size: Size) -> nn.Module:
    """A timm model in evaluation mode, for images of a size; its weights are random, and always the same.

    `name` may have a suffix with arguments of the model.
    """
    name, arguments = split_variant(name)
    torch.manual_seed(0)
    if timm.models.get_pretrained_cfg(name).fixed_input_size:
        arguments = {"img_size": size, **arguments}
    return timm.create_model(name, **arguments).eval()


def sample(size: Size, batch: int, channels: int = 3) -> Tensor:
    """Random images, always the same."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


def target_of(runtime: str) -> Target:
    """The target of a runtime, without a precision."""
    return find_target(runtime.removesuffix(INT8).removesuffix(FP16))


class Writer:
    """The worker that writes the files of other jobs: what exporters leave in memory is not a model's."""

    def write(self, job: Job, size: Size) -> str:
        """Write the file for images of a size and the eager model's output; returns which axes of its input vary."""
        folder = job.file_folder(size)
        folder.mkdir(parents=True)
        model = job.load_model(size)
        try:
            self.write_form(model, Form(job.target, job.dynamic, fp16=job.runtime.endswith(FP16)), size, job)
            return job.dynamic
        except Exception:
            if job.dynamic == "none":
                raise
        self.write_form(model, Form(job.target, fp16=job.runtime.endswith(FP16)), size, job)
        return "none"

    def write_form(self, model: Any, form: Form, size: Size, job: Job) -> None:
        """As `write`, in one form."""
        folder = job.file_folder(size)
        artifact = Artifact.of(model, form, sample(size, 1, job.channels))
        parts = [artifact.expected(image) for image in sample(size, job.examples, job.channels).split(1)]
        expected = {name: torch.cat([part[name] for part in parts]) for name in artifact.names}
        torch.save(expected, folder.with_name(EXPECTED))
        if job.runtime.endswith(INT8):
            work = folder.with_name("float")
            work.mkdir(exist_ok=True)
            artifact.write(work)
            artifact.quantize(work, folder, sample(size, CALIBRATION, job.channels))
        else:
            artifact.write(folder)


class Subject:
    """The worker that measures one model in one runtime, at sizes and batches that are opened one after another."""

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, torch.device(job.device)
        self.memory = Memory(self.device)
        self.loaded: dict[Size, tuple[int | None, Any]] = {}
        self.calls: dict[tuple[Size, int], Callable[[], object]] = {}
        if job.of_file:
            with suppress(Exception):  # no such file, but the runtime is loaded, which is not the model's memory
                job.target.open(Path("none"))
        if job.runtime == "compiled":
            import_module("torch._inductor.compile_fx")  # nor is the compiler's
            torch._dynamo.config.recompile_limit = 256  # each size and batch is a program
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(7200, 8))
        net.to(self.device)(torch.zeros(1, 3, 32, 32, device=self.device)).sum().backward()  # libraries, threads

    def open(self, size: Size, batch: int, dynamic: str) -> dict[str, Any]:
        """Prepare a call: its peak memory in MB and, for a file, its size in MB and its error.

        Smaller batches must come first, because runtimes keep their memory.
        """
        if size not in self.loaded:
            held = self.memory.held()
            self.loaded[size] = held, self.load(size)
        held, net = self.loaded[size]
        call = self.call(net, size, batch, dynamic)
        call()  # compiles, plans, reserves
        self.memory.reset()
        call()
        peak = self.memory.peak()
        self.calls[size, batch] = call
        peak_mb = None if peak is None or held is None else max(peak - held, 0) / 1e6
        return {"peak_mb": peak_mb, **(self.file_facts(net, size) if self.job.of_file else {})}

    def measure(self, size: Size, batch: int) -> list[float]:
        """Milliseconds of a few calls."""
        return turn(self.calls[size, batch], self.device)

    def layers(self, size: Size, batch: int, dynamic: str) -> list[LayerTime]:
        """The time of each layer, or of each type of operator in a file."""
        net, repeats = self.loaded[size][1], self.job.plan.repeats
        if not self.job.of_file:
            return layer_times(net, self.calls[size, batch], repeats, self.device)
        images, path = sample(size, batch, self.job.channels), self.job.file_folder(size) / self.job.target.file
        if self.job.kind == "file":
            dynamic, images = net.manifest.dynamic, net.input(images)
        found = self.job.target.profile(path, images.split(1) if dynamic == "none" else [images], repeats)
        total = sum(one.milliseconds for one in found)
        return [LayerTime(f"{n} nodes", kind, took, took / total) for kind, n, took in found]

    def load(self, size: Size) -> Any:
        job = self.job
        if job.kind == "file":
            return open_task(Path(job.model), job.plan.trust)[1]
        if job.of_file:
            return open_file(job.file_folder(size) / job.target.file, job.target.name, trust=True)
        net = job.load_model(size)
        if job.plan.train:
            return net
        compiled = job.runtime == "compiled"
        net = deploy(net, size, "compiled" if compiled else "inference").to(self.device, job.dtype)
        return torch.compile(net, dynamic=False) if compiled else net

    def call(self, net: Any, size: Size, batch: int, dynamic: str) -> Callable[[], object]:
        """The call that is timed: `net`, from `load`, on a batch."""
        job = self.job
        images = sample(size, batch, job.channels)
        if job.plan.train:
            bf16 = job.plan.precision == "bf16"
            return training_step(net, images.to(self.device), compiled=job.runtime == "compiled", bf16=bf16)
        if not job.of_file:
            images = images.to(self.device, job.dtype)
            return torch.inference_mode()(lambda: net(images))
        run = net
        if job.kind == "file":
            run, dynamic, images = net.run, net.manifest.dynamic, net.input(images)
        return lambda: run_batch(run, images, dynamic == "none")

    def file_facts(self, net: Any, size: Size) -> dict[str, float]:
        """Size of a file in MB, and its error on one image if it was written for the comparison."""
        folder = self.job.file_folder(size)
        facts = {"file_mb": self.job.target.size(folder) / 1e6}
        if self.job.kind != "file":
            expected = torch.load(folder.with_name(EXPECTED))
            found = net(sample(size, 1, self.job.channels))
            facts["differs"] = raw_difference(expected, dict(zip(expected, found, strict=True))).error
        return facts
