"""A task as a file that computes in int8, with as many layers in float as its metric needs."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadOption, FeatherboneError
from featherbone.exporters.contract import Form, finish, own_files
from featherbone.exporters.int8.page import write_int8_page
from featherbone.exporters.int8.search import Point, fits, plan, search
from featherbone.exporters.int8.sensitivity import Sensitivity, rank_layers, raw_error, spread_batch
from featherbone.files import atomic_folder, write_json
from featherbone.progress import say, track
from featherbone.runtimes import Run, open_file, require
from featherbone.tasks.card import Card
from featherbone.tasks.exported import ExportedTask
from featherbone.tasks.forms import Picking, to_bytes
from featherbone.tasks.manifest import MANIFEST, Manifest, describe
from featherbone.tasks.raw import flatten

PACKAGES = {"onnx": ("onnxruntime",), "openvino": ("nncf",), "executorch": ("torchao",)}
"""By the targets that can be int8: what they need beside what the float file needs."""
REPORT, PAGE = "int8.json", "int8.html"
SECONDS = 4.0
"""For which latencies are measured."""


class Int8Drops(FeatherboneError):
    """No int8 file is good enough."""

    exit_code = 1


@dataclass(frozen=True)
class Int8Result:
    """An int8 file, what it was chosen from, and the float file it is compared with."""

    out: Path
    path: Path
    target: str
    metric: str
    """Name of what was measured on the validation images."""
    max_drop: float
    calibration: int
    """Images that ranges were taken from."""
    ranking: tuple[Sensitivity, ...]
    """Layers, the most sensitive first."""
    before: Point
    """The float file."""
    points: tuple[Point, ...]
    """What was tried, in order."""
    kept: Point

    @property
    def floats(self) -> tuple[str, ...]:
        """Layers that the file computes in float."""
        return tuple(each.layer for each in self.ranking[: self.kept.floats])

    def drop(self, point: Point) -> float | None:
        """Of a point's metric from the float file's."""
        return None if point.metric is None or self.before.metric is None else self.before.metric - point.metric

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `int8.json`."""
        points = [{**asdict(point), "drop": self.drop(point), "kept": point == self.kept} for point in self.points]
        return {
            **{"file": self.path.name, "target": self.target, "metric": self.metric, "max_drop": self.max_drop},
            "calibration": self.calibration,
            "float": asdict(self.before),
            "points": points,
            "floats": list(self.floats),
            "ranking": [asdict(each) for each in self.ranking],
        }

    def __str__(self) -> str:
        before, kept = self.before, self.kept
        return (
            f"{self.path}  {kept.bytes / 1e6:.1f} MB (float {before.bytes / 1e6:.1f} MB)\n"
            f"{self.metric} {kept.metric:.4f} (float {before.metric:.4f}, drop allowed {self.max_drop:g}), "
            f"{kept.floats} of {len(self.ranking)} layers in float\n"
            f"latency {kept.latency:.1f} ms (float {before.latency:.1f} ms)\nreport  {self.out / PAGE}"
        )


def export_int8(
    card: Card,
    task: Any,
    form: Form,
    out: Path,
    calibration: Tensor,
    evaluate: Callable[[Any], float],
    max_drop: float = 0.01,
    metric: str = "metric",
) -> Int8Result:
    """Write the model in the folder `out` as an int8 file whose metric is at most `max_drop` below the float file's.

    `calibration` are normalised images (N, 3, H, W); `evaluate` measures a task, here files in their own runtimes, on
    the validation images, and `metric` is what it calls that. Beside the file lie `featherbone.json`, and `int8.json`
    and `int8.html` with the curve of size, latency and metric. Raises `Int8Drops` where no file is good enough; then
    nothing is left behind.
    """
    check(form, calibration, max_drop)
    own = own_files(out)
    ranking = rank_layers(task.cpu().eval(), calibration)
    with TemporaryDirectory() as name:
        bench = _Bench(card, task, form, Path(name), calibration)
        ranking = [each for each in ranking if each.layer in bench.source.layers]
        if not ranking:
            raise BadOption(f"{card.backbone}: no layer of it can be int8 for {form.target.name}; export it in float")
        before = replace(bench.point("float", 0), metric=bench.measure("float", evaluate))
        assert before.metric is not None, "it was just measured"
        say(f"float: {metric} {before.metric:.4f}, {before.bytes / 1e6:.1f} MB", "int8")

        def make(floats: int) -> Point:
            bench.write(floats, {each.layer for each in ranking[floats:]})
            return bench.point(str(floats), floats)

        def measure(point: Point) -> Point:
            point = replace(point, metric=bench.measure(str(point.floats), evaluate))
            say(f"{point.floats} of {len(ranking)} layers in float: {metric} {point.metric:.4f}", "int8")
            return point

        worst = before.metric - max_drop
        points = search(make, measure, worst, plan(ranking))
        if not any(fits(point, worst) for point in points):
            raise Int8Drops(refusal(form, metric, max_drop, before, points, len(ranking)))
        before, *points = bench.time([before, *points])
        kept = min((point for point in points if fits(point, worst)), key=lambda point: point.floats)
        path = out / form.target.file
        about = (form.target.name, metric, max_drop, len(calibration), tuple(ranking), before, tuple(points), kept)
        result = Int8Result(out, path, *about)
        with atomic_folder(out, own, MANIFEST) as folder:
            bench.ship(kept, folder)
            write_json(folder / REPORT, result.to_json())
            write_int8_page(folder / PAGE, card, result)
            finish(folder, replace(bench.manifest, precision="int8"))
    return result


