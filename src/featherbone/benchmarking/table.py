"""The rows of a comparison, and the times of layers, as text and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherbone.benchmarking.models import as_table

TOP = 20
"""Maximum number of layers in a table."""


@dataclass(frozen=True)
class LayerTime:
    """Time of a module without its children, or of all nodes of one type in a file."""

    layer: str
    """Name of the module, empty for the network itself; of a file, the number of nodes of the `kind`."""
    kind: str
    milliseconds: float
    share: float
    """Share of all modules' times."""


@dataclass(frozen=True)
class LayerTable:
    """The slowest layers of one model at one size, slowest first."""

    model: str
    runtime: str
    batch: int
    height: int
    width: int
    milliseconds: float
    """Sum of all layers; timing adds to it, more for small layers."""
    layers: tuple[LayerTime, ...]

    def to_text(self, markdown: bool) -> str:
        rows = [
            (one.layer or "(outside of layers)", one.kind, f"{one.milliseconds:.3f}", f"{one.share:.1%}")
            for one in self.layers
        ]
        where = f"{self.model} in {self.runtime}, {self.height}x{self.width}, batch {self.batch}"
        title = f"{where}: {self.milliseconds:.1f} ms by layer"
        return f"{title}\n\n{as_table([('layer', 'kind', 'ms', 'share'), *rows], markdown)}"


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
    """Multiply-adds of the forward pass of one image."""
    file_mb: float | None = None
    """Size of the exported file, or of the parameters in fp32."""
    p25: float | None = None
    """Lower quartile of the milliseconds for a batch."""
    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p95: float | None = None
    images_per_second: float | None = None
    """At the median."""
    peak_mb: float | None = None
    """Peak memory with weights, above what the process held before the model was loaded."""
    share: float | None = None
    """Share of the machine's matrix-product rate."""
    differs: float | None = None
    """Error of a file made for the comparison, as `RawDifference.error`."""
    top1: float | None = None
    """From the run's card."""
    note: str = ""
    error: str = ""
    """Why it was not measured."""
    device: str = ""
    """Name of the device, if there are several."""

    @property
    def title(self) -> str:
        """What the row is about, in words."""
        return f"{self.model} {self.runtime} {self.height}x{self.width}, batch {self.batch}"

    def cells(self) -> list[str]:

        def show(value: float | None, form: str, scale: float = 1.0) -> str:
            return "" if value is None else form.format(value / scale)

        spread = "" if self.p50 is None else f"{self.p25:.2f} to {self.p75:.2f}"
        return [
            *(self.model, self.runtime, self.device, f"{self.height}x{self.width}", str(self.batch)),
            *(show(self.params, "{:.2f}M", 1e6), show(self.macs, "{:.2f}G", 1e9), show(self.file_mb, "{:.1f}")),
            *(show(self.p50, "{:.2f}"), spread, show(self.p95, "{:.2f}"), show(self.images_per_second, "{:.1f}")),
            *(show(self.peak_mb, "{:.1f}"), show(self.share, "{:.1%}"), show(self.differs, "{:.0e}")),
            " ".join(self.error.split()).replace("|", "/") or self.note,
        ]


TITLES = (
    *("model", "runtime", "device", "input", "batch", "params", "MACs", "MB", "ms", "quartiles", "p95", "images/s"),
    *("peak MB", "of limit", "differs", "note"),
)


@dataclass(frozen=True)
class Machine:
    """The machine of a comparison."""

    cpu: str
    device: str
    """cpu, or the name of the GPU."""
    threads: int
    torch: str
    date: str
    precision: str
    gflops: tuple[float, float, float]
    """Rate of the fastest square matrix product in that precision: lower quartile, median, upper quartile."""
    gbytes: tuple[float, float, float]
    """Rate of a large copy per second, bytes read and written, likewise."""

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
class Device:
    """Another device, as the script of `bench --to` describes it."""

    name: str
    """Of the board or the phone, else of the processor."""
    cpu: str
    system: str
    """Operating system and architecture."""
    python: str
    date: str
    threads: int
    runtimes: dict[str, str]
    """Version of each runtime."""
    complete: bool = True
    """Whether its measurement came to its end."""

    def __str__(self) -> str:
        about = [self.name, self.cpu, f"{self.threads} threads", *self.runtimes.values(), self.system, self.date]
        return f"device   {', '.join(dict.fromkeys(about))}{'' if self.complete else '; incomplete: interrupted'}"


@dataclass(frozen=True)
class BenchResult:
    """All rows of a comparison."""

    rows: tuple[SpeedRow, ...]
    machine: Machine | None
    """This machine; None if all rows come from other devices."""
    train: bool
    repeats: int
    """Rounds that were measured."""
    layers: tuple[LayerTable, ...] = ()
    complete: bool = True
    """Whether the measurement came to its end, and was not interrupted."""
    devices: tuple[Device, ...] = ()
    """Other devices with rows."""
    out: Path | None = None
    """Folder of its files, if they were written."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "out": self.out and str(self.out)}

    def to_text(self, markdown: bool) -> str:
        """The tables, for a terminal or in Markdown."""
        rows: Sequence[Sequence[str]] = [TITLES, *(row.cells() for row in self.rows)]
        shown = [i for i in range(len(TITLES)) if any(row[i] for row in rows[1:])]
        what = "a step of training" if self.train else "a forward pass"
        lines = [as_table([[row[i] for i in shown] for row in rows], markdown), ""]
        turns = f", {self.repeats} rounds in turn" if self.machine else ""
        lines += [f"{what}{turns}; ms of a batch at the median", *map(str, filter(None, (self.machine, *self.devices)))]
        lines += [] if self.complete else ["incomplete: the measurement was interrupted"]
        return "\n".join([*lines, *(f"\n{table.to_text(markdown)}" for table in self.layers)])

    def __str__(self) -> str:
        written = f"\nfiles    bench.json, bench.md and bench.png in {self.out}" if self.out else ""
        return self.to_text(markdown=False) + written
