"""A run from its settings to its folder, an interrupted one to its end, and a finished one measured."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from timm.utils import ModelEmaV3
from torch import nn

from featherbone.data.findings import listed
from featherbone.data.layouts import find_task
from featherbone.data.loading import Batches, train_loader
from featherbone.engine.accelerator import accelerate, count_workers
from featherbone.engine.batch_norm import synchronise
from featherbone.engine.classification import ClassificationJob
from featherbone.engine.detection import DetectionJob
from featherbone.engine.job import Job
from featherbone.engine.loop import Loop
from featherbone.engine.optimiser import build_optimiser, build_schedule, freeze_norms, freeze_parts
from featherbone.engine.run import load_state
from featherbone.engine.segmentation import PanopticJob, SemanticJob
from featherbone.engine.settings import Settings, complete
from featherbone.engine.tensorboard import curves
from featherbone.errors import BadData, BadOption, BadRun
from featherbone.progress import say
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.exported import beside, open_task
from featherbone.tasks.run import load_task
from featherbone.tasks.testing import Testing

CHANGEABLE = ("device", "workers", "save_seconds", "tensorboard")
"""Settings that a resumed run may change: none of them changes the result."""

JOBS: dict[str, type[Job]] = {
    "classification": ClassificationJob,
    "detection": DetectionJob,
    "instance": DetectionJob,
    "semantic": SemanticJob,
    "panoptic": PanopticJob,
}


def open_job(task: str, data: Path, settings: Settings) -> Job:
    """The job of a task on a data folder."""
    return JOBS[task](task, data, settings)


def start_run(data: Path, model: str, task: str | None, out: Path | None, settings: Settings) -> Path:
    """Train `model` on `data` into the folder `out`, by default a new one under runs/; the folder."""
    with accelerate(settings) as accelerator:
        return _start(accelerator, data, model, task, out, settings)


def _start(
    accelerator: Accelerator, data: Path, model: str, task: str | None, out: Path | None, settings: Settings
) -> Path:
    job = open_job(find_task(data, task), data, settings)
    card = job.card(model)
    if accelerator.is_main_process:
        for notice in job.notices:
            say(notice, "note")
    run = _agree(accelerator, new_folder(out, data, model) if accelerator.is_main_process else None)
    loop = build_loop(run, card, job, accelerator)
    if accelerator.is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        card.write(run)
        job.show_batch(run / "first_batch.jpg", loop.loader.dataset, next(iter(loop.batches)), card)
    accelerator.wait_for_everyone()
    return _finish(loop, job)


def resume_run(run: Path, given: Settings) -> Path:
    """Continue the run in its folder to the end, to the same weights as if it had never stopped."""
    card = Card.read(run)
    other = sorted(given.keys() - set(CHANGEABLE))
    if other:
        raise BadOption(f"a resumed run keeps its settings; only {', '.join(CHANGEABLE)} may change, not {other[0]}")
    load_state(run)  # a damaged one is refused before any work
    for partial in run.glob(".*.partial"):  # left by a process that was killed
        partial.unlink(missing_ok=True)
    settings: Any = {**complete(task=card.task), **card.settings, **given}
    data = Path(card.data["path"])
    with accelerate(settings) as accelerator:
        job = open_job(card.task, data, settings)
        if job.fingerprint() != card.data["fingerprint"]:
            raise BadRun(f"{data}: not the images this run began with; restore them, or start a new run")
        loop = build_loop(run, card, job, accelerator)
        loop.resume()
        return _finish(loop, job)


def evaluate_run(
    run: Path,
    data: Path | None,
    out: Path | None,
    device: str,
    workers: int | None,
    tiles: tuple[int, float] | None = None,
    testing: Testing | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Metrics of a run on the validation split of its own or another data folder, and the class names.

    `tiles` are the side in pixels of the tiles in which objects are sought, and the share of it that they overlap;
    `testing` is how images are looked at for semantic segmentation.
    """
    card, task = open_task(run)
    if data is None and "path" not in card.data:
        raise BadOption(f"{run}: an exported file does not say where its images lie; give their folder with --data DIR")
    folder = Path(card.data["path"]) if data is None else data
    job = open_measuring(card, folder, device, workers)
    if job.classes != card.classes:
        raise BadData(
            f"{folder}: classes {listed(job.classes)}, the run knows {listed(card.classes)}; "
            f"give data with the run's classes, in the same order"
        )
    for reason in job.skipped.values():
        say(reason, "left out")
    if tiles is not None:
        job.set_tiles(*tiles)
    if testing is not None and not testing.plain:
        job.set_testing(testing)
    with accelerate(job.settings) as accelerator:
        metrics, outcome = measure(job, card, task, accelerator)
        page = out or (beside(run, "report.html") if job.fingerprint() == card.data["fingerprint"] else None)
        if page is not None and accelerator.is_main_process:
            shown = replace(card, metrics={**card.metrics, **metrics}, data={**card.data, **job.about_data()})
            job.report(page, shown, outcome)
    return metrics, card.classes


def open_measuring(card: Card, folder: Path, device: str, workers: int | None) -> Job:
    """The job that measures a run's model, or files made of it, on a data folder."""
    settings: Any = {**complete(task=card.task), **card.settings, "device": device, "precision": "fp32"}
    settings |= {"accumulate": 1, "workers": workers}
    return open_job(find_task(folder, card.task), folder, settings)


