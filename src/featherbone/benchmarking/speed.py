"""How fast models are, how much memory they take, and how much of the machine they use, measured in turn.

Every model in every runtime lives in a process of its own, so that memory is its own and pools of threads do not fight.
One more measures the machine's limits. The parent asks them one after another, round after round: what slows the
machine for a while slows all of them. A turn is an untimed call and a few timed ones.

`share` is what a model makes of the machine: operations per second, 2 * MACs * batch / latency (three times that for a
step of training: the backward pass costs twice the forward one), in those of the fastest square matrix product of the
same precision in the same rounds. Layers that are no products, such as norms and activations, have no MACs, and cost
time: a share far below 1 means that memory or the overhead of small operators is the limit. It can pass 1 where a
runtime computes in less precision than the product does, as in int8, or avoids products, as by Winograd's algorithm.
"""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from featherbone.benchmarking.layers import TOP, LayerTable
from featherbone.benchmarking.models import as_table, count_macs
from featherbone.benchmarking.worker import LIMITS, TORCH, WRITING, Job, Size, build, serve
from featherbone.devices import find_device
from featherbone.errors import BadOption, did_you_mean
from featherbone.exporters.artifact import choose_form
from featherbone.exporters.manifest import MANIFEST, read_manifest
from featherbone.exporters.targets import TARGETS, find_target, require_trust
from featherbone.exporters.targets.target import require
from featherbone.files import write_json, write_text
from featherbone.progress import bar
from featherbone.tasks.backbone import preprocessing_of, require_model
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.run import build_task

CHOICES = (*TORCH, "onnx", "onnx-int8", "openvino", "torch")
"""Runtimes to choose from."""
WARM_UP = 2
"""Rounds that do not count."""
BOUND = 1e-3
"""Beyond which a file made on the fly is said to differ from eager."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    models: tuple[str, ...]
    runtimes: tuple[str, ...] = ("eager",)
    batches: tuple[int, ...] = (1,)
    sides: tuple[int, ...] = ()
    """Of square images; by default each model's own size."""
    repeats: int = 20
    """Rounds."""
    train: bool = False
    per_layer: bool = False
    device: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    trust: bool = False
    """Whether exported files may hold machine code."""


@dataclass(frozen=True)
class SpeedRow:
    """One model in one runtime at one size and batch; what is not known is None."""

    model: str
    runtime: str
    batch: int
    height: int
    width: int
    params: int | None = None
    macs: int | None = None
    """Of the forward pass of one image."""
    file_mb: float | None = None
    """Of the exported file, or the parameters in fp32."""
    p25: float | None = None
    """Milliseconds of a batch: a quarter of the calls took less."""
    p50: float | None = None
    p75: float | None = None
    p95: float | None = None
    images_per_second: float | None = None
    """At the median."""
    peak_mb: float | None = None
    """Memory at its highest, weights included, over what the process held before the model was loaded."""
    share: float | None = None
    """Of the machine's matrix-product rate."""
    differs: float | None = None
    """Of a file made on the fly from eager: root mean square of the error, in those of the outputs."""
    top1: float | None = None
    """From the run's card."""
    note: str = ""
    error: str = ""
    """Why it was not measured."""

    def cells(self) -> list[str]:
        """Of the table."""

        def show(value: float | None, form: str, scale: float = 1.0) -> str:
            return "" if value is None else form.format(value / scale)

        spread = "" if self.p50 is None else f"{self.p25:.2f} to {self.p75:.2f}"
        return [
            *(self.model, self.runtime, f"{self.height}x{self.width}", str(self.batch)),
            *(show(self.params, "{:.2f}M", 1e6), show(self.macs, "{:.2f}G", 1e9), show(self.file_mb, "{:.1f}")),
            *(show(self.p50, "{:.2f}"), spread, show(self.p95, "{:.2f}"), show(self.images_per_second, "{:.1f}")),
            *(show(self.peak_mb, "{:.1f}"), show(self.share, "{:.1%}"), show(self.differs, "{:.0e}")),
            " ".join(self.error.split()).replace("|", "/") or self.note,
        ]


