"""The results of the commands: plain records that are printed as text or as JSON."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featherbone.benchmarking.models import ModelFacts, dense_models_table, model_table
from featherbone.data.findings import Examination
from featherbone.data.map_files import Kept, StoredMap
from featherbone.data.panoptic_write import OverlapCounts
from featherbone.exporters.parity import Parity
from featherbone.metrics.operating_point import describe_point
from featherbone.prediction_rows import ROWS, read_rows
from featherbone.report import format_metric
from featherbone.results import Classification, Detections, LabelSet, Record
from featherbone.tasks.card import Card, count_measured
from featherbone.tasks.published import PublishedModel


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    run: Path
    """The run folder; `featherbone.load` takes it."""
    metrics: dict[str, Any]
    """Validation metrics of its best weights."""
    report: Path
    figures: Mapping[str, str]
    """Metrics that are printed, with their names."""

    def to_json(self) -> dict[str, Any]:
        return {"run": str(self.run), "metrics": self.metrics, "report": str(self.report)}

    def __str__(self) -> str:
        return f"{_summary(self.metrics, self.figures)}\nrun     {self.run}\nreport  {self.report}"


@dataclass(frozen=True)
class ConvertResult:
    """A run folder made from a published checkpoint."""

    run: Path
    card: Card

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        card = self.card
        return {"run": str(self.run), "task": card.task, "classes": card.classes, "licence": card.weights_licence}

    def __str__(self) -> str:
        return f"{self.run}: {self.card.task}, {len(self.card.classes)} classes; licence: {self.card.weights_licence}"


@dataclass(frozen=True)
class PushResult:
    """A run on the hub."""

    address: str
    repository: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"address": self.address, "run": f"hf-hub:{self.repository}"}

    def __str__(self) -> str:
        return f"{self.address}\nnext: featherbone predict hf-hub:{self.repository} PICTURE"


@dataclass(frozen=True)
class EvaluateResult:
    """Metrics of a run on a data set."""

    metrics: dict[str, Any]
    classes: tuple[str, ...]
    figures: Mapping[str, str]
    """Metrics that are printed, with their names."""

    def to_json(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "classes": list(self.classes)}

    def __str__(self) -> str:
        width = max(map(len, self.classes))
        rows = zip(self.classes, self.metrics["per_class"], strict=True)
        lines = [f"  {name:{width}}  {format_metric(share)}" for name, share in rows]
        return "\n".join([_summary(self.metrics, self.figures), *lines])


@dataclass(frozen=True)
class Prediction:
    """The result of one image."""

    image: Path
    kept: Kept
    """The record; of one with a map, the file that holds it."""
    picture: Path | None
    """The annotated picture, where one was written."""

    @property
    def map(self) -> Path | None:
        """The PNG of classes or segments, for tasks that give one."""
        return self.kept.path if isinstance(self.kept, StoredMap) else None

    @property
    def record(self) -> Record:
        """What the model found; a map is read from its file each time."""
        return self.kept.load() if isinstance(self.kept, StoredMap) else self.kept

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `predictions.json`."""
        files = {"image": str(self.image), "picture": self.picture and str(self.picture)}
        return {**files, **({"map": str(self.map)} if self.map else {}), **self.kept.to_json()}

    def __str__(self) -> str:
        return f"{self.image}  {_describe(self.kept)}"


@dataclass(frozen=True)
class PredictResult:
    """Results of all images, and the reason for each that could not be read."""

    predictions: tuple[Prediction, ...]
    skipped: dict[str, str]
    out: Path | None
    saved: tuple[Path, ...] = ()
    """Folders with the results in formats of other tools."""

    def to_json(self) -> dict[str, Any]:
        return {"predictions": [prediction.to_json() for prediction in self.predictions], "skipped": self.skipped}

    def __str__(self) -> str:
        lines = [*map(str, self.predictions), *(f"skipped: {reason}" for reason in self.skipped.values())]
        lines += [f"pictures and predictions.json in {self.out}"] if self.out else []
        return "\n".join([*lines, *(f"{folder.name} files in {folder}" for folder in self.saved)])


@dataclass(frozen=True)
class VideoResult:
    """Numbers of frames that were predicted, and where their results are."""

    frames: dict[str, int]
    """By video or camera."""
    out: Path
    """Folder of `NAME.jsonl`, a row for each frame, and `NAME.mp4`."""
    pictures: bool
    """Whether annotated videos were written."""

    def to_json(self) -> dict[str, Any]:
        return {"frames": self.frames, "out": str(self.out)}

    def __str__(self) -> str:
        lines = [f"{source}  {count:,} frames" for source, count in self.frames.items()]
        return "\n".join([*lines, f"{'annotated videos and ' if self.pictures else ''}rows of frames in {self.out}"])


