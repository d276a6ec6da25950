"""Results that the script of `device_folder` measured on other devices, beside those of this machine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featherbone.benchmarking.device_script import FORMAT
from featherbone.benchmarking.table import BenchResult, Device, SpeedRow
from featherbone.errors import BadOption
from featherbone.files import read_json

REMEDY = "give the results.json that bench.py wrote in a folder of featherbone bench MODEL --to FOLDER"


@dataclass(frozen=True)
class DeviceResult:
    """The content of a file of results."""

    format: str
    complete: bool
    device: Device
    rows: tuple[SpeedRow, ...]


def read_results(paths: Sequence[Path]) -> list[DeviceResult]:
    """The results in files, whose devices have distinct names. Raises `BadOption` for a file that holds none."""
    found: list[DeviceResult] = []
    for path in dict.fromkeys(paths):
        result = read_json(path, str(path), DeviceResult, BadOption, REMEDY)
        if result.format != FORMAT:
            raise BadOption(f"{path}: format {result.format[:80]!r}, this version reads {FORMAT!r}; {REMEDY}")
        device = replace(result.device, complete=result.complete)
        if device.name in {other.device.name for other in found}:
            device = replace(device, name=f"{device.name} ({path})")
        found.append(replace(result, device=device))
    return found


def merge(measured: BenchResult | None, results: Sequence[DeviceResult]) -> BenchResult:
    """One result with the rows measured here, if there are any, and those of other devices, which name the device."""
    rows = [replace(row, device=result.device.name) for result in results for row in result.rows]
    devices = tuple(result.device for result in results)
    if measured is None:
        return BenchResult(tuple(rows), None, train=False, repeats=0, devices=devices)
    here = "this machine" if results else ""
    rows = [*(replace(row, device=here) for row in measured.rows), *rows]
    return replace(measured, rows=tuple(rows), devices=devices)
