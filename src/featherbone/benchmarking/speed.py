"""Speed, memory and use of the machine by models in several runtimes, measured in turn.

Every model in every runtime has its process, so that memory is counted by model and thread pools do not compete. One
more process measures the machine's limits. The parent asks them one after another, round after round, so that a slow
phase of the machine affects all of them. A turn is an untimed call and a few timed ones.

`share` relates a model to the machine: operations per second, 2 * MACs * batch / latency (three times that for a step
of training: the backward pass costs twice the forward one), divided by those of the fastest square matrix product of
the same precision in the same rounds. Norms and activations take time and have no MACs: a share far below 1 means that
memory or the overhead of small operators is the limit. It can exceed 1 where a runtime computes in less precision, as
in int8, or saves products, as by Winograd's algorithm.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from featherbone.benchmarking.models import count_cost
from featherbone.benchmarking.picture import save_picture
from featherbone.benchmarking.table import TOP, BenchResult, LayerTable, Machine, SpeedRow
from featherbone.benchmarking.worker import INT8, LIMITS, TORCH, WRITING, Job, Plan, Size, build, serve, target_of
from featherbone.devices import find_device
from featherbone.errors import BadOption, did_you_mean
from featherbone.exporters.artifact import choose_form
from featherbone.exporters.exported import find_exported
from featherbone.exporters.manifest import read_manifest
from featherbone.exporters.targets import require_trust
from featherbone.exporters.targets.target import require
from featherbone.files import write_json, write_text
from featherbone.hub import is_repository
from featherbone.progress import bar
from featherbone.tasks.backbone import preprocessing_of, require_model
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.published import PUBLISHED, load_model
from featherbone.tasks.run import build_task, vary
from featherbone.tasks.variant import split_variant
from featherbone_command import SPIN

CHOICES = (*TORCH, "onnx", "onnx-int8", "openvino", "torch")
"""Runtimes to choose from."""
WARM_UP = 2
"""Rounds before those that count."""
BOUND = 1e-3
"""Maximum error of a file without a note."""


@dataclass(frozen=True)
class Source:
    """One model of a plan, with its runtimes and sizes."""

    model: str
    kind: str
    runtimes: tuple[str, ...]
    sizes: tuple[Size, ...]
    card: Card | None = None

    def cost(self, size: Size) -> tuple[int, int | None]:
        """Parameters, and multiply-adds of one image, as `count_cost`."""
        card = self.card
        return count_cost(lambda: build(self.model, size) if card is None else build_task(card), *size)


class WorkerError(Exception):
    """A worker's method failed; the message is the reason."""


class Worker:
    """A process of `worker.serve`, and the pipe to it; it ends with the `with` block."""

    def __init__(self, job: Job) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(job, theirs), daemon=True)
        resource_tracker.ensure_running()  # starting it later would let interrupts through again
        with starting():
            self.process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns. Raises `WorkerError`."""
        try:
            self.pipe.send((method, arguments))
            done, answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            why = "killed, perhaps for want of memory" if code == -9 else f"exit code {code}"
            raise WorkerError(f"its process ended ({why})") from None
        if not done:
            raise WorkerError(answer)
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        self.pipe.close()
        self.process.join(5 if error is None else 0.3)
        self.process.kill()
        self.process.join()
        self.process.close()


@contextmanager
def starting() -> Iterator[None]:
    """Processes started inside ignore interrupts, because the parent ends them, and have the command's `SPIN`."""
    name, value = SPIN  # torch reads it when it is loaded
    before = os.environ.get(name)
    os.environ.setdefault(name, value)
    can_block = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else set()
    try:
        yield
    finally:
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is None:
            del os.environ[name]


