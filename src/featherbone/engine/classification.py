"""A whole classification run, assembled from its settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.data.classification import LabelledImages, Splits, check_classes, listed, open_splits
from featherbone.data.layouts import find_task
from featherbone.data.loading import Batches, Samples, eval_loader, train_loader
from featherbone.data.mixing import mix
from featherbone.data.scan import find_unreadable, leave_out
from featherbone.data.transforms import training_transform
from featherbone.engine.accelerator import build_accelerator, count_workers
from featherbone.engine.evaluate import evaluate_classifier
from featherbone.engine.loop import Loop
from featherbone.engine.optimiser import build_optimiser, build_schedule, freeze_parts
from featherbone.engine.report import write_report
from featherbone.engine.settings import Settings, parse_model_args
from featherbone.engine.teacher import Teacher
from featherbone.errors import BadData, BadOption
from featherbone.progress import say
from featherbone.tasks.backbone import preprocessing_of, weights_licence
from featherbone.tasks.card import Card, versions
from featherbone.tasks.classification import Classifier, ClassTargets, build_classifier
from featherbone.tasks.run import load_task


def open_readable(data: Path, settings: Settings) -> tuple[Splits, dict[str, str]]:
    """Both splits without what cannot be read, and the reason for each image left out."""
    splits = open_splits(data, settings["val_share"], settings["seed"])
    bad = {split: find_unreadable(getattr(splits, split)) for split in ("train", "val")}
    reasons = {getattr(splits, split).name(i): why for split, found in bad.items() for i, why in found.items()}
    clean = replace(splits, train=leave_out(splits.train, bad["train"]), val=leave_out(splits.val, bad["val"]))
    check_classes(clean.train)
    return clean, reasons


def describe(data: Path, model: str, splits: Splits, skipped: dict[str, str], settings: Settings) -> Card:
    """The card a run starts with."""
    start = settings["pretrained"] or settings["checkpoint"]
    return Card(
        task="classification",
        backbone=model,
        classes=splits.classes,
        preprocessing=preprocessing_of(model, settings["image_size"]),
        model_args=parse_model_args(settings["model_args"]),
        data={
            "path": str(data.resolve()),
            "fingerprint": splits.fingerprint(),
            "train": len(splits.train),
            "val": len(splits.val),
            "skipped": skipped,
        },
        settings=dict(settings),
        weights_licence=weights_licence(model) if start else Card.weights_licence,
        versions=versions(),
    )


def build_loop(run: Path, card: Card, splits: Splits, settings: Settings, accelerator: Accelerator) -> Loop:
    """Everything a run needs, ready to `fit`; its pictures and pages appear in `run`."""
    device, parts = accelerator.device, accelerator.num_processes * settings["accumulate"]
    batch_size = min(settings["batch_size"], len(splits.train) // parts * parts)
    if batch_size % parts or not batch_size:
        raise BadOption(
            f"batch size {settings['batch_size']} does not divide into {accelerator.num_processes} processes x "
            f"{settings['accumulate']} parts; use a multiple of {parts}, at most {len(splits.train)} images"
        )
    torch.manual_seed(settings["seed"])
    task = build_classifier(
        card.backbone,
        card.classes,
        training_args(card.model_args, settings),
        pretrained=settings["pretrained"] or settings["checkpoint"] is not None,
        checkpoint=settings["checkpoint"],
        smoothing=settings["smoothing"],
        distillation=settings["distillation"],
        distillation_weight=settings["distillation_weight"],
        temperature=settings["temperature"],
    ).to(device)
    freeze_parts(task.backbone, settings["freeze"])
    if settings["recompute"]:
        task.backbone.set_grad_checkpointing()
    teacher = Teacher(settings["teacher"], card, device) if settings["teacher"] else None
    optimiser = build_optimiser(task.backbone, settings)
    batches = Batches(
        len(splits.train), batch_size, parts, accelerator.process_index, accelerator.num_processes, settings["seed"]
    )
    transform = training_transform(
        card.preprocessing,
        settings["auto_augment"],
        settings["color_jitter"],
        settings["erasing"],
        settings["flip"],
        settings["min_area"],
    )
    workers = count_workers(settings["workers"], device)
    val = eval_loader(
        Samples(splits.val, card.preprocessing.transform()),
        max(batch_size, 64) // accelerator.num_processes or 1,
        workers,
        device,
        accelerator.process_index,
        accelerator.num_processes,
    )
    num_classes = len(card.classes)

    def prepare(batch: Any, draw: tuple[int, int]) -> tuple[Tensor, ClassTargets]:
        images, labels = (part.to(device, non_blocking=True) for part in batch)
        targets = F.one_hot(labels, num_classes).float()
        images, targets = mix(images, targets, settings["mixup"], settings["cutmix"], draw)
        return images, ClassTargets(targets, teacher(images) if teacher else None)

    def evaluate(weights: nn.Module) -> dict[str, Any]:
        return evaluate_classifier(weights.eval(), val, num_classes, device, accelerator)[0]

    def on_best(metrics: dict[str, Any], epoch: int) -> None:
        replace(card, metrics={**metrics, "epoch": epoch}).write(run)

    return Loop(
        run,
        accelerator,
        task,
        optimiser,
        build_schedule(optimiser, settings, batches.steps),
        train_loader(Samples(splits.train, transform, settings["seed"]), batches, workers, device),
        batches,
        prepare,
        evaluate,
        on_best,
        epochs=settings["epochs"] + settings["cooldown_epochs"],
        metric="top1",
        seed=settings["seed"],
        clip_grad=settings["clip_grad"],
        compile=settings["compile"],
        ema=ModelEmaV3(task, settings["ema"], use_warmup=True) if settings["ema"] else None,
        save_seconds=settings["save_seconds"],
    )


def training_args(model_args: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Keywords of the backbone in training: the card's, and the regularisation that only training knows."""
    rates = {"drop_path_rate": settings["drop_path"], "drop_rate": settings["dropout"]}
    return {**model_args, **{name: rate for name, rate in rates.items() if rate}}


