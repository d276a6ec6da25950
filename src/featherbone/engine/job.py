"""A task on a data set: everything that training and evaluation need to know of both."""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from featherbone.data.anchor_boxes import fit_anchors, input_sizes, mean_best_iou
from featherbone.data.channels import find_channels, measure
from featherbone.data.dataset import DataSet, EvaluationSplit, open_data
from featherbone.data.findings import many
from featherbone.data.formats.format import Reading
from featherbone.data.loading import Key, eval_loader
from featherbone.data.mixing import mix
from featherbone.data.sampling import repeat_factors
from featherbone.data.skipped import Reader, Skipped, Unreadable, require_readable
from featherbone.data.split import without
from featherbone.data.transforms import JITTER, STORED_INTERPOLATIONS, Preprocessing
from featherbone.draw import contact_sheet, draw_record, save_picture
from featherbone.engine.accelerator import count_workers
from featherbone.engine.run import read_metrics
from featherbone.engine.settings import Settings
from featherbone.engine.start import load_published, starting_point
from featherbone.engine.teacher import Teacher
from featherbone.errors import BadOption
from featherbone.files import write_json
from featherbone.metrics.detection import DetectionMetrics
from featherbone.metrics.outcome import SHOWN, Outcome
from featherbone.ops.boxes import Picked
from featherbone.progress import notify, track
from featherbone.report.run import write_run_report
from featherbone.tasks.backbone import input_arguments
from featherbone.tasks.card import Card, versions
from featherbone.tasks.inference import Inference
from featherbone.tasks.published import PUBLISHED
from featherbone.tasks.run import build_task, load_backbone
from featherbone.tasks.task import KINDS
from featherbone.tasks.variant import parse_keywords


