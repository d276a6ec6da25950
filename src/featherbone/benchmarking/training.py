"""A step of training on random images and targets, as a call to be timed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.data.samples import to_device
from featherbone.deployment import use_form
from featherbone.tasks.classification import Classifier
from featherbone.tasks.task import KINDS


def training_step(
    model: nn.Module,
    images: Tensor,
    compiled: bool = False,
    bf16: bool = False,
    layout: torch.memory_format = torch.channels_last,
    fused: bool = True,
) -> Callable[[], object]:
    """Forward pass, the task's losses, backward pass and a step of AdamW; a timm model becomes a classifier.

    bf16 is by autocast; the defaults of `layout` and `fused` are those of `featherbone train`.
    """
    task: Any = model if hasattr(model, "losses") else Classifier(model, range(getattr(model, "num_classes", 0)))  # type: ignore[arg-type]
    task.to(images.device, memory_format=layout).train()
    if compiled:
        use_form(task, "compiled")
    forward = torch.compile(task, dynamic=False) if compiled else task
    optimiser = torch.optim.AdamW(task.parameters(), 1e-5, fused=fused)
    size = (images.shape[0], images.shape[2], images.shape[3])
    draw = torch.Generator().manual_seed(0)
    targets = to_device(KINDS[task.decoder.kind].draw_targets(task.decoder, size, draw), images.device)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            raw = forward(images)
            loss = torch.stack([term.float() for term in task.losses(raw, targets).values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step
