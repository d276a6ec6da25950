"""Training a run from its settings, resuming an interrupted one, and evaluating a finished one."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from featherbone.data.dataset import open_evaluation
from featherbone.data.findings import many
from featherbone.data.formats import find_task
from featherbone.data.split import FORM, without
from featherbone.engine.accelerator import accelerate
from featherbone.engine.budget import fit_machine
from featherbone.engine.job import Job
from featherbone.engine.loop import PREDICTIONS, Loop
from featherbone.engine.run import METRICS, STATE, load_state
from featherbone.engine.settings import Settings, from_card
from featherbone.engine.start import starting_words
from featherbone.engine.trackers import require_trackers, tracked
from featherbone.errors import BadOption, BadRun
from featherbone.exporters.exported import beside, open_task
from featherbone.files import check_new_folder, check_writable, locked, writing
from featherbone.metrics.operating_point import parse_target
from featherbone.progress import notify
from featherbone.report import format_metric
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.inference import Inference
from featherbone.tasks.published import PUBLISHED
from featherbone.tasks.run import load_task
from featherbone.tasks.task import KINDS, kind_of
from featherbone.tasks.variant import variant_path

HEADLINES = 3
"""Metrics printed after an epoch."""
CHANGEABLE = ("device", "workers", "save_seconds", "tracker")
"""Settings that a resumed run may change: none of them has an effect on the result."""


def start_run(
    data: Path, model: str, task: str | None, out: Path | None, settings: Settings, resume: bool = False
) -> Path:
    """Train `model` on `data` into the folder `out`, by default a new one under runs/; the folder.

    With `resume`, a run that `out` holds is continued; it must have begun with the same model and settings.
    """
    found = find_task(data, task)
    require_trackers(settings.tracker)
    with ExitStack() as stack:
        accelerator = stack.enter_context(accelerate(settings))
        main = accelerator.is_main_process
        begun = resume and out is not None and (out / CARD).is_file()
        claim = stack.enter_context(claimed(out, data, model)) if main and not begun else out
        [run, begun] = broadcast_object_list([claim, begun])  # the main process decides
        if not run.is_dir():
            raise BadRun(f"{run} is not on this machine; give a folder that all machines share, with --out")
        if begun:
            card = Card.read(run)
            require_same(run, card, model, settings)
            settings = from_card(card.settings, card.task, **{name: getattr(settings, name) for name in CHANGEABLE})
            return _resume(stack, accelerator, run, card, settings, data)
        job = Job(found, data, settings)
        total = len(job.train)
        with accelerator.local_main_process_first():  # it downloads
            card = job.card(model)
        fit_machine(card, job, accelerator)
        card = replace(card, settings=job.settings.to_dict())
        if main:
            for notice in job.notices:
                notify(notice, "note")
            notify(starting_words(card), "note")
            if settings.batch_size == "auto":
                notify(f"batch size {job.settings.batch_size}; the learning rate stays {settings.lr:g}", "note")
            elif job.settings.batch_size != settings.batch_size:
                sizes = f"{job.settings.batch_size}, not {settings.batch_size}"
                notify(f"batch size {sizes}: there are {total} training images", "note")
            if (factors := job.factors) is not None:
                more = f"{(factors > 1).sum()} of {total} images are repeated, at most {factors.max():.1f} times"
                notify(f"an epoch has {int(factors.sum())} images: {more}", "note")
            if settings.minutes is not None:
                notify(f"{settings.minutes:g} minutes are enough for {many(job.settings.epochs, 'epoch')}", "note")
        return _train(run, card, job, accelerator, begun=False)


def resume_run(run: Path, given: Mapping[str, Any], data: Path | None = None) -> Path:
    """Continue the run in its folder to the end, to the same weights as if it had never stopped.

    `data` is the new location of the run's images, if they were moved. A run that was stopped before its first state
    starts from the beginning.
    """
    card = Card.read(run)
    other = sorted(given.keys() - set(CHANGEABLE))
    if other:
        raise BadOption(f"a resumed run keeps its settings; only {', '.join(CHANGEABLE)} may change, not {other[0]}")
    settings = from_card(card.settings, card.task, **given)
    require_trackers(settings.tracker)
    folder = card.data_folder("give its new location with --data DIR") if data is None else data
    with ExitStack() as stack:
        accelerator = stack.enter_context(accelerate(settings))
        return _resume(stack, accelerator, run, card, settings, folder)


def require_same(run: Path, card: Card, model: str, settings: Settings) -> None:
    """Raise `BadOption` unless the run of a card began with this model and these settings, which have an effect."""
    began = from_card(card.settings, card.task).to_dict() | {"model": card.starting_weights}
    if model not in PUBLISHED:
        began["model"] = card.backbone
    fitted = ("batch_size", *(() if settings.minutes is None else ("epochs",)))  # to the images, and to the time
    for name, value in {**settings.to_dict(), "model": model}.items():
        if name not in (*CHANGEABLE, *fitted) and began[name] != value:
            raise BadOption(
                f"{run} holds a run that was started with {name} {began[name]!r}, not {value!r}; give the options that "
                f"it was started with, continue it with --resume {run}, or choose another --out"
            )


def _resume(
    stack: ExitStack, accelerator: Accelerator, run: Path, card: Card, settings: Settings, folder: Path
) -> Path:
    """Continue a run on the data in `folder`; the run folder, which the main process holds until `stack` is closed."""
    if accelerator.is_main_process:
        stack.enter_context(locked(run))
        for partial in run.glob(".*.partial"):  # left by a process that was killed
            partial.unlink(missing_ok=True)
    begun = (run / STATE).is_file()
    if begun:
        load_state(run)  # a damaged one is refused before any work
    elif (run / METRICS).exists():
        raise BadRun(f"{run}: nothing to resume, its {STATE} was removed; start again into another folder")
    find_task(folder, card.task)
    job = Job(card.task, folder, settings)
    skipped = card.data.get("skipped", {})
    if not fits(job, card):
        job.leave_out(skipped)  # as an earlier version did before it began
        if not fits(job, card):
            raise BadRun(f"{folder}: not the images this run began with; restore them, or start a new run")
    job.earlier = dict(skipped)
    card = replace(card, data={**card.data, "path": str(folder.resolve())})
    if accelerator.is_main_process:
        card.write(run)
    return _train(run, card, job, accelerator, begun)


@contextmanager
def claimed(out: Path | None, data: Path, model: str) -> Iterator[Path]:
    """Create and lock a new run folder: `out`, which must be new or empty, or the first free name under runs/.

    Where nothing was written into it, it is removed again. Raises `BadOption` where `out` holds something, and
    `FeatherboneError` where it cannot be written or another process holds it.
    """
    if out is None:
        name = re.sub(r"[/\\:]", "-", f"{data.resolve().name[:100] or 'data'}-{model}")
        names = (f"{name}-{number}" if number > 1 else name for number in count(1))
        run = next(path for path in (Path("runs") / name for name in names) if _make_folder(path))
        made = [run]
    else:
        run = out
        check_writable(run, folder=True)
        made = [path for path in (run, *run.parents) if not path.exists()]
        with writing(run):
            run.mkdir(parents=True, exist_ok=True)
    try:
        with locked(run):
            if (run / CARD).is_file():
                raise BadOption(f"{run} already holds a run; resume it with --resume {run}, or choose another --out")
            check_new_folder(run)
            yield run
    finally:
        with suppress(OSError):  # the first that is not empty ends it
            for path in made:
                path.rmdir()


def _make_folder(path: Path) -> bool:
    """Create the folder; False where the name exists."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            return False
    return True