class Job:
    """A task on a data set.

    For training both splits are opened; else only the split that is evaluated. Images are read when they are needed.
    """

    def __init__(
        self,
        task: str,
        data: Path,
        settings: Settings,
        evaluated: EvaluationSplit | None = None,
        channels: int | None = None,
    ) -> None:
        self.kind, self.data, self.settings = KINDS[task], data, settings
        self.inference = Inference()
        self.splits: dict[str, Any]
        """The images, by the name of their split."""
        if evaluated is None:
            found = open_data(data, task, settings.val_share, settings.held_out_by, Reading.of(settings.to_dict()))
            self.splits, self.notices = {"train": found.train, "val": found.val}, (*found.notices, *found.warnings)
        else:
            self.splits, self.notices = {evaluated.split: evaluated.images}, evaluated.notices
        self.kind.check(data, self.splits, training=evaluated is None)
        self.split = list(self.splits)[-1]
        self.unread = {name: Skipped(data, name, len(images)) for name, images in self.splits.items()}
        """The images of each split that could not be read so far."""
        self.earlier: dict[str, str] = {}
        """Those that a run met before it was resumed."""
        self.channels = channels
        """As `Preprocessing.channels`."""
        if evaluated is None:
            self.channels = settings.channels or find_channels(self.train, data)
        require_readable(self.val, data, self.split, self.channels)

    @property
    def val(self) -> Any:
        """The images that are evaluated."""
        return self.splits[self.split]

    @property
    def train(self) -> Any:
        """The training images."""
        return self.splits["train"]

    @cached_property
    def factors(self) -> NDArray[np.float64] | None:
        """How often an epoch contains each training image on average (N,); None for once each."""
        threshold = self.settings.repeat_factor
        if threshold is None:
            return None
        images, labels = self.train.shown_classes()
        return repeat_factors(images, labels, len(self.train), threshold)

    @property
    def skipped(self) -> dict[str, str]:
        """The reason for each image that was replaced in training or omitted in evaluation, by name."""
        return self.earlier | {name: reason for one in self.unread.values() for name, reason in one.reasons.items()}

    def skip(self, split: str, met: dict[str, str]) -> None:
        """Count images that could not be read, and name each the first time. Raises `BadData` for too many."""
        for reason in self.unread[split].add(met):
            notify(reason, "skipped")

    def share_skipped(self, accelerator: Accelerator) -> None:
        """Join what all processes have met. Raises `BadData`, in every process, for too many."""
        if accelerator.num_processes > 1:
            for met in gather_object([{split: one.reasons for split, one in self.unread.items()}]):
                for split, reasons in met.items():
                    self.unread[split].add(reasons)

    def leave_out(self, names: Collection[str]) -> None:
        """Remove images, which an earlier version found before it trained."""
        for split, images in self.splits.items():
            self.splits[split] = without(images, names)

    def fingerprint(self) -> str:
        """A hash of all names and annotations."""
        return DataSet(self.train, self.val).fingerprint()

    def card(self, model: str) -> Card:
        """The card that a run starts with."""
        s = self.settings
        name, head = self.kind.find_head(s.head)
        start = starting_point(model, s.pretrained, s.checkpoint, s.backbone_from, s.accept_licence)
        preprocessing = self.kind.preprocessing(start.backbone, head, s.image_size)
        of_channels: dict[str, Any] = {}
        measured = 0
        if self.channels is not None:
            of_channels = {"in_chans": self.channels}
            preprocessing, measured = self.measured(preprocessing, start.weights)
        head_args = {**start.head_args, **parse_keywords(s.head_args, "head_args")}
        if head_args.get("anchors") == "fit":
            sizes = input_sizes(self.train, preprocessing)
            head_args["anchors"] = fit_anchors(sizes, seed=s.seed)
            notify(f"anchors fitted: mean best IoU {mean_best_iou(sizes, head_args['anchors']):.3f}", "note")
        of_size = input_arguments(start.backbone, preprocessing.height, preprocessing.width) if head is None else {}
        things = self.kind.things(self.train)
        data: dict[str, Any] = {
            "path": str(self.data.resolve()),
            "fingerprint": self.fingerprint(),
            "val_fingerprint": self.val.fingerprint(),
            **{split: len(images) for split, images in self.splits.items()},
            "skipped": {},
        }
        if measured:
            data["measured"] = measured
        if things:
            data["category_ids"] = list(self.train.category_ids)
        return Card(
            task=self.kind.name,
            classes=self.val.classes,
            backbone=start.backbone,
            model_args={**of_size, **of_channels, **start.model_args, **parse_keywords(s.model_args)},
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

    def measured(self, preprocessing: Preprocessing, weights: str) -> tuple[Preprocessing, int]:
        """The preprocessing of images with `channels`, normalised by what is measured on how many training images.

        Raises `BadOption` for starting `weights` that take RGB and cannot be adapted.
        """
        assert self.channels is not None, "there is nothing to measure for RGB"
        if weights in PUBLISHED:
            model = PUBLISHED[weights].backbone
            raise BadOption(f"{weights} takes RGB pictures, not {self.channels} channels; pass --model {model}")
        mean, std, count = measure(self.train, self.channels, self.data)
        notify(f"{self.channels} channels: mean and std measured on {many(count, 'training image')}", "note")
        if unused := [name for name in JITTER if name in self.kind.options and getattr(self.settings, name)]:
            notify(f"{', '.join(unused)}: without effect for images with {self.channels} channels", "note")
        usual = preprocessing.interpolation in STORED_INTERPOLATIONS
        interpolation = preprocessing.interpolation if usual else STORED_INTERPOLATIONS[-1]
        stored = replace(preprocessing, channels=self.channels, mean=mean, std=std, interpolation=interpolation)
        return stored, count

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
            records = self.records(task, card, loader, accelerator.device, losses)
        else:
            records = self._from_views(task, card, accelerator)
        for index, record in records:
            outcome.add(index, self.val.truth(index), record)
        totals = [float(torch.stack(losses).cpu().double().sum()) if losses else 0.0]
        self.share_skipped(accelerator)
        if len(self.unread[self.split].reasons) == len(self.val):
            require_readable(self.val, self.data, self.split, self.channels)
        if accelerator.num_processes > 1:
            outcome.synchronise(gather_object)
            totals = gather_object(totals)
        outcome.finish()
        metrics = outcome.compute()
        if total := sum(totals):
            metrics["loss"] = total / metrics["images"]
        outcome.score = metrics.get("best_score") or self.kind.score or 0.0
        return {**metrics, "split": self.split}, outcome

    def records(
        self, task: Any, card: Card, loader: DataLoader[Any], device: torch.device, losses: list[Tensor] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """The index and the record of each image; the loss of each batch, times its images, goes to `losses`."""
        for keys, batch, met in track(loader, "evaluating", len(loader)):
            self.skip(self.split, met)
            if not keys:
                continue
            images, targets = self.kind.to_targets(batch, task.decoder, device)
            raw = task(images)
            if losses is not None and self.kind.has_validation_loss and not isinstance(raw, Picked):
                terms = task.losses(raw, targets)
                losses.append(len(keys) * torch.stack([term.float() for term in terms.values()]).sum())
            frames = [card.preprocessing.frame(*self.val.size(i)) for _, i, *_ in keys] if self.kind.heads else []
            yield from zip([index for _, index, *_ in keys], task.decoder(raw, frames), strict=True)

    def _from_views(self, task: Any, card: Card, accelerator: Accelerator) -> Iterator[tuple[int, Any]]:
        """The same from tiles or several views of each image."""
        own = range(accelerator.process_index, len(self.val), accelerator.num_processes)
        read = Reader(self.val, self.settings.seed, training=False, channels=card.preprocessing.channels)
        for index in track(own, "evaluating", len(own)):
            with suppress(Unreadable):
                image, _ = read(0, index)
                yield index, self.inference.record(task, card.preprocessing, image, accelerator.device, None)
            self.skip(self.split, read.take_met())

    def report(self, path: Path, card: Card, outcome: Outcome, detections: str = "detections.json") -> None:
        """Write the page of a run, and beside it the counts of images, and `detections` in COCO's results format."""
        write_run_report(path, card, read_metrics(path.parent), self.val, outcome)
        if (counts := outcome.metrics.counts()) is not None:
            counts.write(path.with_suffix(".npz"), self.val.fingerprint())
        if isinstance(outcome.metrics, DetectionMetrics):
            rows = outcome.metrics.coco_results(self.val.image_id, self.val.category_ids)
            write_json(path.with_name(detections), rows)

    def show_batch(self, path: Path, samples: Any, keys: list[Key], card: Card) -> None:
        """Write a picture of augmented training images with their targets, before any mixing."""
        pictures = []
        for image, target in (samples[key] for key in keys[:SHOWN]):
            record = self.kind.target_record(target, image, self.train)
            pictures.append(draw_record(card.preprocessing.picture(image), record, legend=False))
        self.skip("train", met := samples.reader.take_met())
        names = [self.train.name(index) for _, index, *_ in keys[:SHOWN]]
        captions = [f"in place of {name}" if name in met else name for name in names]
        save_picture(contact_sheet(pictures, captions, 4, 320), path)

    def show_outcome(self, path: Path, outcome: Outcome) -> None:
        """Write a picture of what an evaluation found."""
        pictures = [
            draw_record(self.val.image(i, self.channels), outcome.records[i], outcome.score, legend=False)
            for i in outcome.spread
        ]
        save_picture(contact_sheet(pictures, [self.val.name(i) for i in outcome.spread], 4, 320), path)