TITLES = (
    *("model", "runtime", "input", "batch", "params", "MACs", "MB", "ms", "quartiles", "p95", "images/s"),
    *("peak MB", "of limit", "differs", "note"),
)


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    cpu: str
    device: str
    """cpu, or the name of the card."""
    threads: int
    torch: str
    date: str
    precision: str
    gflops: tuple[float, float, float]
    """Of the fastest square matrix product, in that precision: lower quartile, median, upper quartile."""
    gbytes: tuple[float, float, float]
    """Per second of a large copy, bytes read and written, likewise."""

    def __str__(self) -> str:
        flops, copies = (
            f"{middle:.1f} {unit} ({low:.1f} to {high:.1f})"
            for (low, middle, high), unit in ((self.gflops, "GFLOP/s"), (self.gbytes, "GB/s"))
        )
        return (
            f"machine  {self.cpu}, device {self.device}, {self.threads} threads, torch {self.torch}, {self.date}\n"
            f"limits   matrix product {flops} in {self.precision}, copy {copies}"
        )


@dataclass(frozen=True)
class BenchResult:
    """All rows, and where they were measured."""

    rows: tuple[SpeedRow, ...]
    machine: Machine
    train: bool
    repeats: int
    layers: tuple[LayerTable, ...] = ()
    out: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "out": self.out and str(self.out)}

    def to_text(self, markdown: bool) -> str:
        """The tables, for a terminal or in Markdown."""
        rows = [TITLES, *(row.cells() for row in self.rows)]
        shown = [i for i in range(len(TITLES)) if any(row[i] for row in rows[1:])]
        what = "a step of training" if self.train else "a forward pass"
        lines = [as_table([[row[i] for i in shown] for row in rows], markdown), ""]
        lines += [f"{what}, {self.repeats} rounds in turn; ms of a batch at the median", str(self.machine)]
        return "\n".join([*lines, *(f"\n{table.to_text(markdown)}" for table in self.layers)])

    def __str__(self) -> str:
        written = f"\nfiles    bench.json, bench.md and bench.png in {self.out}" if self.out else ""
        return self.to_text(markdown=False) + written

    def write(self, out: Path) -> "BenchResult":
        """Itself with `bench.json`, `bench.md` and `bench.png` in the folder `out`."""
        from featherbone.benchmarking.picture import save_picture

        written = replace(self, out=out)
        write_json(out / "bench.json", written.to_json())
        write_text(out / "bench.md", written.to_text(markdown=True) + "\n")
        save_picture(written, out / "bench.png")
        return written


@dataclass(frozen=True)
class Source:
    """One model of a plan: what it is, and how it can run."""

    model: str
    kind: str
    runtimes: tuple[str, ...]
    sizes: tuple[Size, ...]
    card: Card | None = None

    def cost(self, size: Size) -> tuple[int, int | None]:
        """Parameters, and multiply-adds of one image, None where they cannot be counted; nothing is computed."""
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        job = Job(self.model, self.kind)
        with torch.random.fork_rng(devices=()):
            net = (build(job, size) if self.card is None else build_task(self.card)).requires_grad_(False)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
                macs = count_macs(net, *size)
        except Exception:  # the model refuses the size, which its row tells, or an operator has no shapes
            macs = None
        return sum(parameter.numel() for parameter in net.parameters()), macs


class Failed(Exception):
    """What a worker was asked for did not work; the message says why."""


class Worker:
    """A process of `worker.serve`, and the way to ask it."""

    def __init__(self, job: Job) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(job, theirs), daemon=True)
        resource_tracker.ensure_running()  # else starting it lets interrupts through again
        with uninterrupted():
            self.process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns. Raises `Failed`."""
        try:
            self.pipe.send((method, arguments))
            done, answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            why = "killed, perhaps for want of memory" if code == -9 else f"exit code {code}"
            raise Failed(f"its process ended ({why})") from None
        if not done:
            raise Failed(answer)
        return answer

    def stop(self, patience: float) -> None:
        """End the process, in good order if it comes to an end within so many seconds."""
        self.pipe.close()
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        self.process.close()


@contextmanager
def working(job: Job) -> Iterator[Worker]:
    """A worker, for as long as it is needed."""
    worker = Worker(job)
    try:
        yield worker
    except BaseException:
        worker.stop(0.3)
        raise
    worker.stop(5)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes started meanwhile hear no interrupt: their parent does, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class Subject:
    """A row in the making."""

    row: SpeedRow
    job: Job
    dynamic: str = "none"
    times: list[float] = field(default_factory=list)

    @property
    def call(self) -> tuple[Size, int]:
        """What its worker knows it by: size and batch."""
        return (self.row.height, self.row.width), self.row.batch

    def ask(self, worker: Worker, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns; None if the row has failed before, or does now."""
        if self.row.error:
            return None
        try:
            return worker.ask(method, *arguments)
        except Failed as why:
            self.row = replace(self.row, error=str(why))

    def finished(self, rate: float, train: bool) -> SpeedRow:
        """The row with what its times come to, on a machine that multiplies at `rate` GFLOP/s."""
        if self.row.error:
            return self.row
        (p25, p50, p75), p95 = quartiles(self.times), float(np.percentile(self.times, 95))
        macs, batch = self.row.macs, self.row.batch
        share = None if macs is None else (6 if train else 2) * macs * batch / (p50 * 1e6) / rate
        timed = replace(self.row, p25=p25, p50=p50, p75=p75, p95=p95)
        return replace(timed, images_per_second=1e3 * batch / p50, share=share)