@dataclass(frozen=True)
class RowsResult:
    """Counts of the rows that were written for any number of pictures."""

    predicted: int
    """Pictures that were predicted by this call."""
    errors: int
    """Pictures that could not be read by this call; their rows state why."""
    done: int
    """Pictures that had a row before."""
    out: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows of all calls, as plain values, read from their files."""
        return read_rows(self.out)

    def to_json(self) -> dict[str, Any]:
        counts = {"predicted": self.predicted, "errors": self.errors, "done": self.done}
        return {**counts, "rows": str(self.out / ROWS)}

    def __str__(self) -> str:
        before = f", {self.done:,} done before" if self.done else ""
        return f"{self.predicted:,} predicted, {self.errors:,} unreadable{before}\nrows    {self.out / ROWS}"


@dataclass(frozen=True)
class ExportResult:
    """An exported file that was verified on real images."""

    out: Path
    """Folder that holds it."""
    path: Path
    report: Path
    parity: Parity
    metrics: dict[str, Any] | None = None
    """Metrics of the file on all validation images, where it was evaluated."""
    of_run: dict[str, Any] | None = None
    """Those of the run, where it has any."""
    figures: Mapping[str, str] = field(default_factory=dict)
    """Metrics that are printed, with their names."""

    @property
    def size(self) -> int:
        """Bytes of the file, and of its weights where they are stored beside it."""
        weights = self.path.with_suffix(".bin")
        return self.path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)

    def to_json(self) -> dict[str, Any]:
        values = {"out": str(self.out), "path": str(self.path), "bytes": self.size}
        values |= {"report": str(self.report), "parity": self.parity.to_json()}
        return values if self.metrics is None else {**values, "metrics": self.metrics, "metrics_of_run": self.of_run}

    def __str__(self) -> str:
        lines = [f"{self.path}  {self.size / 1e6:.1f} MB", str(self.parity), f"report  {self.report}"]
        if self.metrics is not None:
            lines.append(f"file    {_summary(self.metrics, self.figures)}")
        if self.metrics is not None and self.of_run is not None:
            lines.append(f"run     {_summary(self.of_run, self.figures)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class ModelsResult:
    """Tables of backbones, and of published detectors and segmentation models."""

    rows: tuple[ModelFacts, ...]
    dense: Mapping[str, PublishedModel]

    def to_json(self) -> dict[str, Any]:
        dense = [{"name": name, "task": model.task, **asdict(model)} for name, model in self.dense.items()]
        return {"models": [row.to_json() for row in self.rows], "dense_models": dense}

    def __str__(self) -> str:
        tables = [model_table(self.rows, markdown=False)] if self.rows else []
        return "\n\n".join([*tables, dense_models_table(self.dense)] if self.dense else tables)


@dataclass(frozen=True)
class DoctorResult:
    """Findings about a data folder, and the page that shows them."""

    examination: Examination
    page: Path

    @property
    def exit_code(self) -> int:
        """1 where there is an error."""
        return int(self.examination.spoiled)

    def to_json(self) -> dict[str, Any]:
        return {**self.examination.to_json(), "page": str(self.page)}

    def __str__(self) -> str:
        return f"{self.examination}\npage    {self.page}"


@dataclass(frozen=True)
class DataResult:
    """A new data set, and how overlaps were resolved."""

    settled: OverlapCounts
    out: Path

    def to_json(self) -> dict[str, Any]:
        return {"out": str(self.out), **self.settled.to_json()}

    def __str__(self) -> str:
        return f"{self.settled}\ndata    {self.out}\nnext: featherbone doctor {self.out} --task panoptic"


@dataclass(frozen=True)
class ShardsResult:
    """A data set in tar shards."""

    images: dict[str, int]
    """Images by split."""
    out: Path

    def to_json(self) -> dict[str, Any]:
        return {"out": str(self.out), "images": self.images}

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {split} images" for split, count in self.images.items())
        return f"{counts}\ndata    {self.out}\nnext: featherbone train --data {self.out}"


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo."""

    trained: TrainResult
    predicted: PredictResult
    exported: ExportResult

    def to_json(self) -> dict[str, Any]:
        trained, predicted, exported = self.trained.to_json(), self.predicted.to_json(), self.exported.to_json()
        return {"train": trained, "predict": predicted, "export": exported}

    def __str__(self) -> str:
        lines = [str(self.trained), f"pictures {self.predicted.out}", f"file    {self.exported}"]
        return "\n".join([*lines, "next: featherbone train --data YOUR_FOLDER"])


def _summary(metrics: dict[str, Any], figures: Mapping[str, str]) -> str:
    """The metrics that matter most, in one line."""
    intervals = {key: f" ({low:.3f} to {high:.3f})" for key, (low, high) in metrics.get("interval", {}).items()}
    shown = {key: name for key, name in figures.items() if key in metrics}
    values = "  ".join(f"{name} {format_metric(metrics[key])}{intervals.get(key, '')}" for key, name in shown.items())
    objects = f" with {metrics['objects']} objects; {metrics['engine']}" if "objects" in metrics else ""
    point = f"\n{describe_point(metrics['operating_point'])}" if "operating_point" in metrics else ""
    return f"{values}  on {count_measured(metrics)}{objects}{point}"


def _describe(kept: Kept) -> str:
    """A record in a few words."""
    if isinstance(kept, LabelSet):
        pairs = zip(kept.names, kept.scores, strict=True)
        return ", ".join(f"{name} {score:.1%}" for name, score in pairs) or "no label"
    if isinstance(kept, Classification):
        return f"{'not certain: ' if kept.abstained else ''}{kept.name} {kept.score:.1%}"
    if isinstance(kept, Detections):
        return ", ".join(f"{count} {name}" for name, count in Counter(kept.names).most_common()) or "no object"
    if "segments" not in kept.values:
        return ", ".join(f"{row['name']} {row['share']:.0%}" for row in kept.values["classes"])
    things = Counter(row["name"] for row in kept.values["segments"] if row["thing"])
    stuff = [row["name"] for row in kept.values["segments"] if not row["thing"]]
    return ", ".join([*(f"{count} {name}" for name, count in things.most_common()), *stuff]) or "nothing"