def report_on(run: Path, val: LabelledImages, accelerator: Accelerator, workers: int) -> None:
    """Measure the saved weights on `val`, as any user would, and write the run's report from the main process."""
    card, task = load_task(run)
    metrics, outcome = measure(card, task, val, accelerator, workers)
    if accelerator.is_main_process:
        write_report(run / "report.html", replace(card, metrics={**card.metrics, **metrics}), val, outcome)


def measure(
    card: Card, task: Classifier, val: LabelledImages, accelerator: Accelerator, workers: int
) -> tuple[dict[str, Any], Tensor]:
    """Metrics and outcome of a task over labelled images, each process taking its share."""
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    loader = eval_loader(Samples(val, card.preprocessing.transform()), 64, workers, device, rank, world)
    return evaluate_classifier(task.to(device).eval(), loader, len(card.classes), device, accelerator)


def evaluate_run(
    run: Path, data: Path | None, out: Path | None, device: str, workers: int | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Metrics of a run on the validation split of its own or another data folder, and the class names."""
    card, task = load_task(run)
    settings: Any = {**card.settings, "device": device, "precision": "fp32", "accumulate": 1}
    accelerator = build_accelerator(settings)
    folder = Path(card.data["path"]) if data is None else data
    find_task(folder, card.task)
    splits, skipped = open_readable(folder, settings)
    if splits.classes != card.classes:
        raise BadData(
            f"{folder}: classes {listed(splits.classes)}, the run knows {listed(card.classes)}; "
            f"give data with the run's classes, in the same order"
        )
    for reason in skipped.values():
        say(reason, "left out")
    workers = count_workers(workers, accelerator.device)
    metrics, outcome = measure(card, task, splits.val, accelerator, workers)
    page = out or (run / "report.html" if splits.fingerprint() == card.data["fingerprint"] else None)
    if page is not None and accelerator.is_main_process:
        shown = {
            **card.data,
            "path": str(folder.resolve()),
            "val": len(splits.val),
            "fingerprint": splits.fingerprint(),
        }
        write_report(page, replace(card, metrics={**card.metrics, **metrics}, data=shown), splits.val, outcome)
    return metrics, card.classes