def measurer(card: Card) -> tuple[str, Callable[[Any], float]]:
    """The name of a run's main metric, and what measures it, of any task with the run's classes, on the run's data."""
    job = open_measuring(card, Path(card.data["path"]), "cpu", None)

    def measure_task(task: Any) -> float:
        with accelerate(job.settings) as accelerator:
            return measure(job, card, task, accelerator)[0][job.metric] or 0.0

    return job.metric, measure_task


def measure(job: Job, card: Card, task: nn.Module, accelerator: Accelerator) -> tuple[dict[str, Any], Any]:
    """Metrics and outcome of a task over the validation images, each process taking its share."""
    loader = job.eval_loader(card, job.eval_batch, accelerator)
    return job.measure(task.to(accelerator.device).eval(), card, loader, accelerator)


def build_loop(run: Path, card: Card, job: Job, accelerator: Accelerator) -> Loop:
    """Everything a run needs, ready to `fit`; its pictures and pages appear in `run`."""
    settings, device = job.settings, accelerator.device
    batches = cut_batches(len(job.train), settings, accelerator)
    torch.manual_seed(settings["seed"])
    task = job.build(card, device).to(memory_format=torch.channels_last)  # convolutions are faster, on any device
    if settings["sync_batchnorm"]:
        task = synchronise(task, accelerator)
    freeze_parts(task.backbone, settings["freeze"])
    if settings["freeze_norm"]:
        freeze_norms(task.backbone)
    if settings["recompute"]:
        task.backbone.set_grad_checkpointing()
    optimiser = build_optimiser(task, task.backbone, settings)
    val = job.eval_loader(card, max(job.eval_batch // accelerator.num_processes, 1), accelerator)

    def evaluate(weights: nn.Module) -> dict[str, Any]:
        metrics, outcome = job.measure(weights.eval(), card, val, accelerator)
        if accelerator.is_main_process:
            job.show_outcome(run / "predictions.jpg", outcome)
        return metrics

    def on_best(metrics: dict[str, Any], epoch: int) -> None:
        replace(card, metrics={**metrics, "epoch": epoch}).write(run)

    workers = count_workers(settings["workers"], device)
    return Loop(
        run,
        accelerator,
        task,
        optimiser,
        build_schedule(optimiser, settings, batches.steps),
        train_loader(job.samples(card), batches, workers, device, type(job).collate),
        batches,
        job.preparer(card, device),
        evaluate,
        on_best,
        epochs=settings["epochs"] + settings["cooldown_epochs"],
        metric=job.metric,
        seed=settings["seed"],
        clip_grad=settings["clip_grad"],
        compile=settings["compile"],
        ema=ModelEmaV3(task, settings["ema"], use_warmup=True) if settings["ema"] else None,
        save_seconds=settings["save_seconds"],
        eval_every=settings["eval_every"],
    )


def cut_batches(count: int, settings: Settings, accelerator: Accelerator) -> Batches:
    """The batches of `count` images, this process's share. Raises `BadOption` where they do not divide."""
    rank, world = accelerator.process_index, accelerator.num_processes
    parts = world * settings["accumulate"]
    batch_size = min(settings["batch_size"], count // parts * parts)
    if batch_size % parts or not batch_size:
        raise BadOption(
            f"batch size {settings['batch_size']} does not divide into {world} processes x "
            f"{settings['accumulate']} parts; use a multiple of {parts}, at most {count} images"
        )
    return Batches(count, batch_size, parts, rank, world, settings["seed"])


def new_folder(out: Path | None, data: Path, model: str) -> Path:
    """`out`, which must be new or empty, or the first free name under runs/."""
    if out is None:
        name = f"{data.resolve().name}-{model}"
        names = [name, *(f"{name}-{i}" for i in range(2, 10_000))]
        return next(path for path in (Path("runs") / n for n in names) if not path.exists())
    if (out / CARD).is_file():
        raise BadOption(f"{out} already holds a run; resume it with --resume {out}, or choose another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadOption(f"{out} is not an empty folder; choose another --out")
    return out


def _agree(accelerator: Accelerator, run: Path | None) -> Path:
    """The main process's folder, in every process."""
    box = [run]
    if accelerator.num_processes > 1:
        broadcast_object_list(box)
    assert box[0] is not None, "the main process chooses the folder"
    return box[0]


def _finish(loop: Loop, job: Job) -> Path:
    """Train to the end, then measure the saved weights, as any user would, and report."""
    main = loop.accelerator.is_main_process
    with curves(loop.run, job.settings["tensorboard"] and main) as write:

        def on_epoch(row: dict[str, Any]) -> None:
            write(row)
            val = (
                f"  {job.headline(row['val'])}  best {max(loop.best, row['val'][job.metric]):.3f}" if row["val"] else ""
            )
            say(f"epoch {row['epoch']}/{loop.epochs}  loss {row['train']['loss']:.3f}{val}  {row['seconds']:.0f} s")

        loop.on_epoch = on_epoch
        loop.fit()
    card, task = load_task(loop.run)
    metrics, outcome = measure(job, card, task, loop.accelerator)
    if main:
        job.report(loop.run / "report.html", replace(card, metrics={**card.metrics, **metrics}), outcome)
    return loop.run
