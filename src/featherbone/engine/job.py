"""A task on a data set: everything that training and evaluation need to know of both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from featherbone.data.anchor_boxes import fit_anchors, input_sizes, mean_best_iou
from featherbone.data.dataset import DataSet, EvaluationSplit, open_data
from featherbone.data.formats.format import Reading
from featherbone.data.loading import eval_loader
from featherbone.data.mixing import mix
from featherbone.data.scan import find_unreadable, leave_out
from featherbone.data.split import Split
from featherbone.draw import contact_sheet, draw_record, save_picture
from featherbone.engine.accelerator import count_workers
from featherbone.engine.evaluate import evaluate
from featherbone.engine.run import read_metrics
from featherbone.engine.settings import Settings, parse_keywords
from featherbone.engine.teacher import Teacher
from featherbone.errors import BadData
from featherbone.files import write_json
from featherbone.metrics.detection import DetectionMetrics
from featherbone.metrics.outcome import SHOWN, Outcome
from featherbone.progress import notify
from featherbone.report import format_metric
from featherbone.report.run import write_run_report
from featherbone.tasks.backbone import weights_licence
from featherbone.tasks.card import Card, versions
from featherbone.tasks.inference import Inference
from featherbone.tasks.run import build_task, load_backbone
from featherbone.tasks.task import KINDS

HEADLINES = 3
"""Metrics printed after an epoch."""


class Job:
    """A task on a data set, opened without the images that cannot be read.

    For training both splits are opened; else only the split that is evaluated.
    """

    def __init__(self, task: str, data: Path, settings: Settings, evaluated: EvaluationSplit | None = None) -> None:
        self.kind, self.data, self.settings = KINDS[task], data, settings
        self.inference = Inference()
        opened: dict[str, Split[Any]]
        if evaluated is None:
            found = open_data(data, task, settings.val_share, settings.seed, Reading.of(settings.to_dict()))
            opened, notices = {"train": found.train, "val": found.val}, (*found.notices, *found.warnings)
        else:
            opened, notices = {evaluated.split: evaluated.images}, evaluated.notices
        self.skipped: dict[str, str] = {}
        """The reason for each image that was left out, by name."""
        self.splits: dict[str, Any] = {}
        """The readable images, by the name of their split."""
        for name, images in opened.items():
            unreadable = find_unreadable(images)
            self.skipped |= {images.name(index): reason for index, reason in unreadable.items()}
            self.splits[name] = leave_out(images, unreadable)
        self.notices = (*notices, *(f"left out: {reason}" for reason in self.skipped.values()))
        if not all(map(len, self.splits.values())):
            raise BadData(f"{data}: no image of one split can be read; the first: {next(iter(self.skipped.values()))}")
        self.split, self.val = list(self.splits.items())[-1]
        self.kind.check(data, self.splits, training=evaluated is None)

    @property
    def train(self) -> Any:
        """The training images."""
        return self.splits["train"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.val.classes

    def describe_data(self) -> dict[str, Any]:
        """What a card states about the data."""
        return {
            "path": str(self.data.resolve()),
            "fingerprint": self.fingerprint(),
            "val_fingerprint": self.val.fingerprint(),
            **{name: len(images) for name, images in self.splits.items()},
            "skipped": self.skipped,
        }

    def fingerprint(self) -> str:
        """A hash of all names and annotations."""
        return DataSet(self.train, self.val).fingerprint()

    def card(self, model: str) -> Card:
        """The card that a run starts with."""
        s = self.settings
        name, head = self.kind.find_head(s.head)
        things = self.kind.things(self.train)
        data = self.describe_data() | ({"category_ids": list(self.train.category_ids)} if things else {})
        card = Card(
            task=self.kind.name,
            classes=self.classes,
            backbone=model,
            model_args=parse_keywords(s.model_args),
            head=name,
            head_args=parse_keywords(s.head_args, "head_args"),
            things=things,
            preprocessing=self.kind.preprocessing(model, head, s.image_size),
            data=data,
            settings=s.to_dict(),
            weights_licence=self._licence(model),
            versions=versions(),
        )
        if card.head_args.get("anchors") != "fit":
            return card
        sizes = input_sizes(self.train, card.preprocessing)
        anchors = fit_anchors(sizes, seed=s.seed)
        notify(f"anchors fitted: mean best IoU {mean_best_iou(sizes, anchors):.3f}", "note")
        return replace(card, head_args={**card.head_args, "anchors": anchors})

    def _licence(self, model: str) -> str:
        """The licence of the weights that training starts from."""
        s = self.settings
        if s.backbone_from:
            return Card.read(Path(s.backbone_from)).weights_licence
        return weights_licence(model, s.pretrained, s.checkpoint)

    def build(self, card: Card, device: torch.device) -> Any:
        """The task to train, with the weights that it starts from."""
        s = self.settings
        rates = {"drop_path_rate": s.drop_path, "drop_rate": s.dropout}
        start = s.pretrained or s.checkpoint is not None
        task = build_task(card, start, s.checkpoint, **{name: rate for name, rate in rates.items() if rate})
        if s.backbone_from:
            source = Path(s.backbone_from)
            load_backbone(source, Card.read(source), task.backbone, card.backbone)
            notify(f"backbone from {source}", "note")
        self.kind.set_loss(task, s, self.train)
        return task.to(device)

    def samples(self, card: Card) -> Any:
        """Augmented training samples by (epoch, index)."""
        return self.kind.samples(self.train, card.preprocessing, self.settings, training=True)

    def preparer(self, card: Card, decoder: Any, device: torch.device) -> Callable[..., tuple[Tensor, Any]]:
        """What turns a loaded batch and (seed, step) into images and targets on the device."""
        s = self.settings
        teacher = Teacher(s.teacher, card, device) if s.teacher else None

        def prepare(batch: Any, draw: tuple[int, int]) -> tuple[Tensor, Any]:
            images, targets = self.kind.to_targets(batch, decoder, device)
            if s.mixup or s.cutmix:
                images, labels = mix(images, targets.labels, s.mixup, s.cutmix, draw)
                targets = targets._replace(labels=labels)
            return images, targets._replace(teacher=teacher(images)) if teacher else targets

        return prepare

    def eval_loader(self, card: Card, batch_size: int, accelerator: Accelerator) -> Any:
        """The evaluated images in order, this process's share."""
        return eval_loader(
            self.kind.samples(self.val, card.preprocessing, self.settings, training=False),
            batch_size,
            count_workers(self.settings.workers, accelerator.device),
            accelerator.device,
            accelerator.process_index,
            accelerator.num_processes,
            self.kind.collate,
        )

    def measure(
        self, task: Any, card: Card, accelerator: Accelerator, loader: Any = None
    ) -> tuple[dict[str, Any], Outcome]:
        """Metrics of a task over the evaluated split, which they name, each process taking its share."""
        task = task.to(accelerator.device).eval()
        metrics, outcome = evaluate(
            task,
            card,
            self.val,
            loader or self.eval_loader(card, self.kind.eval_batch, accelerator),
            lambda batch: self.kind.to_targets(batch, task.decoder, accelerator.device),
            accelerator,
            self.inference,
        )
        return {**metrics, "split": self.split}, outcome

    def headline(self, metrics: dict[str, Any]) -> str:
        """The metrics in a few words."""
        loss = [f"val loss {format_metric(metrics['loss'])}"] if "loss" in metrics else []
        names = list(self.kind.figures.items())[:HEADLINES]
        return "  ".join([*loss, *(f"{name} {format_metric(metrics[key])}" for key, name in names)])

    def report(self, path: Path, card: Card, outcome: Outcome) -> None:
        """Write the page of a run, and detections in COCO's results format beside it."""
        write_run_report(path, card, read_metrics(path.parent), self.val, outcome)
        if isinstance(outcome.metrics, DetectionMetrics):
            rows = outcome.metrics.coco_results(self.val.image_id, self.val.category_ids)
            write_json(path.with_name("detections.json"), rows)

    def show_batch(self, path: Path, samples: Any, keys: list[tuple[int, int]], card: Card) -> None:
        """Write a picture of augmented training images with their targets, before any mixing."""
        pictures, captions = [], []
        for key in keys[:SHOWN]:
            image, target = samples[key]
            record = self.kind.target_record(target, image, self.train)
            pictures.append(draw_record(card.preprocessing.picture(image), record, legend=False))
            captions.append(self.train.name(key[1]))
        save_picture(contact_sheet(pictures, captions, 4, 320), path)

    def show_outcome(self, path: Path, outcome: Outcome) -> None:
        """Write a picture of what an evaluation found."""
        score = outcome.score
        chosen = outcome.spread
        pictures = [draw_record(self.val.image(i), outcome.records[i], score, legend=False) for i in chosen]
        save_picture(contact_sheet(pictures, [self.val.name(i) for i in chosen], 4, 320), path)
