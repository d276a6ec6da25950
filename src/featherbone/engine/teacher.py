"""The teacher of knowledge distillation: a trained network."""

from pathlib import Path

import torch
from torch import Tensor

from featherbone.errors import BadOption
from featherbone.tasks.backbone import licence_of, preprocessing_of, require_licence
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.classification import build_classifier
from featherbone.tasks.run import load_task


class Teacher:
    """Logits of a run or a timm model for the student's normalised images."""

    def __init__(self, name: str, student: Card, device: torch.device) -> None:
        if (Path(name) / CARD).is_file():
            card, task = load_task(Path(name))
            if card.classes != student.classes:
                raise BadOption(
                    f"teacher {name} has {len(card.classes)} classes, the data has {len(student.classes)}, or their "
                    f"names or order differ; use a teacher trained on these classes"
                )
            own = card.preprocessing
        else:
            own = preprocessing_of(name)
            require_licence(name, licence_of(name), student.settings.get("accept_licence"))
            task = build_classifier(name, student.classes, pretrained=True)
            if task.backbone.pretrained_cfg["num_classes"] != len(student.classes):
                raise BadOption(
                    f"teacher {name} was trained on {task.backbone.pretrained_cfg['num_classes']} classes, the data "
                    f"has {len(student.classes)}: train it on this data first (featherbone train --model {name}) "
                    f"and give its run folder as the teacher"
                )
        given = student.preprocessing
        if own.channels != given.channels:
            kinds = [f"images of {p.channels} channels" if p.channels else "RGB pictures" for p in (own, given)]
            raise BadOption(
                f"teacher {name} takes {kinds[0]}, and the data has {kinds[1]}; use a teacher that was trained on such "
                "images"
            )
        self.task = task.to(device).eval()
        mean, std, own_mean, own_std = (
            torch.tensor(values, device=device)[:, None, None] for values in (given.mean, given.std, own.mean, own.std)
        )
        self.scale, self.shift = std / own_std, (mean - own_mean) / own_std

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, K) for images (B, C, H, W) in the student's normalisation."""
        return self.task(images * self.scale + self.shift)