def measure_speed(plan: Plan) -> BenchResult:
    """Measure what a plan says; a pair of model and runtime that fails has a row that says why.

    Raises `BadOption` for what cannot be meant, `UnknownModel`, `BadRun`, and `MissingExtra` before any work starts. A
    script that calls it needs `if __name__ == "__main__":`, as all do that start processes.
    """
    device, sources = check(plan)
    with TemporaryDirectory() as name, ExitStack() as workers:
        base = Job(
            LIMITS, "", LIMITS, str(device), plan.precision, plan.threads, plan.train, Path(name), trust=plan.trust
        )
        subjects = list(subjects_of(plan, sources, base))
        limits = workers.enter_context(working(base))
        jobs = dict.fromkeys(one.job for one in subjects)
        running = {job: workers.enter_context(working(job)) for job in jobs}  # they load torch meanwhile
        for worker in running.values():
            workers.callback(worker.pipe.close)  # before any is waited for: all end at once
        write_files(subjects, base)
        threads, card = limits.ask("about")
        with bar("loading", len(subjects)) as advance:
            for one in subjects:
                found = one.ask(running[one.job], "open", *one.call, one.dynamic)
                one.row = noted(replace(one.row, **(found or {})))
                advance(note=f"{one.row.model} {one.row.runtime}")
        rates = list(rounds(plan.repeats, subjects, running, limits))
        layers = []
        for one in subjects if plan.per_layer else ():
            if times := one.ask(running[one.job], "layers", *one.call, plan.repeats):
                total = sum(time.milliseconds for time in times)
                layers.append(LayerTable(one.row.model, one.row.batch, *one.call[0], total, tuple(times[:TOP])))
    products, copies = (quartiles(column) for column in zip(*rates, strict=True))
    date = datetime.now().astimezone().isoformat(timespec="minutes")
    machine = Machine(cpu_name(), card, threads, torch.__version__, date, plan.precision, products, copies)
    rows = tuple(one.finished(products[1], plan.train) for one in subjects)
    return BenchResult(rows, machine, plan.train, plan.repeats, tuple(layers))