def _train(run: Path, card: Card, job: Job, accelerator: Accelerator, begun: bool) -> Path:
    """Train to the end, from the saved state if the run has `begun`, and report; the run folder."""
    loop, main = Loop(run, card, job, accelerator, begun), accelerator.is_main_process
    with tracked(run, card, job.settings.tracker if main else ()) as trackers:
        if begun:
            loop.resume()
        elif main:
            card.write(run)
            job.show_batch(run / "first_batch.jpg", loop.samples, next(iter(loop.batches)), card)
        accelerator.wait_for_everyone()

        def report(row: dict[str, Any], metrics: dict[str, Any]) -> None:
            trackers.row(row, run / PREDICTIONS if metrics else None)
            words = [f"epoch {row['epoch']}/{loop.epochs}", f"loss {row['train']['loss']:.3f}"]
            if "loss" in metrics:
                words.append(f"val loss {format_metric(metrics['loss'])}")
            if metrics:
                figures = list(job.kind.figures.items())[:HEADLINES]
                words += [f"{name} {format_metric(metrics[key])}" for key, name in figures]
            if metrics and loop.progress.best >= 0:
                words.append(f"best {loop.progress.best:.3f}")
            notify("  ".join([*words, f"{row['seconds']:.0f} s"]))

        loop.fit(report)
        accelerator.wait_for_everyone()  # the main process has written the weights that all read
        card = Card.read(run)
        metrics, outcome = loop.measured or job.measure(load_task(run)[1], card, accelerator)
        if main:
            metrics = {**card.metrics, **metrics, **outcome.interval()}
            if target := job.settings.operating_point:
                try:
                    metrics["operating_point"] = outcome.choose_point(target)
                except BadOption as error:  # the run is finished all the same
                    notify(str(error), "note")
            card = replace(card, data={**card.data, "skipped": job.skipped}, metrics=metrics)
            card.write(run)
            job.report(run / "report.html", card, outcome)
            trackers.numbers({f"final/{name}": value for name, value in metrics.items()}, loop.progress.step)
    return run