def check(form: Form, calibration: Tensor, max_drop: float) -> None:
    """Raise `BadOption` for what cannot be int8, and `MissingExtra` without the tools."""
    target = form.target
    if target.name not in PACKAGES:
        raise BadOption(f"int8 is not for {target.name}; export to {' or '.join(PACKAGES)}, or without int8")
    if not 0 <= max_drop <= 1:
        raise BadOption(f"max-drop {max_drop} is not from 0 to 1; 0.01 is one point")
    if not len(calibration):
        raise BadOption("no image to calibrate with; give 1 or more, better some hundreds")
    require(PACKAGES[target.name], target.extra)


def refusal(form: Form, metric: str, max_drop: float, before: Point, points: list[Point], layers: int) -> str:
    """Why there is no file."""
    tried = "; ".join(
        f"{point.metric:.4f} with {point.floats} of {layers} layers in float"
        for point in points
        if point.metric is not None
    )
    return (
        f"no int8 file for {form.target.name} keeps {metric} within {max_drop:g} of the float file's "
        f"{before.metric:.4f}: {tried}; allow a larger --max-drop, calibrate with more images, or export in float"
    )


class _Bench:
    """The files of a search: where they are made, opened, measured and timed."""

    def __init__(self, card: Card, task: Any, form: Form, work: Path, calibration: Tensor) -> None:
        self.card, self.form, self.work = card, form, work
        net, example = form.network(card, task), form.example(card, calibration)
        names = net.names(example)
        taken = to_bytes(calibration, card.preprocessing) if form.with_pre else calibration
        self.inputs = [part.contiguous() for part in taken.split(1)]
        self.few = spread_batch(calibration)
        with torch.inference_mode():
            self.expected = flatten((Picking(task) if form.with_nms else task)(self.few))
        about = {"dynamic": form.dynamic, "with_pre": form.with_pre, "with_nms": form.with_nms}
        self.manifest: Manifest = describe(card, task, form.target.name, form.target.file, tuple(names), **about)
        say(f"writing {form.target.name} in float", "export")
        module = import_module(f"featherbone.exporters.int8.{form.target.name}")
        self.source = module.Source(net, example, self.file("float"), names, form.dynamic, self.inputs)

    def file(self, name: str) -> Path:
        """Of a candidate."""
        path = self.work / name / self.form.target.file
        path.parent.mkdir(exist_ok=True)
        return path

    def write(self, floats: int, chosen: set[str]) -> None:
        """A candidate with the `chosen` layers in int8."""
        say(f"writing {self.form.target.name} in int8, {floats} layers in float", "export")
        self.source.write(self.file(str(floats)), chosen)

    def open(self, name: str) -> Run:
        """A candidate in its runtime."""
        return open_file(self.file(name), self.form.target.name, trust=True)

    def point(self, name: str, floats: int) -> Point:
        """Size and raw error of a candidate."""
        with torch.inference_mode():
            got = flatten(ExportedTask(self.manifest, self.open(name))(self.few))
        path = self.file(name)
        weights = path.with_suffix(".bin")
        size = path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)
        return Point(floats, size, raw_error(self.expected, got))

    def measure(self, name: str, evaluate: Callable[[Any], float]) -> float:
        """The metric of a candidate."""
        return float(evaluate(ExportedTask(self.manifest, self.open(name)).eval()))

    def time(self, points: list[Point]) -> list[Point]:
        """The points, the float file's first, with latencies of runs that took turns."""
        runs = [self.open("float"), *(self.open(str(point.floats)) for point in points[1:])]
        image = self.inputs[0]
        start = perf_counter()
        for run in runs:
            run(image)
        rounds = max(min(int(SECONDS / (perf_counter() - start)), 50), 5)
        took: list[list[float]] = [[] for _ in runs]
        for _ in track(range(rounds), "timing", rounds):
            for times, run in zip(took, runs, strict=True):
                start = perf_counter()
                run(image)
                times.append(1e3 * (perf_counter() - start))
        return [replace(point, latency=median(times)) for point, times in zip(points, took, strict=True)]

    def ship(self, point: Point, folder: Path) -> None:
        """The file of a point into `folder`, and the weights that lie beside it."""
        path = self.file(str(point.floats))
        for part in (path, path.with_suffix(".bin")):
            if part.is_file():
                shutil.copyfile(part, folder / part.name)