def rounds(
    repeats: int, subjects: Sequence[Subject], running: dict[Job, Worker], limits: Worker
) -> Iterator[tuple[float, float]]:
    """Measure all in turn, round after round; yields the machine's limits of each."""
    alive = [one for one in subjects if not one.row.error]
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
    """The lower one, the median, and the upper one."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def subjects_of(plan: Plan, sources: Sequence[Source], base: Job) -> Iterator[Subject]:
    """Every combination once; batches ascend, as the workers want them. `base` is what their jobs have in common."""
    with bar("counting", sum(len(source.sizes) for source in sources)) as advance:
        for number, source in enumerate(sources):
            costs = {}
            for size in source.sizes:
                costs[size] = source.cost(size)
                advance()
            top1 = source.card.metrics.get("top1") if source.card else None
            for runtime in source.runtimes:
                dynamic = "none"
                if source.kind != "file" and runtime not in TORCH:
                    task = source.card or Card("classification", "", (), preprocessing_of(source.model))
                    dynamic = choose_form(find_target(runtime.removesuffix("-int8")), task.task, task.head).dynamic
                of_source = replace(base, model=source.model, kind=source.kind)
                folder = base.folder / f"{number}-{runtime}"
                job = replace(of_source, runtime=runtime, dynamic=dynamic, folder=folder)
                for (height, width), (params, macs) in costs.items():
                    for batch in sorted(set(plan.batches)):
                        row = SpeedRow(source.model, runtime, batch, height, width, params, macs, params * 4e-6)
                        yield Subject(replace(row, top1=top1), job)


def write_files(subjects: Sequence[Subject], base: Job) -> None:
    """Make the files that runtimes need, in a process that then ends; one that dies of it is followed by another."""
    made = [one for one in subjects if one.job.kind != "file" and one.row.runtime not in TORCH]
    answers: dict[tuple[Job, Size], tuple[str, str] | str] = {}
    with bar("exporting", len(made)) as advance, ExitStack() as workers:
        writer = None
        for one in made:
            what = one.job, one.call[0]
            if what not in answers:
                if writer is None or not writer.process.is_alive():
                    writer = workers.enter_context(working(replace(base, runtime=WRITING)))
                answers[what] = one.ask(writer, "write", *what) or one.row.error
            answer = answers[what]
            if isinstance(answer, str):
                one.row = replace(one.row, error=answer)
            else:
                one.dynamic, note = answer
                one.row = replace(one.row, note=note)
            advance(note=f"{one.row.model} {one.row.runtime}")


def noted(row: SpeedRow) -> SpeedRow:
    """The row with a note where its file is not what eager is; of int8 that is expected."""
    if row.differs is None or row.differs <= BOUND or row.runtime.endswith("-int8"):
        return row
    return replace(row, note="; ".join(filter(None, (row.note, f"differs from eager by more than {BOUND:g}"))))


def check(plan: Plan) -> tuple[torch.device, list[Source]]:
    """The device and the models of a plan. Raises for what is wrong with it."""
    if not plan.models:
        raise BadOption("measure what? Give names of models, run folders or exported files: featherbone bench lvt")
    for name in plan.runtimes or ("",):
        if name not in CHOICES:
            raise BadOption(f"no runtime {name!r}{did_you_mean(name, CHOICES)}; there is {', '.join(CHOICES)}")
    for what, numbers, least in (
        ("batch size", plan.batches or (0,), 1),
        ("image size", plan.sides, 32),
        ("repeats", (plan.repeats,), 1),
        ("threads", () if plan.threads is None else (plan.threads,), 1),
    ):
        if min(numbers, default=least) < least:
            raise BadOption(f"{what} {min(numbers)} is not {least} or more")
    if plan.per_layer and plan.train:
        raise BadOption("per-layer tells of the forward pass; leave train out, or measure it by itself")
    sources = [source_of(model, plan) for model in dict.fromkeys(plan.models)]
    files = [source.model for source in sources if source.kind == "file"]
    foreign = [*(name for name in plan.runtimes if name not in TORCH), *files]
    compiled = [name for name in plan.runtimes if name == "compiled"]
    for option, given, wrong in (
        ("train", plan.train, foreign),
        ("precision bf16", plan.precision == "bf16", foreign),
        ("per-layer", plan.per_layer, [*foreign, *compiled]),
    ):
        if given and wrong:
            allowed = "eager" if option == "per-layer" else "eager and compiled"
            raise BadOption(f"{option} is for {allowed} alone; leave it or {wrong[0]} out")
    if plan.device not in ("auto", "cpu") and plan.device.partition(":")[0] != "cuda":
        raise BadOption(f"device {plan.device!r} is not measured; give auto, cpu or cuda")
    on_cpu = plan.device == "auto" and (foreign or not torch.cuda.is_available())
    device = find_device("cpu" if on_cpu else "cuda" if plan.device == "auto" else plan.device)
    if device.type == "cuda" and foreign:
        raise BadOption(f"exported files are measured on the CPU; leave {foreign[0]} out, or give --device cpu")
    for name in {runtime for source in sources for runtime in source.runtimes} - set(TORCH):
        target = name.removesuffix("-int8")
        require(TARGETS[target].run_packages, TARGETS[target].extra)
        if name in plan.runtimes:
            require(TARGETS[target].packages, TARGETS[target].extra)
    return device, sources


def source_of(model: str, plan: Plan) -> Source:
    """A model by name, run folder, exported file or its folder. Raises `UnknownModel` and `BadRun`."""
    squares = tuple((side, side) for side in dict.fromkeys(plan.sides))
    path, names = Path(model), tuple(dict.fromkeys(plan.runtimes))
    if (path / CARD).is_file():
        kind, card = "run", Card.read(path)
    elif path.is_file() or (path / MANIFEST).is_file():
        file, manifest = read_manifest(path)
        require_trust(file, manifest.target, plan.trust)
        kind, card = "file", manifest.card
        names = (manifest.target if manifest.precision == "fp32" else f"{manifest.target}-{manifest.precision}",)
    else:
        require_model(model)
        p = preprocessing_of(model)
        return Source(model, "name", names, squares or ((p.height, p.width),))
    own = card.preprocessing
    return Source(model, kind, names, squares or ((own.height, own.width),), card)


def cpu_name() -> str:
    """Of this machine."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
