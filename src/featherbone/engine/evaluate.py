"""Metrics of a classifier over a split, summed over all processes."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from featherbone.metrics.classification import ClassificationMetrics
from featherbone.progress import track


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
    metrics = ClassificationMetrics(num_classes, device)
    samples: Any = loader.dataset
    outcome = torch.zeros(len(samples.images), 3, dtype=torch.float64, device=device)
    batches: Any = loader.batch_sampler
    for keys, (images, labels) in track(zip(batches, loader, strict=True), "evaluating", len(loader)):
        labels = labels.to(device)
        logits = forward(images.to(device, non_blocking=True))
        metrics.update(logits, labels)
        scores = logits.double().softmax(1)
        best = scores.max(1)
        where = torch.tensor([index for _, index in keys], device=device)
        outcome[where] = torch.stack([best.indices.double(), best.values, scores.gather(1, labels[:, None])[:, 0]], 1)
    if accelerator is not None and accelerator.num_processes > 1:
        metrics.counts = {name: accelerator.reduce(count, "sum") for name, count in metrics.counts.items()}
        outcome = accelerator.reduce(outcome, "sum")
    return metrics.compute(), outcome.cpu()