@dataclass
class Measurement:
    """A row that is being measured."""

    row: SpeedRow
    job: Job
    dynamic: str = "none"
    times: list[float] = field(default_factory=list)

    @property
    def call(self) -> tuple[Size, int]:
        """Size and batch, by which its worker finds it."""
        return (self.row.height, self.row.width), self.row.batch

    def ask(self, worker: Worker, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns; None if the row has failed before, or fails now."""
        if self.row.error:
            return None
        try:
            return worker.ask(method, *arguments)
        except WorkerError as why:
            self.row = replace(self.row, error=str(why))

    def finished(self, rate: float) -> SpeedRow:
        """The row with statistics of its times, on a machine with `rate` GFLOP/s."""
        if self.row.error:
            return self.row
        p25, p50, p75, p95 = np.percentile(self.times, (25, 50, 75, 95)).tolist()
        macs, batch = self.row.macs, self.row.batch
        share = None if macs is None else (6 if self.job.plan.train else 2) * macs * batch / (p50 * 1e6) / rate
        timed = replace(self.row, p25=p25, p50=p50, p75=p75, p95=p95)
        return replace(timed, images_per_second=1e3 * batch / p50, share=share)


def measure_speed(plan: Plan) -> BenchResult:
    """Measure a plan; a pair of model and runtime that fails has a row with the reason.

    Raises `BadOption`, `UnknownModel`, `BadRun` and `MissingExtra` before any work starts. A script that calls it needs
    `if __name__ == "__main__":`, because it starts processes.
    """
    device, sources = check(plan)
    with TemporaryDirectory() as name, ExitStack() as workers:
        base = Job(plan, str(device), runtime=LIMITS, folder=Path(name))
        measurements = list(measurements_of(sources, base))
        limits = workers.enter_context(Worker(base))
        jobs = dict.fromkeys(one.job for one in measurements)
        running = {job: workers.enter_context(Worker(job)) for job in jobs}  # they import torch meanwhile
        for worker in running.values():
            workers.callback(worker.pipe.close)  # all at once, before waiting for any
        write_files(measurements, base)
        threads, card = limits.ask("about")
        with bar("loading", len(measurements)) as advance:
            for one in measurements:
                found = one.ask(running[one.job], "open", *one.call, one.dynamic)
                one.row = noted(replace(one.row, **(found or {})))
                advance(note=f"{one.row.model} {one.row.runtime}")
        rates = list(rounds(plan.repeats, measurements, running, limits))
        layers = []
        for one in measurements if plan.per_layer else ():
            if times := one.ask(running[one.job], "layers", *one.call):
                total = sum(time.milliseconds for time in times)
                layers.append(LayerTable(one.row.model, one.row.batch, *one.call[0], total, tuple(times[:TOP])))
    products, copies = (quartiles(column) for column in zip(*rates, strict=True))
    date = datetime.now().astimezone().isoformat(timespec="minutes")
    machine = Machine(cpu_name(), card, threads, torch.__version__, date, plan.precision, products, copies)
    rows = tuple(one.finished(products[1]) for one in measurements)
    return BenchResult(rows, machine, plan.train, plan.repeats, tuple(layers))


def rounds(
    repeats: int, measurements: Sequence[Measurement], running: dict[Job, Worker], limits: Worker
) -> Iterator[tuple[float, float]]:
    """Measure all in turn, round after round; yields the machine's limits in each round."""
    alive = [one for one in measurements if not one.row.error]
    with bar("measuring", (WARM_UP + repeats) * len(alive)) as advance:
        for number in range(WARM_UP + repeats):
            rates = limits.ask("measure")
            for one in alive:
                times = one.ask(running[one.job], "measure", *one.call)
                if number >= WARM_UP:
                    one.times += times or []
                advance()
            if number >= WARM_UP:
                yield rates


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return low, middle, high


def measurements_of(sources: Sequence[Source], base: Job) -> Iterator[Measurement]:
    """Every combination once, batches ascending as the workers need them. `base` holds the common fields of jobs."""
    with bar("counting", sum(len(source.sizes) for source in sources)) as advance:
        for number, source in enumerate(sources):
            costs = {}
            for size in source.sizes:
                costs[size] = source.cost(size)
                advance()
            top1 = source.card.metrics.get("top1") if source.card else None
            for runtime in source.runtimes:
                job = replace(base, model=source.model, kind=source.kind, runtime=runtime)
                if source.kind != "file" and runtime not in TORCH:
                    task, head = (source.card.task, source.card.head) if source.card else ("classification", None)
                    dynamic = choose_form(job.target, task, head).dynamic
                    job = replace(job, dynamic=dynamic, folder=base.folder / f"{number}-{runtime}")
                for (height, width), (params, macs) in costs.items():
                    for batch in sorted(set(base.plan.batches)):
                        row = SpeedRow(source.model, runtime, batch, height, width, params, macs, params * 4e-6)
                        yield Measurement(replace(row, top1=top1), job)


def write_files(measurements: Sequence[Measurement], base: Job) -> None:
    """Write the files that runtimes need, in a process that then ends; if it dies, another one continues."""
    made = [one for one in measurements if one.job.kind != "file" and one.row.runtime not in TORCH]
    written: dict[tuple[Job, Size], tuple[str, str]] = {}  # which axes vary, or the reason why there is no file
    with bar("exporting", len(made)) as advance, ExitStack() as workers:
        writer = None
        for one in made:
            what = one.job, one.call[0]
            if what not in written:
                if writer is None or not writer.process.is_alive():
                    writer = workers.enter_context(Worker(replace(base, runtime=WRITING)))
                written[what] = one.ask(writer, "write", *what) or "", one.row.error
            one.dynamic, error = written[what]
            note = "" if error or one.dynamic == one.job.dynamic else "the batch is fixed: image by image"
            if not error and one.row.runtime.endswith(INT8):
                note = "int8 in every layer, ranges from random images: only its speed counts"
            one.row = replace(one.row, error=error, note=note)
            advance(note=f"{one.row.model} {one.row.runtime}")


def write_result(result: BenchResult, out: Path) -> BenchResult:
    """Write `bench.json`, `bench.md` and `bench.png` in the folder `out`; returns the result with it."""
    result = replace(result, out=out)
    write_json(out / "bench.json", result.to_json())
    write_text(out / "bench.md", result.to_text(markdown=True) + "\n")
    save_picture(result, out / "bench.png")
    return result


def noted(row: SpeedRow) -> SpeedRow:
    """The row with a note if its file differs from eager; in int8 that is expected."""
    if row.differs is None or row.differs <= BOUND or row.runtime.endswith(INT8):
        return row
    return replace(row, note="; ".join(filter(None, (row.note, f"differs from eager by more than {BOUND:g}"))))


def check(plan: Plan) -> tuple[torch.device, list[Source]]:
    """The device and the models of a plan. Raises the errors of `measure_speed`."""
    if not plan.models:
        raise BadOption("no model; give names of models, run folders or exported files: featherbone bench lvt")
    for name in plan.runtimes or ("",):
        if name not in CHOICES:
            raise BadOption(f"no runtime {name!r}{did_you_mean(name, CHOICES)}; there is {', '.join(CHOICES)}")
    for what, numbers, minimum in (
        ("batch size", plan.batches or (0,), 1),
        ("image size", plan.sides, 32),
        ("repeats", (plan.repeats,), 1),
        ("threads", () if plan.threads is None else (plan.threads,), 1),
    ):
        if min(numbers, default=minimum) < minimum:
            raise BadOption(f"{what} {min(numbers)} is not {minimum} or more")
    if plan.per_layer and plan.train:
        raise BadOption("per-layer measures the forward pass; omit train, or measure training separately")
    sources = [source_of(model, plan) for model in dict.fromkeys(plan.models)]
    foreign = [name for name in plan.runtimes if name not in TORCH]
    foreign += [source.model for source in sources if source.kind == "file"]
    not_eager = [*foreign, *(name for name in plan.runtimes if name == "compiled")]
    for option, given, wrong, allowed in (
        ("train", plan.train, foreign, "eager and compiled"),
        ("precision bf16", plan.precision == "bf16", foreign, "eager and compiled"),
        ("per-layer", plan.per_layer, not_eager, "eager"),
    ):
        if given and wrong:
            raise BadOption(f"{option} applies only to {allowed}; omit it or {wrong[0]}")
    if plan.device not in ("auto", "cpu") and plan.device.partition(":")[0] != "cuda":
        raise BadOption(f"device {plan.device!r} cannot be measured; give auto, cpu or cuda")
    on_cpu = plan.device == "auto" and (foreign or not torch.cuda.is_available())
    device = find_device("cpu" if on_cpu else "cuda" if plan.device == "auto" else plan.device)
    if device.type == "cuda" and foreign:
        raise BadOption(f"exported files are measured on the CPU; omit {foreign[0]}, or give --device cpu")
    for name in {runtime for source in sources for runtime in source.runtimes} - set(TORCH):
        target = target_of(name)
        require(target.run_packages, target.extra)
        if name in plan.runtimes:
            target.require()
        if name.endswith(INT8):
            require(target.int8_packages, target.extra)
    return device, sources


def source_of(model: str, plan: Plan) -> Source:
    """The model of a name, a run folder or an exported file. Raises `UnknownModel`, `BadRun` and `BadCheckpoint`."""
    name, arguments = split_variant(model)
    path, runtimes, card = Path(name), tuple(dict.fromkeys(plan.runtimes)), None
    if (path / CARD).is_file():
        kind, card = "run", vary(Card.read(path), arguments)
    elif not path.exists() and (name in PUBLISHED or is_repository(path)):
        kind, card = "run", load_model(model)[0]
    elif exported := find_exported(Path(model)):
        file, manifest = read_manifest(exported)
        require_trust(file, manifest.target, plan.trust)
        kind, card = "file", manifest.card
        runtimes = (manifest.target if manifest.precision == "fp32" else f"{manifest.target}-{manifest.precision}",)
    else:
        require_model(name)
        require_arguments(name, arguments)
        kind = "name"
    p = card.preprocessing if card else preprocessing_of(name)
    squares = tuple((side, side) for side in dict.fromkeys(plan.sides))
    return Source(model, kind, runtimes, squares or (p.canvas(p.height, p.width),), card)


def require_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise `BadOption` for keyword arguments with which the backbone `name` cannot be built; they are all allowed."""
    if arguments:
        with torch.random.fork_rng(devices=()), torch.device("meta"):
            build_task(Card("classification", name, ("class",), preprocessing_of(name), model_args=dict(arguments)))


def cpu_name() -> str:
    """Name of this machine's processor."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
