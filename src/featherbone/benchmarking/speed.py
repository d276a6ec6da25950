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

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import sqrt
from multiprocessing.connection import wait
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from featherbone.benchmarking.models import count_cost
from featherbone.benchmarking.picture import save_picture
from featherbone.benchmarking.processes import Worker, WorkerError, terminable
from featherbone.benchmarking.table import TOP, BenchResult, LayerTable, Machine, SpeedRow
from featherbone.benchmarking.worker import FP16, INT8, LIMITS, TORCH, WRITING, Job, Plan, Size, build, target_of
from featherbone.devices import find_device
from featherbone.errors import BadOption, Interrupted, did_you_mean
from featherbone.exporters.artifact import choose_form
from featherbone.exporters.exported import find_exported
from featherbone.exporters.manifest import read_manifest
from featherbone.exporters.targets import TARGETS, require_trust
from featherbone.exporters.targets.target import require
from featherbone.files import write_json, write_text
from featherbone.hub import is_repository
from featherbone.progress import bar, notify
from featherbone.tasks.backbone import preprocessing_of, require_model
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.published import PUBLISHED, load_model
from featherbone.tasks.run import build_task, vary
from featherbone.tasks.variant import split_variant

WARM_UP = 1
"""Rounds before those that count."""
SETTLING, NARROW = 6, 0.05
"""Minimum number of rounds for an interval of their median, and its width relative to the median when it is narrow."""
FEWEST = 3
"""Minimum number of rounds, whatever the budget."""
WRITERS = 2
"""Processes that write files at the same time."""
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
        return count_cost(lambda: build(self.model, size) if card is None else build_task(card), *size, self.channels)

    @property
    def channels(self) -> int:
        return self.card.preprocessing.num_channels if self.card else 3


