"""The one evaluation loop: from the images of a split to records, metrics, and what a report shows."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from featherbone.data.split import Split
from featherbone.engine.accelerator import add_up
from featherbone.metrics.outcome import Outcome
from featherbone.ops.boxes import Picked
from featherbone.progress import track
from featherbone.tasks.card import Card
from featherbone.tasks.inference import Inference
from featherbone.tasks.task import kind_of


@torch.no_grad()
def evaluate(
    task: Any,
    card: Card,
    split: Split[Any],
    loader: DataLoader[Any],
    prepare: Callable[[Any], tuple[Tensor, Any]],
    accelerator: Accelerator,
    inference: Inference,
) -> tuple[dict[str, Any], Outcome]:
    """Metrics of a task in evaluation mode over a split, each process taking its share of the images.

    `prepare` brings a batch of the loader to the device. With tiles or several views, images are read one by one and
    there is no validation loss; nor is there where a task has none.
    """
    kind, device = kind_of(card), accelerator.device
    outcome = kind.outcome(len(split), task.decoder)
    losses: list[Tensor] = []

    def batches() -> Iterator[tuple[int, Any]]:
        sampler: Any = loader.batch_sampler
        for keys, batch in track(zip(sampler, loader, strict=True), "evaluating", len(loader)):
            images, targets = prepare(batch)
            raw = task(images)
            if kind.has_validation_loss and not isinstance(raw, Picked):
                terms = task.losses(raw, targets)
                losses.append(len(keys) * torch.stack([term.float() for term in terms.values()]).sum())
            frames = [card.preprocessing.frame(*split.size(i)) for _, i in keys] if kind.heads else []
            yield from zip([index for _, index in keys], task.decoder(raw, frames), strict=True)

    def views() -> Iterator[tuple[int, Any]]:
        own = range(accelerator.process_index, len(split), accelerator.num_processes)
        for index in track(own, "evaluating", len(own)):
            yield index, inference.record(task, card.preprocessing, split.image(index), device, None)

    for index, record in batches() if inference.is_plain else views():
        outcome.add(index, split.truth(index), record)
    if accelerator.num_processes > 1:
        outcome.synchronise(gather_object)
    outcome.finish()
    total = add_up(accelerator, float(torch.stack(losses).cpu().double().sum()) if losses else 0.0)
    loss = {"loss": total / len(split)} if total else {}
    metrics = {**outcome.compute(), **loss}
    outcome.score = metrics.get("best_score") or kind.score or 0.0
    return metrics, outcome
