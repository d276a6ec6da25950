"""Metrics of a task over a split, from all processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from featherbone.data.objects import MarkedImages
from featherbone.data.samples import to_device
from featherbone.data.transforms import Preprocessing
from featherbone.engine.accelerator import add_up
from featherbone.metrics.classification import ClassificationMetrics
from featherbone.metrics.detection import DetectionMetrics
from featherbone.ops.boxes import Picked
from featherbone.progress import track
from featherbone.results import Detections
from featherbone.tasks.detection import SURE
from featherbone.tasks.tiling import decode_tiled


@torch.no_grad()
def evaluate_classifier(
    forward: Callable[[Tensor], Tensor],
    loader: DataLoader[Any],
    num_classes: int,
    device: torch.device,
    accelerator: Accelerator | None = None,
) -> tuple[dict[str, Any], Tensor]:
    """Metrics of `forward`, images (B, 3, H, W) to logits, and each image's outcome.

    The outcome (N, 3) of the loader's images in order: predicted class, its score, the true class's score. With an
    `accelerator` every process sees its share, and the result is that of all.
    """
    metrics = ClassificationMetrics(num_classes)
    samples: Any = loader.dataset
    outcome = torch.zeros(len(samples.images), 3, dtype=torch.float64)
    batches: Any = loader.batch_sampler
    for keys, (images, labels) in track(zip(batches, loader, strict=True), "evaluating", len(loader)):
        logits = forward(images.to(device, non_blocking=True)).float().cpu()  # sums are float64, which MPS lacks
        metrics.update(logits, labels)
        scores = logits.double().softmax(1)
        best = scores.max(1)
        outcome[[index for _, index in keys]] = torch.stack(
            [best.indices.double(), best.values, scores.gather(1, labels[:, None])[:, 0]], 1
        )
    if accelerator is not None:
        metrics.counts = {name: add_up(accelerator, count) for name, count in metrics.counts.items()}
        outcome = add_up(accelerator, outcome)
    return metrics.compute(), outcome


@dataclass(frozen=True)
class Finds:
    """What a detector found on the images of a split, in order."""

    records: list[Detections]
    metrics: DetectionMetrics
    score: float
    """The limit on the score that gives the best F1 at IoU 0.5, if anything was found: what is worth drawing."""


@torch.no_grad()
def evaluate_detector(
    task: Any,
    images: MarkedImages,
    loader: DataLoader[Any],
    preprocessing: Preprocessing,
    masks: bool,
    accelerator: Accelerator,
) -> tuple[dict[str, Any], Finds]:
    """Official metrics of a detector over a split, from all processes, each of which sees its share of the images.

    Boxes alone have a validation loss, too: what Mask R-CNN yields in training is another thing.
    """
    device = accelerator.device
    found: list[tuple[int, Detections]] = []
    total = 0.0
    batches: Any = loader.batch_sampler
    for keys, (batch, targets) in track(zip(batches, loader, strict=True), "evaluating", len(loader)):
        raw = task(batch.to(device, non_blocking=True))
        entries = [images.entries[index] for _, index in keys]
        frames = [preprocessing.frame(entry.height, entry.width) for entry in entries]
        found += zip([index for _, index in keys], task.decoder(raw, frames), strict=True)
        if not masks and not isinstance(raw, Picked):
            terms = task.losses(raw, to_device(targets, device))
            total += len(keys) * float(torch.stack(list(terms.values())).sum())
    found, total = add_up(accelerator, found), add_up(accelerator, total)
    metrics, finds = measure_found(images, [record for _, record in sorted(found, key=lambda pair: pair[0])], masks)
    return ({**metrics, "loss": total / len(images)} if total else metrics), finds


@torch.no_grad()
def evaluate_tiled(
    task: Any,
    images: MarkedImages,
    preprocessing: Preprocessing,
    masks: bool,
    accelerator: Accelerator,
    size: int,
    overlap: float,
) -> tuple[dict[str, Any], Finds]:
    """As `evaluate_detector`, each image searched in tiles and as a whole."""
    mine = range(accelerator.process_index, len(images), accelerator.num_processes)
    about = (size, overlap, accelerator.device)
    found = [
        (index, decode_tiled(task, preprocessing, images.read(index), *about))
        for index in track(mine, "evaluating in tiles", len(mine))
    ]
    found = add_up(accelerator, found)
    return measure_found(images, [record for _, record in sorted(found, key=lambda pair: pair[0])], masks)


def measure_found(images: MarkedImages, records: Sequence[Detections], masks: bool) -> tuple[dict[str, Any], Finds]:
    """Official metrics of the records of a split's images, in their order."""
    metrics = DetectionMetrics(images.classes, masks)
    for index, record in enumerate(records):
        metrics.update(images.entries[index].image_id, images.objects(index, masks), record)
    best = metrics.best_score()
    return {**metrics.compute(), "best_score": best}, Finds(list(records), metrics, SURE if best is None else best)
