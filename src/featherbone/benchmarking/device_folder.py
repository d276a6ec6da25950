"""A folder with models and a script that measures them on a device, which needs only NumPy and a runtime.

`device_script.py` is the script, in which the targets' functions that open files are inserted. `models.json` beside it
lists the models; each has a folder with its file, random images as the file takes them, and the expected outputs.
"""

import inspect
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from featherbone.benchmarking import device_script
from featherbone.benchmarking.speed import Measurement, check, list_runtimes, measurements_of, write_files
from featherbone.benchmarking.table import SpeedRow
from featherbone.benchmarking.worker import EXPECTED, FP16, INT8, TORCH, Job, Plan, sample, target_of
from featherbone.errors import BadOption
from featherbone.exporters.artifact import compared_names, run_batch
from featherbone.exporters.exported import open_task
from featherbone.exporters.targets import TARGETS
from featherbone.files import atomic_folder, check_new_folder, write_json, write_text

EXAMPLES = 4
"""Minimum number of images with expected outputs."""
SCRIPT = "bench.py"
EMPTY = "RUNNERS: dict[str, Callable[[str, int], Any]] = {}  # by runtime: opens a file as a function of arrays\n"
"""The line of the script that is replaced."""


@dataclass(frozen=True)
class DeviceFolder:
    """A folder to copy to a device."""

    out: Path
    rows: tuple[SpeedRow, ...]
    """Its models, without times; those with an error are not in the folder."""

    def to_json(self) -> dict[str, Any]:
        rows = [{"model": row.model, "runtime": row.runtime, "error": row.error} for row in self.rows]
        return {"out": str(self.out), "rows": rows}

    def __str__(self) -> str:
        lines = [f"{row.title}: {row.error or f'{row.file_mb:.1f} MB'}" for row in self.rows]
        return "\n".join([*lines, "", readme(self.rows), f"folder  {self.out}"])


def write_device_folder(plan: Plan, out: Path) -> DeviceFolder:
    """Write the models of a plan, a script that measures them on a device, and `README.txt` to the folder `out`.

    A model that cannot be exported has a row with the reason. Raises the errors of `measure_speed`, and `BadOption` for
    a runtime whose files run only here, and where no model can be exported.
    """
    check_new_folder(out)
    if plan != Plan(plan.models, plan.runtimes, plan.batches, plan.sides, trust=plan.trust):
        raise BadOption(
            f"{SCRIPT} on the device takes --threads, --repeats and --seconds, and measures forward passes; with --to "
            "omit all options except runtimes, batch-size, image-size and trust"
        )
    device, sources = check(plan)
    for runtime in dict.fromkeys(runtime for source in sources for runtime in source.runtimes):
        if runtime in TORCH or target_of(runtime).opener() is None:
            allowed = ", ".join(name for name in list_runtimes() if name not in TORCH and target_of(name).opener())
            raise BadOption(f"{runtime} has no function for a device; for a folder give runtimes among {allowed}")
    num_images = max(EXAMPLES, *plan.batches)
    with TemporaryDirectory() as name, atomic_folder(out) as folder:
        measurements = list(measurements_of(sources, Job(plan, str(device), folder=Path(name), examples=num_images)))
        write_files(measurements, measurements[0].job)
        files = list(dict.fromkeys((one.job, one.call[0]) for one in measurements))
        cases = []
        for one in measurements:
            if not one.row.error:
                cases.append(write_case(one, folder, files.index((one.job, one.call[0])), num_images))
        if not cases:
            reasons = "; ".join(f"{one.row.title}: {one.row.error}" for one in measurements)
            raise BadOption(f"no model can be exported ({reasons}); choose other models or runtimes")
        rows = tuple(one.row for one in measurements)
        write_json(folder / "models.json", cases)
        write_text(folder / SCRIPT, script(dict.fromkeys(case["target"] for case in cases)))
        write_text(folder / "README.txt", readme(rows))
    return DeviceFolder(out, rows)


def write_case(one: Measurement, out: Path, number: int, num_images: int) -> dict[str, Any]:
    """Write the file, inputs and expected outputs of a row below `out`; returns its entry of `models.json`.

    `number` is that of the file, which rows of other batch sizes have in common.
    """
    job, size = one.job, one.call[0]
    source, images = job.file_folder(size), sample(size, num_images, job.channels)
    if job.kind == "file":
        net = open_task(Path(job.model), job.plan.trust)[1]
        images, one_image = net.input(images), net.manifest.dynamic == "none"
        expected = dict(zip(net.manifest.outputs, run_batch(net.run, images, one_image=True), strict=True))
    else:
        expected, one_image = torch.load(source.with_name(EXPECTED)), one.dynamic == "none"
    one.row = replace(one.row, file_mb=job.target.size(source) / 1e6)
    model = re.sub(r"[^\w.-]+", "-", job.model).strip("-")
    folder = out / f"{number}-{model}-{job.runtime}-{size[0]}x{size[1]}"
    names = [f"expected-{i}.npy" for i in range(len(expected))]
    if not folder.exists():  # by another batch size
        folder.mkdir()
        for name in (job.target.file, *job.target.companions):
            shutil.copyfile(source / name, folder / name)
        np.save(folder / "input.npy", images.numpy())
        for name, value in zip(names, expected.values(), strict=True):
            np.save(folder / name, value.numpy())
    places = list(expected)
    return {
        "row": asdict(one.row),
        "folder": folder.name,
        "file": job.target.file,
        "target": job.target.name,
        "packages": job.target.run_packages,
        "rounded": job.runtime.endswith((INT8, FP16)),
        "one_image": one_image,
        "expected": names,
        "compared": [[places.index(name) for name in group] for group in compared_names(expected).values()],
    }


def script(targets: Iterable[str]) -> str:
    """The script, with the functions of `targets` that open files."""
    openers = {name: TARGETS[name].opener() for name in targets}
    sources = [inspect.getsource(opener) for opener in openers.values() if opener]
    table = ", ".join(f'"{name}": {opener.__name__}' for name, opener in openers.items() if opener)
    before, after = inspect.getsource(device_script).split(EMPTY)
    return before + "\n\n\n".join([*sources, f"RUNNERS = {{{table}}}"]) + after


def readme(rows: Sequence[SpeedRow]) -> str:
    """How to use the folder, in two commands."""
    packages = {package: None for row in rows if not row.error for package in target_of(row.runtime).run_packages}
    return (
        "Copy this folder to the device. There, with Python 3.8 or newer:\n\n"
        f"    pip install numpy {' '.join(packages)}\n"
        f"    python3 {SCRIPT}\n\n"
        "Copy results.json back. A table of it, also beside other results: featherbone bench --merge results.json\n"
    )
