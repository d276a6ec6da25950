"""A task as an int8 file, with as many layers in float as its metric needs."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from featherbone.errors import BadOption, FeatherboneError
from featherbone.exporters.artifact import Artifact, Form, raw_difference
from featherbone.exporters.contract import finish, own_files
from featherbone.exporters.exported import ExportedTask
from featherbone.exporters.manifest import MANIFEST, describe
from featherbone.exporters.sensitivity import Point, Sensitivity, plan, rank_layers, search, spread_batch
from featherbone.exporters.targets import TARGETS
from featherbone.exporters.targets.target import Target, require
from featherbone.files import atomic_folder, write_json
from featherbone.progress import notify, track
from featherbone.report import render
from featherbone.tasks.card import Card

REPORT, PAGE = "int8.json", "int8.html"
SECONDS = 4.0
"""Time for measuring latencies."""


class Int8Drops(FeatherboneError):
    """No int8 file keeps the metric."""

    exit_code = 1


@dataclass(frozen=True)
class Int8Result:
    """An int8 file, the candidates it was chosen from, and the float file it is compared with."""

    out: Path
    path: Path
    target: str
    metric: str
    """Name of the metric on the validation images."""
    max_drop: float
    calibration: int
    """Number of images for the ranges of activations."""
    ranking: tuple[Sensitivity, ...]
    """Layers, most sensitive first."""
    before: Point
    """The float file."""
    points: tuple[Point, ...]
    """Candidates in the order in which they were tried."""
    kept: Point

    @property
    def floats(self) -> tuple[str, ...]:
        """Layers that the file computes in float."""
        return tuple(each.layer for each in self.ranking[: self.kept.floats])

    def drop(self, point: Point) -> float | None:
        """Drop of a point's metric from the float file's."""
        return None if point.metric is None or self.before.metric is None else self.before.metric - point.metric

    def to_json(self) -> dict[str, Any]:
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

    `calibration` are normalised images (N, 3, H, W); `evaluate` returns the value of `metric` for a task, here for
    files in their runtimes, on the validation images. `featherbone.json` is beside the file, and `int8.json` and
    `int8.html` with the curve of size, latency and metric. If no file is good enough, nothing is written and
    `Int8Drops` is raised.
    """
    target = form.target
    check(target, calibration, max_drop)
    own = own_files(out)
    ranking = rank_layers(task.cpu().eval(), calibration)
    with TemporaryDirectory() as name:
        candidates = Candidates(card, task, form, Path(name), calibration)
        ranking = [each for each in ranking if each.layer in candidates.quantizer.layers]
        if not ranking:
            raise BadOption(f"{card.backbone}: no layer of it can be int8 for {target.name}; export it in float")
        reference = float(evaluate(candidates.task("float")))
        before = replace(candidates.point("float", 0), metric=reference)
        notify(f"float: {metric} {reference:.4f}, {before.bytes / 1e6:.1f} MB", "int8")

        def make(floats: int) -> Point:
            notify(f"writing {target.name} in int8, {floats} layers in float", "export")
            path = candidates.artifact.path(candidates.folder(str(floats)))
            candidates.quantizer.write(path, {each.layer for each in ranking[floats:]})
            return candidates.point(str(floats), floats)

        def measure(point: Point) -> Point:
            point = replace(point, metric=float(evaluate(candidates.task(str(point.floats)))))
            notify(f"{point.floats} of {len(ranking)} layers in float: {metric} {point.metric:.4f}", "int8")
            return point

        minimum = reference - max_drop
        points = search(make, measure, minimum, plan(ranking))
        if not any(point.keeps(minimum) for point in points):
            tried = "; ".join(
                f"{point.metric:.4f} with {point.floats} of {len(ranking)} layers in float"
                for point in points
                if point.metric is not None
            )
            raise Int8Drops(
                f"no int8 file for {target.name} keeps {metric} within {max_drop:g} of the float file's "
                f"{reference:.4f}: {tried}; allow a larger --max-drop, calibrate with more images, or export in float"
            )
        before, *points = candidates.time([before, *points])
        result = Int8Result(
            out=out,
            path=out / target.file,
            target=target.name,
            metric=metric,
            max_drop=max_drop,
            calibration=len(calibration),
            ranking=tuple(ranking),
            before=before,
            points=tuple(points),
            kept=min((point for point in points if point.keeps(minimum)), key=lambda point: point.floats),
        )
        with atomic_folder(out, own, MANIFEST) as folder:
            for part in (target.file, *target.companions):
                shutil.copyfile(candidates.folder(str(result.kept.floats)) / part, folder / part)
            write_json(folder / REPORT, result.to_json())
            write_int8_page(folder / PAGE, card, result)
            finish(folder, target, replace(candidates.manifest, precision="int8"))
    return result


