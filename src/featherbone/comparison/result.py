"""The result of a comparison: a row for each model, a verdict for each pair, and what is needed to repeat it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featherbone.benchmarking.models import as_table
from featherbone.comparison.verdicts import Pair


@dataclass(frozen=True)
class Speed:
    """Latency of one image, and memory, measured in turn with the other models."""

    milliseconds: tuple[float, float, float]
    """Lower quartile, median, upper quartile."""
    peak_mb: float | None


@dataclass(frozen=True)
class ModelRow:
    """A model, over its seeds."""

    label: str
    sources: tuple[str, ...]
    """Run, file or results of each seed."""
    values: tuple[float, ...]
    """Headline metric of each seed on all images."""
    value: float
    interval: tuple[float, float]
    """95% interval of the mean over seeds and images."""
    per_class: tuple[float | None, ...]
    """Means over the seeds; None where no image has the class."""
    starting_weights: str
    """What training started from, in words."""
    settings: Mapping[str, Any]
    """Settings of training that were chosen for this model: epochs in a given time, learning rate."""
    params: int | None = None
    macs: int | None = None
    speed: Speed | None = None

    @property
    def covers(self) -> str:
        """The number of seeds, over which the interval is."""
        return str(len(self.values)) if len(self.values) > 1 else "1: images only"

    def cells(self) -> list[str]:
        low, high = self.interval
        speed = self.speed
        quartiles = (
            "" if speed is None else "{:.1f} ({:.1f} to {:.1f})".format(*(speed.milliseconds[i] for i in (1, 0, 2)))
        )
        return [
            *(self.label, f"{self.value:.3f}", f"{low:.3f} to {high:.3f}", self.covers),
            "" if self.params is None else f"{self.params / 1e6:.2f}M",
            "" if self.macs is None else f"{self.macs / 1e9:.3g}G",
            *(quartiles, "" if speed is None or speed.peak_mb is None else f"{speed.peak_mb:.0f}"),
            self.starting_weights,
        ]


TITLES = ("model", "{metric}", "95% interval", "seeds", "params", "MACs", "ms", "peak MB", "starts from")


@dataclass(frozen=True)
class ClassDifference:
    """A class, and the difference of the first two models in it."""

    name: str
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Disagreement:
    """An image on which two models differ most, by their mean scores over the seeds."""

    index: int
    name: str
    scores: tuple[float, float]


@dataclass(frozen=True)
class ComparisonResult:
    """All models, the best first."""

    metric: str
    """Name of the headline metric."""
    rows: tuple[ModelRow, ...]
    pairs: tuple[Pair, ...]
    margin: float
    split: str
    num_images: int
    fingerprint: str
    classes: tuple[str, ...]
    differences: tuple[ClassDifference, ...]
    """Of the first two models, by class."""
    disagreements: Mapping[tuple[str, str], tuple[Disagreement, ...]]
    """By pair of models that follow each other."""
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    data: str = ""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What models were trained by."""
    command: str = ""
    machine: str = ""
    out: Path = field(default_factory=Path)

    def table(self) -> list[list[str]]:
        """The titles and the rows, without empty columns."""
        cells = [[title.format(metric=self.metric) for title in TITLES], *(row.cells() for row in self.rows)]
        shown = [i for i in range(len(TITLES)) if any(row[i] for row in cells[1:])]
        return [[row[i] for i in shown] for row in cells]

    def to_json(self) -> dict[str, Any]:
        pairs = {
            f"{first} / {second}": [asdict(one) for one in found]
            for (first, second), found in self.disagreements.items()
        }
        return {
            **{name: value for name, value in vars(self).items() if name not in ("rows", "pairs", "disagreements")},
            "rows": [asdict(row) for row in self.rows],
            "pairs": [pair.to_json() for pair in self.pairs],
            "differences": [asdict(one) for one in self.differences],
            "disagreements": pairs,
            "out": str(self.out),
        }

    def __str__(self) -> str:
        lines = [as_table(self.table(), markdown=False), ""]
        lines += [sentence(pair, self.margin) for pair in self.pairs]
        lines += [f"note: {note}" for note in self.notes]
        where = f"{self.metric} on {self.num_images} images of {self.split}; {self.machine}"
        return "\n".join([*lines, "", where, f"page    {self.out / 'comparison.html'}"])


def sentence(pair: Pair, margin: float) -> str:
    """The difference and the verdict in words."""
    low, high = pair.interval
    return f"{pair.difference:+.3f} ({low:+.3f} to {high:+.3f})  {pair.sentence(margin)}"
