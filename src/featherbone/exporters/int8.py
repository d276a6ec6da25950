"""A task as an int8 file that keeps its metric."""

import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from torch import Tensor

from featherbone.data.sampling import spread
from featherbone.errors import BadOption, FeatherboneError
from featherbone.exporters.artifact import Artifact, Form, raw_difference
from featherbone.exporters.contract import finish, own_files
from featherbone.exporters.exported import ExportedTask
from featherbone.exporters.manifest import MANIFEST, describe
from featherbone.exporters.targets import TARGETS
from featherbone.exporters.targets.target import Run, Target, require
from featherbone.files import atomic_folder, write_json
from featherbone.progress import notify, track
from featherbone.tasks.card import Card

REPORT = "int8.json"
NUM_RANKING = 8
"""Number of images on which layers are ranked."""
SECONDS = 4.0
"""Time for measuring latencies."""


class Int8Drops(FeatherboneError):
    """No int8 file keeps the metric."""

    exit_code = 1


@dataclass(frozen=True)
class FileFigures:
    """A file's measurements."""

    metric: float
    """Metric on the validation images."""
    bytes: int
    latency: float
    """Milliseconds for one image, median of runs that took turns with the other file's."""


@dataclass(frozen=True)
class Int8Result:
    """An int8 file, and the float file it is compared with."""

    path: Path
    target: str
    metric: str
    """Name of the metric."""
    max_drop: float
    calibration: int
    """Number of images that determined the ranges of activations."""
    floats: int
    """Number of layers in float."""
    before: FileFigures
    """The float file."""
    after: FileFigures

    def to_json(self) -> dict[str, Any]:
        return {
            **{"file": self.path.name, "target": self.target, "metric": self.metric, "max_drop": self.max_drop},
            **{"calibration": self.calibration, "floats": self.floats},
            "float": asdict(self.before),
            "int8": asdict(self.after),
        }

    def __str__(self) -> str:
        before, after = self.before, self.after
        return (
            f"{self.path}  {after.bytes / 1e6:.1f} MB (float {before.bytes / 1e6:.1f} MB)\n"
            f"{self.metric} {after.metric:.4f} (float {before.metric:.4f}, drop allowed {self.max_drop:g}), "
            f"layers in float: {self.floats}\n"
            f"latency {after.latency:.1f} ms (float {before.latency:.1f} ms)"
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
    files in their runtimes, on the validation images. `featherbone.json` and `int8.json` are beside the file. If the
    metric drops further, or the file is not smaller, nothing is written and `Int8Drops` is raised.
    """
    target = form.target
    check(target, calibration, max_drop)
    own = own_files(out)
    artifact = Artifact.of(task.cpu().eval(), form, calibration, card.preprocessing)
    manifest = describe(card, task, form, artifact.names)

    def measure(folder: Path, kind: str) -> float:
        value = float(evaluate(ExportedTask(manifest, artifact.open(folder)).eval()))
        notify(f"{kind}: {metric} {value:.4f}", "int8")
        return value

    with TemporaryDirectory() as name:
        source = Path(name) / "float"
        source.mkdir()
        notify(f"writing {target.name} in float", "export")
        artifact.write(source)
        reference = measure(source, "float")
        minimum = reference - max_drop - 1e-9
        made, floats, after = quantize(artifact, source, calibration, measure, minimum)
        sizes = [target.size(folder) for folder in (source, made)]
        if not after >= minimum or sizes[1] >= sizes[0]:  # the metric may be nan
            raise Int8Drops(
                f"the int8 file for {target.name} has {metric} {after:.4f} and {sizes[1] / 1e6:.1f} MB, the float file "
                f"{reference:.4f} and {sizes[0] / 1e6:.1f} MB; it must be smaller, with a drop of at most "
                f"{max_drop:g}: allow a larger --max-drop, calibrate with more images, or export in float"
            )
        times = latencies([artifact.open(folder) for folder in (source, made)], artifact.input(calibration[:1]))
        result = Int8Result(
            path=out / target.file,
            target=target.name,
            metric=metric,
            max_drop=max_drop,
            calibration=len(calibration),
            floats=floats,
            before=FileFigures(reference, sizes[0], times[0]),
            after=FileFigures(after, sizes[1], times[1]),
        )
        with atomic_folder(out, own, MANIFEST) as folder:
            for part in (target.file, *target.companions):
                shutil.copyfile(made / part, folder / part)
            write_json(folder / REPORT, result.to_json())
            finish(folder, target, replace(manifest, precision="int8"))
    return result


def quantize(
    artifact: Artifact, source: Path, images: Tensor, measure: Callable[[Path, str], float], minimum: float
) -> tuple[Path, int, float]:
    """Write int8 files beside `source`, the float file's folder, until a metric is at least `minimum`.

    First all layers are int8. Then 1, 2, 4, ... layers stay in float, those first that cause the largest error of the
    raw tensors when only they are int8. Returns folder, number of float layers and metric of the last file.
    """
    target = artifact.form.target

    def write(name: str, images: Tensor, floats: Collection[str] = ()) -> Path:
        folder = source.with_name(name)  # a new one each time: OpenVINO reads from the files of open networks
        folder.mkdir()
        artifact.quantize(source, folder, images, floats)
        return folder

    notify(f"writing {target.name} in int8", "export")
    folder = write("int8", images)
    metric = measure(folder, "all layers in int8")
    layers = [] if metric >= minimum else target.layers(artifact.path(source))
    if len(layers) < 2:
        return folder, 0, metric
    few = images[spread(len(images), NUM_RANKING)]
    expected = artifact.outputs(source, few)
    errors: dict[str, float] = {}
    for layer in track(layers, "ranking layers", len(layers)):
        folder = write("ranking", few, [other for other in layers if other != layer])
        errors[layer] = raw_difference(expected, artifact.outputs(folder, few)).error
        shutil.rmtree(folder)
    ranking = sorted(layers, key=lambda layer: -errors[layer])
    count = 1
    while True:
        folder = write(f"int8-{count}", images, ranking[:count])
        metric = measure(folder, f"{count} of {len(layers)} layers in float")
        if metric >= minimum or 2 * count >= len(layers):
            return folder, count, metric
        count *= 2


def check(target: Target, calibration: Tensor, max_drop: float) -> None:
    """Raise `BadOption` for what cannot be int8, and `MissingExtra` without the tools."""
    if not target.int8_packages:
        able = " or ".join(name for name, other in TARGETS.items() if other.int8_packages)
        raise BadOption(f"int8 is not available for {target.name}; export to {able}, or without int8")
    if not 0 <= max_drop <= 1:
        raise BadOption(f"max-drop {max_drop} is not from 0 to 1; 0.01 is one point")
    if not len(calibration):
        raise BadOption("no image to calibrate with; give a folder of readable ones with --images")
    require(target.int8_packages, target.extra)


def latencies(runs: list[Run], image: Tensor) -> list[float]:
    """Milliseconds of each run for one image, medians of calls that took turns."""
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
    return [median(took) for took in times]
