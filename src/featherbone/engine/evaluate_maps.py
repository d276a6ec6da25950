"""Metrics of tasks that give every pixel something, over a split, from all processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from featherbone.data.panoptic import PanopticImages
from featherbone.data.samples import to_device
from featherbone.data.sampling import spread
from featherbone.data.transforms import Preprocessing
from featherbone.engine.accelerator import add_up
from featherbone.engine.dense import SHOWN
from featherbone.metrics.panoptic import PanopticMetrics, Stated
from featherbone.metrics.semantic import SemanticMetrics
from featherbone.progress import track
from featherbone.results import PanopticMap, SemanticMap
from featherbone.tasks.testing import Testing, decode_tested

WORST = 9
"""Images that came out worst and are kept to be shown, beside those spread over the split."""


@dataclass
class Kept:
    """What was said of the images worth showing; the maps of all would not fit in memory."""

    count: int
    """Images of the split."""
    records: dict[int, Any] = field(default_factory=dict)
    """By index."""
    scores: dict[int, float] = field(default_factory=dict)
    """Of every image for which there is one: its own metric, from 0 to 1."""

    @property
    def spread(self) -> list[int]:
        """Indices spread over the split."""
        return spread(self.count, SHOWN)

    @property
    def worst(self) -> list[int]:
        """Indices of the images with the lowest scores under 1, the worst first."""
        return [i for i in sorted(self.scores, key=lambda i: self.scores[i]) if self.scores[i] < 1][:WORST]

    def add(self, index: int, record: Any, score: float | None) -> None:
        """Take in one image."""
        if score is not None:
            self.scores[index] = score
        self.records[index] = record
        if len(self.records) > SHOWN + 4 * WORST:
            self.trim()

    def trim(self) -> None:
        """Leave only what will be shown."""
        chosen = {*self.spread, *self.worst}
        self.records = {index: record for index, record in self.records.items() if index in chosen}


@torch.no_grad()
def evaluate_segmenter(
    task: Any,
    images: Any,
    loader: DataLoader[Any],
    preprocessing: Preprocessing,
    accelerator: Accelerator,
    testing: Testing,
) -> tuple[dict[str, Any], Kept]:
    """Metrics of a semantic task over a split, each image in its own pixels; the loss is that of plain testing."""
    device = accelerator.device
    metrics, kept = SemanticMetrics(len(task.classes)), Kept(len(images))
    total = 0.0

    def record(index: int, said: SemanticMap) -> None:
        kept.add(index, said, metrics.update(images.labels(index), said.labels))

    if testing.plain:
        batches: Any = loader.batch_sampler
        for keys, (batch, targets) in track(zip(batches, loader, strict=True), "evaluating", len(loader)):
            raw = task(batch.to(device, non_blocking=True))
            terms = task.losses(raw, to_device(targets, device))
            total += len(keys) * float(torch.stack(list(terms.values())).sum())
            frames = [preprocessing.frame(*images.size(index)) for _, index in keys]
            for (_, index), said in zip(keys, task.decoder(raw, frames), strict=True):
                record(index, said)
    else:
        mine = range(accelerator.process_index, len(images), accelerator.num_processes)
        for index in track(mine, "evaluating", len(mine)):
            record(index, decode_tested(task, preprocessing, images.read(index), testing, device))
    metrics, kept = _join(metrics, kept, accelerator)
    loss = {"loss": add_up(accelerator, total) / len(images)} if testing.plain else {}
    return {**metrics.compute(), "images": len(images), **loss}, kept


@torch.no_grad()
def evaluate_panoptic(
    task: Any,
    images: PanopticImages,
    loader: DataLoader[Any],
    preprocessing: Preprocessing,
    accelerator: Accelerator,
    score: float | None = None,
) -> tuple[dict[str, Any], Kept]:
    """Panoptic quality of a task over a split, each image in its own pixels."""
    metrics, kept = PanopticMetrics(len(task.classes), task.decoder.things), Kept(len(images))
    batches: Any = loader.batch_sampler
    for keys, (batch, _) in track(zip(batches, loader, strict=True), "evaluating", len(loader)):
        raw = task(batch.to(accelerator.device, non_blocking=True))
        frames = [preprocessing.frame(*images.size(index)) for _, index in keys]
        for (_, index), said in zip(keys, task.decoder(raw, frames, score=score), strict=True):
            kept.add(index, said, count_panoptic(metrics, images, index, said))
    metrics, kept = _join(metrics, kept, accelerator)
    return {**metrics.compute(), "images": len(images)}, kept


def count_panoptic(metrics: PanopticMetrics, images: PanopticImages, index: int, said: PanopticMap) -> float | None:
    """Count what was said of one image."""
    places, parts = images.segments(index)
    stated = [Stated(number, part.label, part.crowd) for number, part in enumerate(parts, 1)]
    return metrics.update(places, stated, said.ids, [Stated(segment.id, segment.label) for segment in said.segments])


def measure_maps(
    images: Any, metrics: Any, said: Callable[[int], Any], count: Callable[[int, Any], float | None]
) -> tuple[dict[str, Any], Kept]:
    """Metrics of what any tool said of each image of a split, by index."""
    kept = Kept(len(images))
    for index in track(range(len(images)), "measuring", len(images)):
        record = said(index)
        kept.add(index, record, count(index, record))
    kept.trim()
    return {**metrics.compute(), "images": len(images)}, kept


def _join(metrics: Any, kept: Kept, accelerator: Accelerator) -> tuple[Any, Kept]:
    """What all processes counted and kept."""
    kept.trim()
    if accelerator.num_processes == 1:
        return metrics, kept
    first, *rest = gather_object([metrics])
    for other in rest:
        first.add(other)
    everything: Sequence[Kept] = gather_object([kept])
    records = {index: record for part in everything for index, record in part.records.items()}
    scores = {index: value for part in everything for index, value in part.scores.items()}
    joined = Kept(kept.count, records, scores)
    joined.trim()
    return first, joined