@dataclass
class Measurement:
    """A row that is being measured."""

    row: SpeedRow
    job: Job
    dynamic: str = "none"
    turns: list[list[float]] = field(default_factory=list)
    """Milliseconds of the calls of each round."""

    @property
    def call(self) -> tuple[Size, int]:
        """Size and batch, by which its worker finds it."""
        return (self.row.height, self.row.width), self.row.batch

    @property
    def settled(self) -> bool:
        """Whether the 95% interval of the median of rounds is narrow, or the row has failed."""
        if self.row.error:
            return True
        middles, count = sorted(median(turn) for turn in self.turns), len(self.turns)
        rank = int((count - 1.96 * sqrt(count)) / 2)  # binomial: how many rounds are below the median
        return count >= SETTLING and middles[-1 - rank] - middles[rank] <= NARROW * middles[count // 2]

    def ask(self, worker: Worker, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns; None if the row has failed before, or fails now."""
        if self.row.error:
            return None
        try:
            return worker.ask(method, *arguments)
        except WorkerError as why:
            self.fail(str(why))

    def fail(self, why: str) -> None:
        self.row = replace(self.row, error=why)
        notify(f"{self.row.title}: {why}", "not measured")

    def finished(self, rate: float) -> SpeedRow:
        """The row with statistics of its times, on a machine with `rate` GFLOP/s."""
        if self.row.error or not self.turns:
            return self.row
        times = [time for turn in self.turns for time in turn]
        p25, p50, p75, p90, p95 = np.percentile(times, (25, 50, 75, 90, 95)).tolist()
        macs, batch = self.row.macs, self.row.batch
        share = None if macs is None else (6 if self.job.plan.train else 2) * macs * batch / (p50 * 1e6) / rate
        timed = replace(self.row, p25=p25, p50=p50, p75=p75, p90=p90, p95=p95)
        return replace(timed, images_per_second=1e3 * batch / p50, share=share)


def measure_speed(plan: Plan, save: Callable[[BenchResult], object] | None = None) -> BenchResult:
    """Measure a plan; a pair of model and runtime that fails has a row with the reason.

    `save` is called with the result so far after each round; with it, `Interrupted` has this result after the first
    round. Raises `BadOption`, `UnknownModel`, `BadRun` and `MissingExtra` before any work starts. A script that calls
    it needs `if __name__ == "__main__":`, because it starts processes.
    """
    device, sources = check(plan)
    rates: list[tuple[float, float]] = []
    with terminable(), TemporaryDirectory() as name, ExitStack() as workers:
        base = Job(plan, str(device), runtime=LIMITS, folder=Path(name))
        limits = workers.enter_context(Worker(base))
        measurements = list(measurements_of(sources, base))
        write_files(measurements, base)
        jobs = dict.fromkeys(one.job for one in measurements)
        running = {job: workers.enter_context(Worker(job)) for job in jobs}
        for worker in running.values():
            workers.callback(worker.pipe.close)  # all at once, before waiting for any
        threads, card = limits.ask("about")
        with bar("loading", len(measurements)) as advance:
            for one in measurements:
                found = one.ask(running[one.job], "open", *one.call, one.dynamic)
                one.row = noted(replace(one.row, **(found or {})))
                advance(note=f"{one.row.model} {one.row.runtime}")

        def result(complete: bool = False, layers: Sequence[LayerTable] = ()) -> BenchResult:
            products, copies = (quartiles(column) for column in zip(*rates, strict=True))
            date = datetime.now().astimezone().isoformat(timespec="minutes")
            machine = Machine(cpu_name(), card, threads, torch.__version__, date, plan.precision, products, copies)
            rows = tuple(one.finished(products[1]) for one in measurements)
            return BenchResult(rows, machine, plan.train, len(rates), tuple(layers), complete)

        try:
            for rate in rounds(plan, measurements, running, limits):
                rates.append(rate)
                if save:
                    save(result())
            layers = list(layer_tables(measurements, running)) if plan.per_layer else []
        except KeyboardInterrupt as stop:
            if not rates or save is None:
                raise
            raise Interrupted(result(), getattr(stop, "exit_code", 128 + signal.SIGINT)) from None
        return result(True, layers)


def rounds(
    plan: Plan, measurements: Sequence[Measurement], running: dict[Job, Worker], limits: Worker
) -> Iterator[tuple[float, float]]:
    """Measure all in turn, round after round, as `Plan` states; yields the machine's limits in each round."""
    alive = [one for one in measurements if not one.row.error]
    start = perf_counter()
    with bar("measuring", (WARM_UP + plan.repeats) * len(alive)) as advance:
        for number in range(-WARM_UP, plan.repeats):
            rates = limits.ask("measure")
            for one in alive:
                times = one.ask(running[one.job], "measure", *one.call)
                if number >= 0 and times:
                    one.turns.append(times)
                if number == 0 and times:
                    notify(f"{one.row.title}: {median(times):.2f} ms in the first round")
                advance()
            if number >= 0:
                yield rates
                used = perf_counter() - start >= plan.seconds * len(alive)
                if all(one.settled for one in alive) or (used and number + 1 >= FEWEST):
                    return


def layer_tables(measurements: Sequence[Measurement], running: dict[Job, Worker]) -> Iterator[LayerTable]:
    """The times of the layers of each row."""
    for one in measurements:
        if times := one.ask(running[one.job], "layers", *one.call, one.dynamic):
            total = sum(time.milliseconds for time in times)
            yield LayerTable(one.row.model, one.row.runtime, one.row.batch, *one.call[0], total, tuple(times[:TOP]))


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
                job = replace(base, model=source.model, kind=source.kind, runtime=runtime, channels=source.channels)
                if source.kind != "file" and runtime not in TORCH:
                    task, head = (source.card.task, source.card.head) if source.card else ("classification", None)
                    dynamic = choose_form(job.target, task, head).dynamic
                    job = replace(job, dynamic=dynamic, folder=base.folder / f"{number}-{runtime}")
                for (height, width), (params, macs) in costs.items():
                    for batch in sorted(set(base.plan.batches)):
                        row = SpeedRow(source.model, runtime, batch, height, width, params, macs, params * 4e-6)
                        yield Measurement(replace(row, top1=top1), job)


def write_files(measurements: Sequence[Measurement], base: Job) -> None:
    """Write the files that runtimes need, in `WRITERS` processes that then end; if one dies, another continues."""
    made = [one for one in measurements if one.job.kind != "file" and one.row.runtime not in TORCH]
    waiting = list(dict.fromkeys((one.job, one.call[0]) for one in made))[::-1]
    written: dict[tuple[Job, Size], tuple[str, str]] = {}  # which axes vary, or the reason why there is no file
    with bar("exporting", len(waiting)) as advance, ExitStack() as workers:
        busy: dict[Any, tuple[Worker, tuple[Job, Size]]] = {}

        def start(worker: Worker) -> None:
            if waiting:
                what = waiting.pop()
                worker.send("write", *what)
                busy[worker.pipe] = worker, what

        for _ in range(min(WRITERS, len(waiting))):
            start(workers.enter_context(Worker(replace(base, runtime=WRITING))))
        while busy:
            for pipe in wait(list(busy)):
                writer, what = busy.pop(pipe)
                try:
                    written[what] = writer.receive(), ""
                except WorkerError as why:
                    written[what] = "", str(why)
                alive = writer.process.is_alive()
                start(writer if alive else workers.enter_context(Worker(replace(base, runtime=WRITING))))
                advance(note=f"{what[0].model} {what[0].runtime}")
    for one in made:
        one.dynamic, error = written[one.job, one.call[0]]
        if error:
            one.fail(error)
        elif one.row.runtime.endswith(INT8):
            one.row = replace(one.row, note="int8 in every layer, ranges from random images: only its speed counts")
        elif one.dynamic != one.job.dynamic:
            one.row = replace(one.row, note="the batch is fixed: image by image")


def write_result(result: BenchResult, out: Path) -> BenchResult:
    """Write `bench.json`, `bench.md` and `bench.png` in the folder `out`; returns the result with it."""
    result = replace(result, out=out)
    write_tables(result)
    save_picture(result, out / "bench.png")
    return result


def write_tables(result: BenchResult) -> None:
    """Write `bench.json` and `bench.md` in the result's folder."""
    assert result.out is not None, "the result has a folder"
    write_json(result.out / "bench.json", result.to_json())
    write_text(result.out / "bench.md", result.to_text(markdown=True) + "\n")


def noted(row: SpeedRow) -> SpeedRow:
    """The row with notes: what its runtime does not show, and that its file in float32 differs from eager."""
    fp16 = row.runtime.endswith(FP16)
    notes = [row.note] if row.runtime in TORCH else [row.note, target_of(row.runtime).caveat(fp16)]
    if row.differs is not None and row.differs > BOUND and not row.runtime.endswith((INT8, FP16)):
        notes.append(f"differs from eager by more than {BOUND:g}")
    return replace(row, note="; ".join(filter(None, notes)))


def list_runtimes() -> list[str]:
    """Names of the runtimes to choose from: torch's, and those of the targets whose files run on this system."""
    found = list(TORCH)
    for target in TARGETS.values():
        if not target.published and target.platform in (None, sys.platform):
            found.append(target.name)
            found += [target.name + FP16] * target.fp16 + [target.name + INT8] * bool(target.int8_packages)
    return found


def check(plan: Plan) -> tuple[torch.device, list[Source]]:
    """The device and the models of a plan. Raises the errors of `measure_speed`."""
    if not plan.models:
        raise BadOption("no model; give names of models, run folders or exported files: featherbone bench lvt")
    choices = list_runtimes()
    for name in plan.runtimes or ("",):
        if name not in choices:
            raise BadOption(f"no runtime {name!r}{did_you_mean(name, choices)}; there is {', '.join(choices)}")
    for what, numbers, minimum in (
        ("batch size", plan.batches or (0,), 1),
        ("image size", plan.sides, 32),
        ("repeats", (plan.repeats,), 1),
        ("seconds", (plan.seconds,), 0),
        ("threads", () if plan.threads is None else (plan.threads,), 1),
    ):
        if min(numbers, default=minimum) < minimum:
            raise BadOption(f"{what} {min(numbers)} is not {minimum} or more")
    if plan.per_layer and plan.train:
        raise BadOption("per-layer measures the forward pass; omit train, or measure training separately")
    sources = [source_of(model, plan) for model in dict.fromkeys(plan.models)]
    foreign = [name for name in plan.runtimes if name not in TORCH]
    foreign += [source.model for source in sources if source.kind == "file"]
    runtimes = [name for source in sources for name in source.runtimes if name != "eager"]
    opaque = [name for name in runtimes if name in TORCH or not target_of(name).profiles]
    for option, given, wrong, allowed in (
        ("train", plan.train, foreign, "eager and compiled"),
        ("precision bf16", plan.precision == "bf16", foreign, "eager and compiled"),
        ("per-layer", plan.per_layer, opaque, "eager, onnx and openvino"),
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
