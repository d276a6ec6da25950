"""A task as an int8 file, with as many layers in float as its metric needs."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadOption, FeatherboneError
from featherbone.exporters.artifact import Artifact, Form, raw_difference
from featherbone.exporters.contract import finish, own_files
from featherbone.exporters.exported import ExportedTask
from featherbone.exporters.forms import flatten
from featherbone.exporters.int8.page import write_int8_page
from featherbone.exporters.int8.search import Point, fits, plan, search
from featherbone.exporters.int8.sensitivity import Sensitivity, rank_layers, spread_batch
from featherbone.exporters.manifest import MANIFEST, describe
from featherbone.exporters.targets import TARGETS
from featherbone.exporters.targets.target import require
from featherbone.files import atomic_folder, write_json
from featherbone.progress import notify, track
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

    `calibration` are normalised images (N, 3, H, W); `evaluate` returns the value of `metric` for a task, here for
    files in their runtimes, on the validation images. `featherbone.json` is beside the file, and `int8.json` and
    `int8.html` with the curve of size, latency and metric. If no file is good enough, nothing is written and
    `Int8Drops` is raised.
    """
    check(form, calibration, max_drop)
    own = own_files(out)
    ranking = rank_layers(task.cpu().eval(), calibration)
    with TemporaryDirectory() as name:
        candidates = Candidates(card, task, form, Path(name), calibration)
        ranking = [each for each in ranking if each.layer in candidates.quantizer.layers]
        if not ranking:
            raise BadOption(f"{card.backbone}: no layer of it can be int8 for {form.target.name}; export it in float")
        before = replace(candidates.point(0, "float"), metric=candidates.measure("float", evaluate))
        assert before.metric is not None, "it was just measured"
        notify(f"float: {metric} {before.metric:.4f}, {before.bytes / 1e6:.1f} MB", "int8")

        def make(floats: int) -> Point:
            notify(f"writing {form.target.name} in int8, {floats} layers in float", "export")
            path = candidates.artifact.path(candidates.folder(str(floats)))
            candidates.quantizer.write(path, {each.layer for each in ranking[floats:]})
            return candidates.point(floats, str(floats))

        def measure(point: Point) -> Point:
            point = replace(point, metric=candidates.measure(str(point.floats), evaluate))
            notify(f"{point.floats} of {len(ranking)} layers in float: {metric} {point.metric:.4f}", "int8")
            return point

        minimum = before.metric - max_drop
        points = search(make, measure, minimum, plan(ranking))
        if not any(fits(point, minimum) for point in points):
            raise Int8Drops(refusal(form, metric, max_drop, before, points, len(ranking)))
        before, *points = candidates.time([before, *points])
        kept = min((point for point in points if fits(point, minimum)), key=lambda point: point.floats)
        result = Int8Result(
            out=out,
            path=out / form.target.file,
            target=form.target.name,
            metric=metric,
            max_drop=max_drop,
            calibration=len(calibration),
            ranking=tuple(ranking),
            before=before,
            points=tuple(points),
            kept=kept,
        )
        with atomic_folder(out, own, MANIFEST) as folder:
            for part in (form.target.file, *form.target.companions):
                shutil.copyfile(candidates.folder(str(kept.floats)) / part, folder / part)
            write_json(folder / REPORT, result.to_json())
            write_int8_page(folder / PAGE, card, result)
            finish(folder, form.target, replace(candidates.manifest, precision="int8"))
    return result


def check(form: Form, calibration: Tensor, max_drop: float) -> None:
    """Raise `BadOption` for what cannot be int8, and `MissingExtra` without the tools."""
    target = form.target
    if target.int8_packages is None:
        able = " or ".join(name for name, other in TARGETS.items() if other.int8_packages is not None)
        raise BadOption(f"int8 is not available for {target.name}; export to {able}, or without int8")
    if not 0 <= max_drop <= 1:
        raise BadOption(f"max-drop {max_drop} is not from 0 to 1; 0.01 is one point")
    if not len(calibration):
        raise BadOption("no image to calibrate with; give 1 or more, better some hundreds")
    require(target.int8_packages, target.extra)


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


class Candidates:
    """The files of a search, each in a folder: where they are written, compared, measured and timed."""

    def __init__(self, card: Card, task: Any, form: Form, work: Path, calibration: Tensor) -> None:
        self.work = work
        self.artifact = Artifact.of(task, form, calibration, card.preprocessing)
        self.manifest = describe(card, task, form, self.artifact.names)
        self.images = spread_batch(calibration)
        self.expected = self.artifact.expected(self.images)
        notify(f"writing {form.target.name} in float", "export")
        self.quantizer = self.artifact.quantizer(self.folder("float"), calibration)

    def folder(self, name: str) -> Path:
        """The folder of a candidate."""
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        return folder

    def task(self, name: str) -> ExportedTask:
        """A candidate in its runtime."""
        return ExportedTask(self.manifest, self.artifact.open(self.folder(name))).eval()

    def point(self, floats: int, name: str) -> Point:
        """Size and raw error of a candidate."""
        with torch.inference_mode():
            got = flatten(self.task(name)(self.images))
        size = self.artifact.form.target.size(self.folder(name))
        return Point(floats, size, raw_difference(self.expected, got).error)

    def measure(self, name: str, evaluate: Callable[[Any], float]) -> float:
        """The metric of a candidate."""
        return float(evaluate(self.task(name)))

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
