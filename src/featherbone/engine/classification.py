"""A classification run: what is its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.data.classification import Splits, check_class_counts, count_images, open_splits
from featherbone.data.findings import refuse
from featherbone.data.loading import Samples
from featherbone.data.mixing import mix
from featherbone.data.transforms import training_transform
from featherbone.draw import contact_sheet, save_picture
from featherbone.engine.evaluate import evaluate_classifier
from featherbone.engine.job import Job
from featherbone.engine.run import read_metrics
from featherbone.engine.settings import Settings, parse_keywords
from featherbone.engine.teacher import Teacher
from featherbone.report import format_metric
from featherbone.report.run import summarise_classification, write_run_report
from featherbone.tasks.backbone import preprocessing_of, weights_licence
from featherbone.tasks.card import Card
from featherbone.tasks.classification import Classifier, ClassTargets, build_classifier


class ClassificationJob(Job):
    """One label an image."""

    metric = "top1"

    def open(self) -> Splits:
        self.splits = open_splits(self.data, self.settings.val_share, self.settings.seed)
        return self.splits

    def check(self) -> None:
        if self.is_training:
            refuse(check_class_counts(self.classes, count_images(self.train), count_images(self.val)), self.data)

    def fingerprint(self) -> str:
        return Splits(self.train, self.val, ()).fingerprint()

    def card(self, model: str) -> Card:
        return self.first_card(
            backbone=model,
            preprocessing=preprocessing_of(model, self.settings.image_size),
            model_args=parse_keywords(self.settings.model_args),
            weights_licence=weights_licence(model, self.settings.pretrained, self.settings.checkpoint),
        )

    def build(self, card: Card, device: torch.device) -> Classifier:
        names = ("smoothing", "distillation", "distillation_weight", "temperature")
        return build_classifier(
            card.backbone,
            card.classes,
            training_args(card.model_args, self.settings),
            pretrained=self.settings.pretrained or self.settings.checkpoint is not None,
            checkpoint=self.settings.checkpoint,
            **{name: getattr(self.settings, name) for name in names},
        ).to(device)

    def samples(self, card: Card) -> Samples:
        names = ("auto_augment", "color_jitter", "erasing", "flip", "min_area")
        chosen = {name: getattr(self.settings, name) for name in names}
        return Samples(self.train, training_transform(card.preprocessing, **chosen), self.settings.seed)

    def preparer(self, card: Card, device: torch.device) -> Callable[[Any, tuple[int, int]], tuple[Any, Any]]:
        settings, num_classes = self.settings, len(card.classes)
        teacher = Teacher(settings.teacher, card, device) if settings.teacher else None

        def prepare(batch: Any, draw: tuple[int, int]) -> tuple[Tensor, ClassTargets]:
            images, labels = (part.to(device, non_blocking=True) for part in batch)
            targets = F.one_hot(labels, num_classes).float()
            images, targets = mix(images, targets, settings.mixup, settings.cutmix, draw)
            return images, ClassTargets(targets, teacher(images) if teacher else None)

        return prepare

    def eval_samples(self, card: Card) -> Samples:
        return Samples(self.val, card.preprocessing.transform())

    def measure(self, task: nn.Module, card: Card, loader: Any, accelerator: Accelerator) -> tuple[dict[str, Any], Any]:
        return evaluate_classifier(task, loader, len(card.classes), accelerator.device, accelerator)

    def headline(self, metrics: dict[str, Any]) -> str:
        return f"val loss {format_metric(metrics['loss'])}  top-1 {format_metric(metrics['top1'])}"

    def report(self, path: Path, card: Card, outcome: Any) -> None:
        summary = summarise_classification(card, self.val, outcome)
        write_run_report(path, card, read_metrics(path.parent), summary)

    def show_batch(self, path: Path, samples: Any, keys: list[tuple[int, int]], card: Card) -> None:
        pictures, captions = [], []
        for key in keys[:32]:
            image, label = samples[key]
            pictures.append(card.preprocessing.picture(image))
            captions.append(samples.images.classes[label])
        save_picture(contact_sheet(pictures, captions), path)


def training_args(model_args: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Keywords of the backbone in training: the card's, and the regularisation that only training knows."""
    rates = {"drop_path_rate": settings.drop_path, "drop_rate": settings.dropout}
    return {**model_args, **{name: rate for name, rate in rates.items() if rate}}
