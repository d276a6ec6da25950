"""A task on a data set: everything that training and evaluation need to know of both."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from featherbone.data.anchor_boxes import fit_anchors, input_sizes, mean_best_iou
from featherbone.data.dataset import DataSet, EvaluationSplit, open_data
from featherbone.data.formats.format import Reading
from featherbone.data.loading import eval_loader
from featherbone.data.mixing import mix
from featherbone.data.scan import find_unreadable, leave_out
from featherbone.data.split import Split
from featherbone.draw import contact_sheet, draw_record, save_picture
from featherbone.engine.accelerator import count_workers
from featherbone.engine.run import read_metrics
from featherbone.engine.settings import Settings, parse_keywords
from featherbone.engine.start import load_published, starting_point
from featherbone.engine.teacher import Teacher
from featherbone.errors import BadData
from featherbone.files import write_json
from featherbone.metrics.detection import DetectionMetrics
from featherbone.metrics.outcome import SHOWN, Outcome
from featherbone.ops.boxes import Picked
from featherbone.progress import notify, track
from featherbone.report.run import write_run_report
from featherbone.tasks.card import Card, versions
from featherbone.tasks.inference import Inference
from featherbone.tasks.published import PUBLISHED
from featherbone.tasks.run import build_task, load_backbone
from featherbone.tasks.task import KINDS


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

    def fingerprint(self) -> str:
        """A hash of all names and annotations."""
        return DataSet(self.train, self.val).fingerprint()

    def card(self, model: str) -> Card:
        """The card that a run starts with."""
        s = self.settings
        name, head = self.kind.find_head(s.head)
        start = starting_point(model, s.pretrained, s.checkpoint, s.backbone_from, s.accept_licence)
        preprocessing = self.kind.preprocessing(start.backbone, head, s.image_size)
        head_args = {**start.head_args, **parse_keywords(s.head_args, "head_args")}
        if head_args.get("anchors") == "fit":
            sizes = input_sizes(self.train, preprocessing)
            head_args["anchors"] = fit_anchors(sizes, seed=s.seed)
            notify(f"anchors fitted: mean best IoU {mean_best_iou(sizes, head_args['anchors']):.3f}", "note")
        things = self.kind.things(self.train)
        data: dict[str, Any] = {
            "path": str(self.data.resolve()),
            "fingerprint": self.fingerprint(),
            "val_fingerprint": self.val.fingerprint(),
            **{split: len(images) for split, images in self.splits.items()},
            "skipped": self.skipped,
        }
        if things:
            data["category_ids"] = list(self.train.category_ids)
        return Card(
            task=self.kind.name,
            classes=self.val.classes,
            backbone=start.backbone,
            model_args={**start.model_args, **parse_keywords(s.model_args)},
            head=name,
            head_args=head_args,
            things=things,
            preprocessing=preprocessing,
            data=data,
            settings=s.to_dict(),
            weights_licence=start.licence,
            starting_weights=start.weights,
            versions=versions(),
        )

    def build(self, card: Card, device: torch.device, resumed: bool = False) -> Any:
        """The task to train, with the weights that it starts from, or of a `resumed` run with any."""
        s = self.settings
        rates = {"drop_path_rate": s.drop_path, "drop_rate": s.dropout}
        published = card.starting_weights in PUBLISHED
        start = (s.pretrained or s.checkpoint is not None) and not published and not resumed
        checkpoint = s.checkpoint if start else None
        task = build_task(card, start, checkpoint, **{name: rate for name, rate in rates.items() if rate})
        if published and not resumed:
            load_published(task, card, s.checkpoint)
        if s.backbone_from and not resumed:
            source = Path(s.backbone_from)
            load_backbone(source, Card.read(source), task.backbone, card.backbone)
            notify(f"backbone from {source}", "note")
        self.kind.set_loss(task, s, self.train)
        return task.to(device)

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

    def eval_loader(self, card: Card, batch_size: int, accelerator: Accelerator) -> DataLoader[Any]:
        """The evaluated images in order, this process's share."""
        return eval_loader(
            self.kind.samples(self.val, card.preprocessing, self.settings, training=False),
            1 if card.preprocessing.rule == "sides" else batch_size,
            count_workers(self.settings.workers, accelerator.device),
            accelerator.device,
            accelerator.process_index,
            accelerator.num_processes,
            self.kind.collate,
        )

    @torch.no_grad()
    def measure(
        self, task: Any, card: Card, accelerator: Accelerator, loader: DataLoader[Any] | None = None
    ) -> tuple[dict[str, Any], Outcome]:
        """Metrics of a task over the evaluated split, which they name, each process taking its share.

        With tiles or several views, images are read one by one and there is no validation loss; nor is there where a
        task has none.
        """
        task = task.to(accelerator.device).eval()
        outcome = self.kind.outcome(len(self.val), task.decoder)
        losses: list[Tensor] = []
        if self.inference.is_plain:
            loader = loader or self.eval_loader(card, self.kind.eval_batch, accelerator)
            records = self._from_batches(task, card, loader, accelerator.device, losses)
        else:
            records = self._from_views(task, card, accelerator)
        for index, record in records:
            outcome.add(index, self.val.truth(index), record)
        totals = [float(torch.stack(losses).cpu().double().sum()) if losses else 0.0]
        if accelerator.num_processes > 1:
            outcome.synchronise(gather_object)
            totals = gather_object(totals)
        outcome.finish()
        metrics = outcome.compute()
        if total := sum(totals):
            metrics["loss"] = total / len(self.val)
        outcome.score = metrics.get("best_score") or self.kind.score or 0.0
        return {**metrics, "split": self.split}, outcome

    def _from_batches(
        self, task: Any, card: Card, loader: DataLoader[Any], device: torch.device, losses: list[Tensor]
    ) -> Iterator[tuple[int, Any]]:
        """The index and the record of each image; the loss of each batch, times its images, goes to `losses`."""
        sampler: Any = loader.batch_sampler
        for keys, batch in track(zip(sampler, loader, strict=True), "evaluating", len(loader)):
            images, targets = self.kind.to_targets(batch, task.decoder, device)
            raw = task(images)
            if self.kind.has_validation_loss and not isinstance(raw, Picked):
                terms = task.losses(raw, targets)
                losses.append(len(keys) * torch.stack([term.float() for term in terms.values()]).sum())
            frames = [card.preprocessing.frame(*self.val.size(i)) for _, i in keys] if self.kind.heads else []
            yield from zip([index for _, index in keys], task.decoder(raw, frames), strict=True)

    def _from_views(self, task: Any, card: Card, accelerator: Accelerator) -> Iterator[tuple[int, Any]]:
        """The same from tiles or several views of each image."""
        own = range(accelerator.process_index, len(self.val), accelerator.num_processes)
        for index in track(own, "evaluating", len(own)):
            image = self.val.image(index)
            yield index, self.inference.record(task, card.preprocessing, image, accelerator.device, None)

    def report(self, path: Path, card: Card, outcome: Outcome) -> None:
        """Write the page of a run, and detections in COCO's results format beside it."""
        write_run_report(path, card, read_metrics(path.parent), self.val, outcome)
        if isinstance(outcome.metrics, DetectionMetrics):
            rows = outcome.metrics.coco_results(self.val.image_id, self.val.category_ids)
            write_json(path.with_name("detections.json"), rows)

    def show_batch(self, path: Path, samples: Any, keys: list[tuple[int, int]], card: Card) -> None:
        """Write a picture of augmented training images with their targets, before any mixing."""
        pictures = []
        for image, target in (samples[key] for key in keys[:SHOWN]):
            record = self.kind.target_record(target, image, self.train)
            pictures.append(draw_record(card.preprocessing.picture(image), record, legend=False))
        captions = [self.train.name(index) for _, index in keys[:SHOWN]]
        save_picture(contact_sheet(pictures, captions, 4, 320), path)

    def show_outcome(self, path: Path, outcome: Outcome) -> None:
        """Write a picture of what an evaluation found."""
        pictures = [
            draw_record(self.val.image(i), outcome.records[i], outcome.score, legend=False) for i in outcome.spread
        ]
        save_picture(contact_sheet(pictures, [self.val.name(i) for i in outcome.spread], 4, 320), path)
