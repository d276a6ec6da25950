"""What the commands return: plain records that can be printed for people and as JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherbone.bench.models import ModelFacts, model_table
from featherbone.data.doctor import Examination
from featherbone.exporters.parity import Parity
from featherbone.results import Record


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to."""

    run: Path
    """The run folder; `featherbone.load` takes it."""
    metrics: dict[str, Any]
    """Validation metrics of its best weights."""
    report: Path

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"run": str(self.run), "metrics": self.metrics, "report": str(self.report)}

    def __str__(self) -> str:
        return f"{_shares(self.metrics)}\nrun     {self.run}\nreport  {self.report}"


@dataclass(frozen=True)
class EvaluateResult:
    """Metrics of a run on a data set."""

    metrics: dict[str, Any]
    classes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"metrics": self.metrics, "classes": list(self.classes)}

    def __str__(self) -> str:
        rows = zip(self.classes, self.metrics["per_class"], strict=True)
        width = max(map(len, self.classes))
        per_class = [f"  {name:{width}}  {'no image' if share is None else f'{share:.3f}'}" for name, share in rows]
        return "\n".join([_shares(self.metrics), *per_class])


@dataclass(frozen=True)
class Prediction:
    """The record of one image."""

    image: Path
    record: Record
    picture: Path | None
    """The annotated picture, where one was written."""


@dataclass(frozen=True)
class PredictResult:
    """Records of all images, and the reason for each that could not be read."""

    predictions: tuple[Prediction, ...]
    skipped: dict[str, str]
    out: Path | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [
            {"image": str(p.image), "picture": p.picture and str(p.picture), **p.record.to_json()}
            for p in self.predictions
        ]
        return {"predictions": rows, "skipped": self.skipped}

    def __str__(self) -> str:
        lines = [f"{p.image}  {p.record.name} {p.record.score:.1%}" for p in self.predictions]
        lines += [f"skipped: {reason}" for reason in self.skipped.values()]
        return "\n".join(lines + ([f"pictures and predictions.json in {self.out}"] if self.out else []))


@dataclass(frozen=True)
class ExportResult:
    """A file that was proven on real images."""

    path: Path
    parity: Parity

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"path": str(self.path), "bytes": self.path.stat().st_size, "parity": self.parity.to_json()}

    def __str__(self) -> str:
        p = self.parity
        return (
            f"{self.path}  {self.path.stat().st_size / 1e6:.1f} MB\n"
            f"same class on {p.same_class} of {p.images} images; scores differ by at most {p.worst_score:.1e} "
            f"(allowed {p.score_bound:g})"
        )


@dataclass(frozen=True)
class ModelsResult:
    """A table of backbones."""

    rows: tuple[ModelFacts, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"models": [row.to_json() for row in self.rows]}

    def __str__(self) -> str:
        return model_table(self.rows, markdown=False)


@dataclass(frozen=True)
class DoctorResult:
    """Findings about a data folder, and the page that shows them."""

    examination: Examination
    page: Path

    @property
    def exit_code(self) -> int:
        """1 where something would spoil training."""
        return int(self.examination.spoiled)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.examination.to_json(), "page": str(self.page)}

    def __str__(self) -> str:
        return f"{self.examination}\npage    {self.page}"


@dataclass(frozen=True)
class DemoResult:
    """The whole main job."""

    trained: TrainResult
    predicted: PredictResult
    exported: ExportResult

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "train": self.trained.to_json(),
            "predict": self.predicted.to_json(),
            "export": self.exported.to_json(),
        }

    def __str__(self) -> str:
        return (
            f"{self.trained}\npictures {self.predicted.out}\nfile    {self.exported}\n"
            f"next: featherbone train --data YOUR_FOLDER"
        )


def _shares(metrics: dict[str, Any]) -> str:
    return f"top-1 {metrics['top1']:.3f}  top-5 {metrics['top5']:.3f}  on {metrics['images']} images"
