"""A step of training on random images and targets, as a call that can be timed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.ops.boxes import Target
from featherbone.ops.label_maps import PanopticTarget
from featherbone.tasks.classification import Classifier, ClassTargets
from featherbone.tasks.panoptic import PanopticSegmenter
from featherbone.tasks.semantic import Segmenter

OBJECTS = 4
"""In every image, for heads that find some."""


def training_step(
    model: nn.Module,
    images: Tensor,
    compiled: bool = False,
    bf16: bool = False,
    layout: torch.memory_format = torch.channels_last,
    fused: bool = True,
) -> Callable[[], object]:
    """Forward in training, the task's losses, backward, and a step of AdamW; a timm model becomes a classifier.

    bf16 is by autocast; `layout` and `fused` optimiser are by default those of `featherbone train`, too.
    """
    task: Any = model if hasattr(model, "losses") else Classifier(model, range(getattr(model, "num_classes", 0)))  # type: ignore[arg-type]
    task.to(images.device, memory_format=layout).train()
    forward = torch.compile(task, dynamic=False) if compiled else task
    optimiser = torch.optim.AdamW(task.parameters(), 1e-5, fused=fused)
    targets = random_targets(task, images)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            raw = forward(images)
            loss = torch.stack([term.float() for term in task.losses(raw, targets).values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def random_targets(task: Any, images: Tensor) -> Any:
    """What a batch of images (B, 3, H, W) might have shown, as the task's `losses` takes it."""
    (b, _, h, w), device, classes = images.shape, images.device, len(task.classes)
    draw = torch.Generator().manual_seed(0)
    if isinstance(task, Classifier):
        return ClassTargets(F.one_hot(torch.randint(classes, (b,), generator=draw), classes).float().to(device))
    if isinstance(task, Segmenter):
        return torch.randint(classes, (b, h, w), generator=draw).to(device)
    panoptic = isinstance(task, PanopticSegmenter)
    corner = torch.rand(b, OBJECTS, 2, generator=draw) * torch.tensor([w, h]) / 2
    boxes = torch.cat((corner, corner + torch.tensor([w, h]) / 3), 2).to(device)
    labels = torch.randint(len(task.things) if panoptic else classes, (b, OBJECTS), generator=draw).to(device)
    masks = torch.ones(b, OBJECTS, h, w, dtype=torch.bool, device=device)
    found = [Target(*one) for one in zip(boxes, labels, masks, strict=True)]
    if not panoptic:
        return found
    stuff = torch.randint(1 + len(task.stuff), (b, h, w), generator=draw).to(device)
    return [PanopticTarget(*one) for one in zip(found, stuff, strict=True)]
