"""A run that finds objects, as boxes or with masks: what is its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from featherbone.data.anchor_boxes import fit_anchors, input_sizes, mean_best_iou
from featherbone.data.detection import open_detection
from featherbone.data.objects import Objects
from featherbone.data.samples import DetectionSamples
from featherbone.data.sampling import spread
from featherbone.data.splits import Splits
from featherbone.draw import contact_sheet, draw_detections, save_picture
from featherbone.engine.dense import SHOWN, DenseJob
from featherbone.engine.evaluate import Finds, evaluate_detector, evaluate_tiled
from featherbone.engine.run import read_metrics
from featherbone.errors import BadData
from featherbone.files import write_json
from featherbone.metrics.detection import to_coco_results
from featherbone.ops import rle
from featherbone.ops.boxes import Target
from featherbone.progress import say
from featherbone.report import format_metric
from featherbone.report.run import summarise_detection, write_run_report
from featherbone.tasks.card import Card
from featherbone.tasks.tiling import check_tiles


class DetectionJob(DenseJob):
    """Detection, and with masks instance segmentation."""

    tiles: tuple[int, float] | None = None
    """Side in pixels and overlap of the tiles in which large images are searched, too."""

    @property
    def metric(self) -> str:  # type: ignore[override]  # a property serves as the attribute
        """The average precision of what is asked for."""
        return "mask_AP" if self.masks else "AP"

    @property
    def masks(self) -> bool:
        """Whether objects have masks to learn."""
        return self.task == "instance"

    def open(self) -> Splits:
        s = self.settings
        return open_detection(self.data, s.val_share, s.seed, s.unlabelled, self.masks, s.crowds)

    def check(self) -> None:
        for split, images in self.parts.items():
            if not any(any(not a.get("iscrowd", 0) for a in entry.annotations) for entry in images.entries):
                raise BadData(f"{self.data}: no object in the {split} images that can be read; annotate some")

    def fingerprint(self) -> str:
        return Splits(self.train, self.val, ()).fingerprint()

    def card(self, model: str) -> Card:
        card = super().card(model)
        if card.head_args.get("anchors") != "fit":
            return card
        sizes = input_sizes(self.train, card.preprocessing)
        anchors = fit_anchors(sizes, seed=self.settings.seed)
        say(f"anchors fitted: mean best IoU {mean_best_iou(sizes, anchors):.3f}", "note")
        return replace(card, head_args={**card.head_args, "anchors": anchors})

    def samples(self, card: Card) -> DetectionSamples:
        return DetectionSamples(self.train, card.preprocessing, self.augmentation(), self.settings.seed, self.masks)

    def eval_samples(self, card: Card) -> DetectionSamples:
        return DetectionSamples(self.val, card.preprocessing, None, self.settings.seed, masks=False)

    def set_tiles(self, size: int, overlap: float) -> None:
        check_tiles(size, overlap)
        self.tiles = (size, overlap)

    def measure(self, task: nn.Module, card: Card, loader: Any, accelerator: Accelerator) -> tuple[dict[str, Any], Any]:
        if self.tiles is not None:
            return evaluate_tiled(task, self.val, card.preprocessing, self.masks, accelerator, *self.tiles)
        return evaluate_detector(task, self.val, loader, card.preprocessing, self.masks, accelerator)

    def headline(self, metrics: dict[str, Any]) -> str:
        loss = f"val loss {format_metric(metrics['loss'])}  " if "loss" in metrics else ""
        masks = f"  mask AP {format_metric(metrics['mask_AP'])}" if "mask_AP" in metrics else ""
        return f"{loss}AP {format_metric(metrics['AP'])}  AP50 {format_metric(metrics['AP50'])}{masks}"

    def report(self, path: Path, card: Card, outcome: Finds) -> None:
        summary = summarise_detection(card, self.val, outcome.metrics, outcome.records, outcome.score)
        write_run_report(path, card, read_metrics(path.parent), summary)
        found = zip(self.val.entries, outcome.records, strict=True)
        rows = [row for e, record in found for row in to_coco_results(e.image_id, record, self.val.category_ids)]
        write_json(path.with_name("detections.json"), rows)

    def show_batch(self, path: Path, samples: Any, keys: list[tuple[int, int]], card: Card) -> None:
        pictures = []
        for key in keys[:SHOWN]:
            image, target = samples[key]
            asked = objects_of(target, image.shape[1], image.shape[2])
            pictures.append(draw_detections(card.preprocessing.picture(image), asked.record(self.classes)))
        save_picture(contact_sheet(pictures, [samples.images.name(i) for _, i in keys[:SHOWN]], 4, 320), path)

    def show_outcome(self, path: Path, outcome: Finds) -> None:
        chosen = spread(len(self.val), SHOWN)
        pictures = [draw_detections(self.val.read(i), outcome.records[i], score=outcome.score) for i in chosen]
        save_picture(contact_sheet(pictures, [self.val.name(i) for i in chosen], 4, 320), path)


def objects_of(target: Target, height: int, width: int) -> Objects:
    """What a training sample of that size asks for."""
    count = len(target.labels)
    masks = None if target.masks is None else tuple(rle.encode(mask) for mask in target.masks.numpy())
    boxes, labels = target.boxes.numpy(), target.labels.numpy()
    return Objects(height, width, boxes, labels, np.zeros(count, bool), np.zeros(count), masks)