def check(target: Target, calibration: Tensor, max_drop: float) -> None:
    """Raise `BadOption` for what cannot be int8, and `MissingExtra` without the tools."""
    if target.quantizer is None:
        able = " or ".join(name for name, other in TARGETS.items() if other.quantizer is not None)
        raise BadOption(f"int8 is not available for {target.name}; export to {able}, or without int8")
    if not 0 <= max_drop <= 1:
        raise BadOption(f"max-drop {max_drop} is not from 0 to 1; 0.01 is one point")
    if not len(calibration):
        raise BadOption("no image to calibrate with; give 1 or more, better some hundreds")
    require(target.int8_packages, target.extra)


class Candidates:
    """The files of a search, each in a folder: where they are written, compared and timed."""

    def __init__(self, card: Card, task: Any, form: Form, work: Path, calibration: Tensor) -> None:
        self.work = work
        self.artifact = Artifact.of(task, form, calibration, card.preprocessing)
        self.manifest = describe(card, task, form, self.artifact.names)
        self.images = spread_batch(calibration)
        self.expected = self.artifact.expected(self.images)
        notify(f"writing {form.target.name} in float", "export")
        self.quantizer = self.artifact.quantizer(self.folder("float"), calibration)

    def folder(self, name: str) -> Path:
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        return folder

    def task(self, name: str) -> ExportedTask:
        return ExportedTask(self.manifest, self.artifact.open(self.folder(name))).eval()

    def point(self, name: str, floats: int) -> Point:
        folder = self.folder(name)
        error = raw_difference(self.expected, self.artifact.outputs(folder, self.images)).error
        return Point(floats, self.artifact.form.target.size(folder), error)

    def time(self, points: list[Point]) -> list[Point]:
        """The points, the float file's first, with latencies of runs that took turns."""
        runs = [self.artifact.open(self.folder(name)) for name in ("float", *(str(p.floats) for p in points[1:]))]
        image = self.artifact.input(self.images[:1])
        start = perf_counter()
        for run in runs:
            run(image)
        rounds = max(min(int(SECONDS / (perf_counter() - start)), 50), 5)
        times: list[list[float]] = [[] for _ in runs]
        for _ in track(range(rounds), "timing", rounds):
            for took, run in zip(times, runs, strict=True):
                start = perf_counter()
                run(image)
                took.append(1e3 * (perf_counter() - start))
        return [replace(point, latency=median(took)) for point, took in zip(points, times, strict=True)]


def write_int8_page(path: Path, card: Card, result: Any) -> None:
    """Write the page of an `Int8Result`: the curve of size, latency and metric, and the layers by sensitivity."""
    points = sorted(result.points, key=lambda point: point.floats)
    render("int8.html", path, card=card, result=result, points=points, curve=draw_curve(points, result))


def draw_curve(points: Sequence[Point], result: Any) -> Figure:
    """Size, latency and metric by the number of float layers; dashed is the float file, dotted the lowest allowed."""
    before = result.before
    rows: dict[str, tuple[list[Any], Any]] = {
        "size, MB": ([point.bytes / 1e6 for point in points], before.bytes / 1e6),
        "latency, ms": ([point.latency for point in points], before.latency),
        result.metric: ([point.metric for point in points], before.metric),
    }
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axis, (name, (values, of_float)) in zip(figure.subplots(1, 3), rows.items(), strict=True):
        known = [(point.floats, value) for point, value in zip(points, values, strict=True) if value is not None]
        axis.plot(*zip(*known, strict=True), marker="o", color="#4c6fff")
        axis.axhline(of_float, color="#889", linestyle="--", linewidth=1)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("float layers", fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.axhline(before.metric - result.max_drop, color="#c33", linestyle=":", linewidth=1)
    return figure
