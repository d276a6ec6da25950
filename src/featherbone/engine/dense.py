"""A run whose head reads maps: what is the same of detection and every segmentation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.data.augment import Augmentation
from featherbone.data.samples import collate, to_device
from featherbone.engine.job import Job
from featherbone.engine.settings import parse_keywords
from featherbone.progress import say
from featherbone.tasks.backbone import weights_licence
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.run import build_task, load_backbone
from featherbone.tasks.task import KINDS

SHOWN = 12
"""Images on the pictures of a batch and of predictions."""
AUGMENTATIONS = ("flip", "scale", "photometric", "expand", "iou_crop", "mosaic", "class_share")
"""Settings that `Augmentation` takes."""


class DenseJob(Job):
    """A head on the maps of a backbone."""

    collate = staticmethod(collate)
    eval_batch = 16

    def card(self, model: str) -> Card:
        settings = self.settings
        name, head = KINDS[self.task].find_head(settings.head)
        return self.first_card(
            backbone=model,
            head=name,
            head_args=parse_keywords(settings.head_args, "head_args"),
            preprocessing=dense_preprocessing(model, head, settings.image_size),
            model_args=parse_keywords(settings.model_args),
            weights_licence=self.licence(model),
        )

    def licence(self, model: str) -> str:
        """Of the weights that training starts from."""
        if self.settings.backbone_from:
            return Card.read(Path(self.settings.backbone_from)).weights_licence
        return weights_licence(model, self.settings.pretrained, self.settings.checkpoint)

    def build(self, card: Card, device: torch.device) -> Any:
        settings = self.settings
        rates = {"drop_path_rate": settings.drop_path} if settings.drop_path else {}
        start = settings.pretrained or settings.checkpoint is not None
        task = build_task(card, start, settings.checkpoint, **rates)
        if settings.backbone_from:
            source = Path(settings.backbone_from)
            load_backbone(source, Card.read(source), task.backbone, card.backbone)
            say(f"backbone from {source}", "note")
        return task.to(device)

    def augmentation(self) -> Augmentation:
        """As the settings say."""
        return Augmentation(**{name: getattr(self.settings, name) for name in AUGMENTATIONS})

    def preparer(self, card: Card, device: torch.device) -> Callable[[Any, tuple[int, int]], tuple[Any, Any]]:
        def prepare(batch: Any, draw: tuple[int, int]) -> tuple[Tensor, Any]:
            return to_device(batch[0], device), to_device(batch[1], device)

        return prepare
