"""A run that finds objects, as boxes or with masks: what is its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from featherbone.data.anchor_boxes import fit_anchors, input_sizes, mean_best_iou
from featherbone.data.augment import Augmentation
from featherbone.data.detection import DetectionSplits, open_detection
from featherbone.data.layouts import find_task
from featherbone.data.objects import Objects
from featherbone.data.samples import DetectionSamples, collate, to_device
from featherbone.draw import contact_sheet, draw_detections, save_picture
from featherbone.engine.evaluate import Finds, evaluate_detector, evaluate_tiled, measure_found
from featherbone.engine.job import Job
from featherbone.engine.report_objects import write_objects_report
from featherbone.engine.settings import parse_keywords
from featherbone.errors import BadData
from featherbone.files import write_json
from featherbone.metrics.detection import read_coco_results, to_coco_results
from featherbone.ops import rle
from featherbone.ops.boxes import Target
from featherbone.progress import say
from featherbone.results import Instances
from featherbone.tasks.backbone import weights_licence
from featherbone.tasks.card import Card
from featherbone.tasks.detection import Detector, build_detector, detection_preprocessing, find_head
from featherbone.tasks.run import load_backbone
from featherbone.tasks.tiling import check_tiles

SHOWN = 12
"""Images on the picture of predictions."""


class DetectionJob(Job):
    """Detection, and with masks instance segmentation."""

    collate = staticmethod(collate)
    eval_batch = 16
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

    def open(self) -> DetectionSplits:
        s = self.settings
        return open_detection(self.data, s["val_share"], s["seed"], s["unlabelled"], self.masks)

    def check(self) -> None:
        for split, images in (("train", self.train), ("val", self.val)):
            if not any(any(not a.get("iscrowd", 0) for a in entry.annotations) for entry in images.entries):
                raise BadData(f"{self.data}: no object in the {split} images that can be read; annotate some")

    def fingerprint(self) -> str:
        return DetectionSplits(self.train, self.val, ()).fingerprint()

    def card(self, model: str) -> Card:
        settings = self.settings
        name, head = find_head(self.task, settings["head"])
        preprocessing = detection_preprocessing(model, head, settings["image_size"])
        head_args = parse_keywords(settings["head_args"], "head_args")
        if head_args.get("anchors") == "fit":
            sizes = input_sizes(self.train, preprocessing)
            head_args["anchors"] = fit_anchors(sizes, seed=settings["seed"])
            say(f"anchors fitted: mean best IoU {mean_best_iou(sizes, head_args['anchors']):.3f}", "note")
        return self.first_card(
            backbone=model,
            head=name,
            head_args=head_args,
            preprocessing=preprocessing,
            model_args=parse_keywords(settings["model_args"]),
            weights_licence=self.licence(model),
        )

    def licence(self, model: str) -> str:
        """Of the weights that training starts from."""
        if self.settings["backbone_from"]:
            return Card.read(Path(self.settings["backbone_from"])).weights_licence
        start = self.settings["pretrained"] or self.settings["checkpoint"]
        return weights_licence(model) if start else Card.weights_licence

    def build(self, card: Card, device: torch.device) -> Detector:
        settings = self.settings
        rates = {"drop_path_rate": settings["drop_path"]} if settings["drop_path"] else {}
        task = build_detector(
            card.backbone,
            card.task,
            card.head,
            card.classes,
            card.preprocessing,
            card.head_args,
            {**card.model_args, **rates},
            pretrained=settings["pretrained"] or settings["checkpoint"] is not None,
            checkpoint=settings["checkpoint"],
        )
        if settings["backbone_from"]:
            source = Path(settings["backbone_from"])
            load_backbone(source, Card.read(source), task.backbone, card.backbone)
            say(f"backbone from {source}", "note")
        return task.to(device)

    def samples(self, card: Card) -> DetectionSamples:
        names = ("flip", "scale", "photometric", "expand", "iou_crop", "mosaic")
        augmentation = Augmentation(**{name: self.settings[name] for name in names})  # type: ignore[literal-required]
        return DetectionSamples(self.train, card.preprocessing, augmentation, self.settings["seed"], self.masks)

    def preparer(self, card: Card, device: torch.device) -> Callable[[Any, tuple[int, int]], tuple[Any, Any]]:
        def prepare(batch: Any, draw: tuple[int, int]) -> tuple[Tensor, list[Target]]:
            images, targets = batch
            return images.to(device, non_blocking=True), to_device(targets, device)

        return prepare

    def eval_samples(self, card: Card) -> DetectionSamples:
        return DetectionSamples(self.val, card.preprocessing, None, self.settings["seed"], masks=False)

    def set_tiles(self, size: int, overlap: float) -> None:
        check_tiles(size, overlap)
        self.tiles = (size, overlap)

    def measure(self, task: nn.Module, card: Card, loader: Any, accelerator: Accelerator) -> tuple[dict[str, Any], Any]:
        if self.tiles is not None:
            return evaluate_tiled(task, self.val, card.preprocessing, self.masks, accelerator, *self.tiles)
        return evaluate_detector(task, self.val, loader, card.preprocessing, self.masks, accelerator)

    def headline(self, metrics: dict[str, Any]) -> str:
        loss = f"val loss {metrics['loss']:.3f}  " if "loss" in metrics else ""
        masks = f"  mask AP {metrics['mask_AP']:.3f}" if "mask_AP" in metrics else ""
        return f"{loss}AP {metrics['AP']:.3f}  AP50 {metrics['AP50']:.3f}{masks}"

    def report(self, path: Path, card: Card, outcome: Finds) -> None:
        write_objects_report(path, card, self.val, outcome)
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
        chosen = range(0, len(self.val), max(len(self.val) // SHOWN, 1))[:SHOWN]
        pictures = [draw_detections(self.val.read(i), outcome.records[i], score=outcome.score) for i in chosen]
        save_picture(contact_sheet(pictures, [self.val.name(i) for i in chosen], 4, 320), path)


def objects_of(target: Target, height: int, width: int) -> Objects:
    """What a training sample of that size asks for."""
    count = len(target.labels)
    masks = None if target.masks is None else tuple(rle.encode(mask) for mask in target.masks.numpy())
    boxes, labels = target.boxes.numpy(), target.labels.numpy()
    return Objects(height, width, boxes, labels, np.zeros(count, bool), np.zeros(count), masks)


def evaluate_results(results: Path, data: Path, masks: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Metrics of any tool's detections, in COCO's results format, on the validation images of a data folder."""
    find_task(data, "instance" if masks else "detection")
    images = open_detection(data, masks=masks).val
    sizes = {entry.image_id: (entry.height, entry.width) for entry in images.entries}
    found = read_coco_results(results, sizes, images.category_ids, images.classes)
    if masks and not all(isinstance(record, Instances) for record in found.values() if len(record)):
        raise BadData(f"{results}: some detections have no segmentation; leave --masks out, or add them")
    return measure_found(images, [found[entry.image_id] for entry in images.entries], masks)[0], images.classes
