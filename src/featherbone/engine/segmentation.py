"""Runs that give every pixel a class or a segment: what is their own."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from featherbone.data.panoptic import PanopticImages
from featherbone.data.samples import PanopticSamples, SemanticSamples
from featherbone.data.segmentation import open_segmentation
from featherbone.data.semantic import check_two_classes, count_pixels
from featherbone.data.splits import Splits
from featherbone.draw import contact_sheet, draw_panoptic, draw_semantic, save_picture
from featherbone.engine.dense import SHOWN, DenseJob
from featherbone.engine.evaluate_maps import Kept, evaluate_panoptic, evaluate_segmenter
from featherbone.engine.run import read_metrics
from featherbone.errors import BadData, BadOption
from featherbone.heads.pixels import PixelLoss
from featherbone.ops.label_maps import IGNORE, PanopticTarget
from featherbone.report import format_metric
from featherbone.report.run import summarise_maps, write_run_report
from featherbone.results import PanopticMap, SemanticMap
from featherbone.tasks.card import Card
from featherbone.tasks.panoptic import panoptic_map
from featherbone.tasks.testing import Testing

WEIGHT = 10.0
"""Largest weight of a class by its frequency."""


class MapsJob(DenseJob):
    """What is the same of semantic and panoptic segmentation."""

    def open(self) -> Splits:
        s = self.settings
        return open_segmentation(self.data, self.task, s.val_share, s.seed, s.ignore_index, s.zero_ignored)

    def fingerprint(self) -> str:
        return Splits(self.train, self.val, ()).fingerprint()

    def draw(self, image: Any, record: Any) -> Any:
        """A record on its image, without its legend."""
        return (draw_panoptic if self.task == "panoptic" else draw_semantic)(image, record, legend=False)

    @abstractmethod
    def asked(self, target: Any) -> Any:
        """What a training sample asks for, as a record."""

    @abstractmethod
    def truth(self, index: int) -> Any:
        """What a perfect network would say of a validation image."""

    def write_report(self, path: Path, card: Card, outcome: Kept, names: dict[str, str], notes: Sequence[str]) -> None:
        """The page of the run, with these metrics by key and these notes on the classes."""

        def compare(i: int) -> tuple[list[Image.Image], list[str]]:
            image = self.val.read(i)
            score = f" {outcome.scores[i]:.2f}" if i in outcome.scores else ""
            pictures = [image, self.draw(image, self.truth(i)), self.draw(image, outcome.records[i])]
            return pictures, [Path(self.val.name(i)).name, "ground truth", f"prediction{score}"]

        summary = summarise_maps(card, names, notes, outcome.worst, outcome.spread, compare)
        write_run_report(path, card, read_metrics(path.parent), summary)

    def show_batch(self, path: Path, samples: Any, keys: list[tuple[int, int]], card: Card) -> None:
        pictures = []
        for key in keys[:SHOWN]:
            image, target = samples[key]
            pictures.append(self.draw(card.preprocessing.picture(image), self.asked(target)))
        save_picture(contact_sheet(pictures, [samples.images.name(i) for _, i in keys[:SHOWN]], 4, 320), path)

    def show_outcome(self, path: Path, outcome: Kept) -> None:
        pictures = [self.draw(self.val.read(i), outcome.records[i]) for i in outcome.spread]
        save_picture(contact_sheet(pictures, [self.val.name(i) for i in outcome.spread], 4, 320), path)


class SemanticJob(MapsJob):
    """A class for every pixel."""

    metric = "mIoU"
    testing = Testing()
    """How images are looked at."""

    def check(self) -> None:
        if self.is_training:
            check_two_classes(self.train)
        if not any((self.val.labels(i) != IGNORE).any() for i in range(len(self.val))):
            raise BadData(f"{self.data}: no pixel of the {self.split} images has a class; mark some")

    def build(self, card: Card, device: torch.device) -> Any:
        task = super().build(card, device)
        task.loss = PixelLoss(self.class_weights(), self.settings.hard_share, self.settings.dice)
        return task

    def class_weights(self) -> tuple[float, ...] | None:
        """As the settings say: numbers, or for each class the median frequency over its own (arXiv 1411.4734)."""
        asked = self.settings.class_weights
        if not asked:
            return None
        if asked == "balanced":
            counts = count_pixels(self.train).astype(float)
            weights = np.median(counts[counts > 0]) / np.maximum(counts, 1)
            return tuple(np.where(counts > 0, weights.clip(1 / WEIGHT, WEIGHT), 1.0).tolist())
        try:
            numbers = tuple(float(word) for word in asked.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != len(self.classes) or min(numbers) < 0 or max(numbers) <= 0:
            raise BadOption(
                f"class_weights {asked!r}: write balanced, or {len(self.classes)} numbers with commas between, one for "
                f"each of {', '.join(self.classes[:5])} ..."
            )
        return numbers

    def samples(self, card: Card) -> SemanticSamples:
        return SemanticSamples(self.train, card.preprocessing, self.augmentation(), self.settings.seed)

    def eval_samples(self, card: Card) -> SemanticSamples:
        return SemanticSamples(self.val, card.preprocessing, None, self.settings.seed)

    def set_testing(self, testing: Testing) -> None:
        self.testing = testing

    def measure(self, task: nn.Module, card: Card, loader: Any, accelerator: Accelerator) -> tuple[dict[str, Any], Any]:
        return evaluate_segmenter(task, self.val, loader, card.preprocessing, accelerator, self.testing)

    def headline(self, metrics: dict[str, Any]) -> str:
        values = {"val loss": "loss", "mIoU": "mIoU", "pixels": "pixel_accuracy"}
        return "  ".join(f"{name} {format_metric(metrics[key])}" for name, key in values.items())

    def report(self, path: Path, card: Card, outcome: Kept) -> None:
        names = {"mIoU": "mIoU", "boundary_mIoU": "boundary mIoU", "pixel_accuracy": "pixel accuracy"}
        names |= {"mean_accuracy": "mean accuracy"}
        pixels = np.array(card.metrics["pixels"], float)
        notes = [f"{share:.2%} of the pixels" for share in pixels / max(pixels.sum(), 1)]
        self.write_report(path, card, outcome, names, notes)

    def truth(self, index: int) -> SemanticMap:
        return SemanticMap(self.val.labels(index), self.classes)

    def asked(self, target: Tensor) -> SemanticMap:
        return SemanticMap(target.numpy().astype(np.uint8), self.classes)


class PanopticJob(MapsJob):
    """A segment for every pixel."""

    metric = "PQ"
    eval_batch = 8

    def check(self) -> None:
        if not self.val.things:
            raise BadData(f"{self.data}: no class is a thing (isthing 1); train semantic segmentation instead")

    def card(self, model: str) -> Card:
        about = {"category_ids": list(self.train.category_ids)}
        card = super().card(model)
        return replace(card, things=self.train.things, data={**card.data, **about})

    def samples(self, card: Card) -> PanopticSamples:
        return PanopticSamples(self.train, card.preprocessing, self.augmentation(), self.settings.seed)

    def eval_samples(self, card: Card) -> PanopticSamples:
        return PanopticSamples(self.val, card.preprocessing, None, self.settings.seed)

    def measure(self, task: nn.Module, card: Card, loader: Any, accelerator: Accelerator) -> tuple[dict[str, Any], Any]:
        return evaluate_panoptic(task, self.val, loader, card.preprocessing, accelerator)

    def headline(self, metrics: dict[str, Any]) -> str:
        return "  ".join(
            f"{name.replace('_', ' ')} {metrics[name]:.3f}"
            for name in ("PQ", "PQ_things", "PQ_stuff")
            if metrics.get(name) is not None
        )

    def report(self, path: Path, card: Card, outcome: Kept) -> None:
        names = {"PQ": "PQ", "SQ": "SQ", "RQ": "RQ", "PQ_things": "PQ of things", "PQ_stuff": "PQ of stuff"}
        notes = [f"{count} segments" for count in card.metrics["segments"]]
        self.write_report(path, card, outcome, names, notes)

    def truth(self, index: int) -> PanopticMap:
        return truth_map(self.val, index)

    def asked(self, target: PanopticTarget) -> PanopticMap:
        ids = target.stuff.numpy().astype(np.int32)
        kinds = [i for i in np.unique(ids).tolist() if 0 < i < IGNORE]
        laid = np.zeros(IGNORE + 1, np.int32)
        laid[kinds] = 1 + np.arange(len(kinds))
        ids = laid[ids]
        about: list[tuple[int, float | None]] = [(self.train.stuff[kind - 1], None) for kind in kinds]
        assert target.things.masks is not None, "panoptic samples have masks"
        for mask, label in zip(target.things.masks.numpy(), target.things.labels.tolist(), strict=True):
            about.append((self.train.things[label], 1.0))
            ids[mask] = len(about)
        return panoptic_map(ids, about, self.classes, self.train.things)


def truth_map(images: PanopticImages, index: int) -> PanopticMap:
    """What a perfect network would say of an image."""
    places, parts = images.segments(index)
    return panoptic_map(places, [(part.label, None) for part in parts], images.classes, images.things)