def evaluate_run(
    run: Path,
    data: Path | None,
    out: Path | None,
    device: str,
    workers: int | None,
    inference: Inference | None = None,
    split: str | None = None,
    trust: bool = False,
    accept_licence: str | None = None,
    operating_point: str | None = None,
) -> tuple[dict[str, Any], Card]:
    """Metrics of a run, or of what else `open_task` takes, on a split of its data folder or another one, and its card.

    `split` is that of `open_evaluation`; `trust` allows a file that holds machine code. The threshold of an
    `operating_point` is written to the run's card.
    """
    if operating_point is not None:
        require_threshold(run, operating_point)
    card, task = open_task(run, trust, accept_licence)
    inference = inference or Inference()
    inference.require(kind_of(card))
    folder = card.data_folder("give the images' folder with --data DIR") if data is None else data
    job = open_measuring(card, folder, device, workers, split)
    job.inference = inference
    if operating_point is not None and (job.split != "val" or not inference.is_plain):
        raise BadOption(
            f"operating-point is chosen on the validation images as a whole, not on {job.split} or in tiles; give data "
            "with a val split, and omit the other options"
        )
    with accelerate(job.settings) as accelerator:
        for notice in job.notices if accelerator.is_main_process else ():
            notify(notice, "note")
        metrics, outcome = job.measure(task, card, accelerator)
        metrics |= outcome.interval()
        if operating_point is not None:
            metrics["operating_point"] = point = outcome.choose_point(operating_point)
            if accelerator.is_main_process:
                with locked(run):
                    kept = Card.read(run)
                    replace(kept, metrics={**kept.metrics, "operating_point": point}).write(run)
        page = out or (beside(run, "report.html") if job.split == "val" and is_of(card, folder, job.val) else None)
        if page is not None and accelerator.is_main_process:
            data_facts = {name: value for name, value in card.data.items() if name not in ("train", "val")}
            data_facts |= {"path": str(folder.resolve()), "skipped": job.skipped}
            measured = replace(card, metrics={**card.metrics, **metrics}, data=data_facts)
            job.report(page, measured, outcome, variant_path("detections.json", run))
    return metrics, card


def require_threshold(run: Path, operating_point: str) -> None:
    """Raise `BadOption` unless `run` is a folder whose card can hold the threshold of an operating point."""
    parse_target(operating_point)
    if not (run / CARD).is_file():
        raise BadOption(f"operating-point: {run} is not a run folder, whose card would hold the threshold; give one")
    kind = kind_of(Card.read(run))
    if "operating_point" not in kind.options:
        able = ", ".join(name for name, other in KINDS.items() if "operating_point" in other.options)
        raise BadOption(f"operating-point has no effect for {kind.name}; omit it: only {able} have such a threshold")


def open_measuring(card: Card, folder: Path, device: str, workers: int | None, split: str | None = None) -> Job:
    """The job that measures a run's model, or files made of it, on a split of a data folder; only that is opened."""
    plain = {"device": device, "precision": "fp32", "accumulate": 1, "workers": workers}
    settings = from_card(card.settings, card.task, **plain)
    task = find_task(folder, card.task)

    evaluated = open_evaluation(
        folder, task, split, settings.to_dict(), is_held_out=lambda images: is_of(card, folder, images)
    )
    words = dict(zip(card.data.get("synsets", ()), card.classes, strict=False))
    images = evaluated.images.renamed(words).named(card.classes, card.category_ids)
    return Job(task, folder, settings, replace(evaluated, images=images), card.preprocessing.channels)


def is_of(card: Card, folder: Path, images: Any) -> bool:
    """Whether the images of a split are those that a run was validated on."""
    stated, found = card.data.get("val_fingerprint", ""), images.fingerprint()
    if not stated or is_incomparable(found, stated):
        return card.data.get("path") == str(folder.resolve())
    return stated in (found, without(images, card.data.get("skipped", {})).fingerprint())


def is_incomparable(found: str, stated: str) -> bool:
    """Whether a fingerprint was `stated` by an earlier version that took it in another way."""
    return found.startswith(FORM) and not stated.startswith(FORM)


def fits(job: Job, card: Card) -> bool:
    """Whether the images of a job are those that a run began with; by their numbers for one of an earlier version."""
    found, stated = job.fingerprint(), card.data["fingerprint"]
    if is_incomparable(found, stated):
        return all(len(images) == card.data[split] for split, images in job.splits.items())
    return found == stated


def measurer(card: Card) -> tuple[str, Callable[[Any], float]]:
    """The name of a run's headline metric, and a function that measures it for other models on the run's data."""
    remedy = "give a run its new location with: featherbone train --resume RUN --data DIR"
    job = open_measuring(card, card.data_folder(remedy), "cpu", None)

    def measure_task(task: Any) -> float:
        with accelerate(job.settings) as accelerator:
            return job.measure(task, card, accelerator)[0][job.kind.headline] or 0.0

    return job.kind.headline, measure_task
