"""A run from its settings to its folder, and an interrupted one to its end."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from featherbone.data.classification import Splits
from featherbone.data.layouts import find_task
from featherbone.engine.accelerator import build_accelerator, count_workers
from featherbone.engine.classification import build_loop, describe, open_readable, report_on
from featherbone.engine.loop import Loop
from featherbone.engine.report import write_first_batch
from featherbone.engine.run import load_state
from featherbone.engine.settings import Settings
from featherbone.engine.tensorboard import curves
from featherbone.errors import BadOption, BadRun
from featherbone.progress import say
from featherbone.tasks.card import CARD, Card

CHANGEABLE = ("device", "workers", "save_seconds", "tensorboard")
"""Settings that a resumed run may change: none of them changes the result."""


def start_run(data: Path, model: str, task: str | None, out: Path | None, settings: Settings) -> Path:
    """Train `model` on `data` into the folder `out`, by default a new one under runs/; the folder."""
    task = find_task(data, task)
    if task != "classification":
        raise BadOption(f"{data} is for {task}; this version trains classification")
    accelerator = build_accelerator(settings)
    splits, skipped = open_readable(data, settings)
    card = describe(data, model, splits, skipped, settings)
    if accelerator.is_main_process:
        notices = [*splits.notices, *(f"left out: {reason}" for reason in skipped.values())]
        for notice in notices:
            say(notice, "note")
    run = _agree(accelerator, new_folder(out, data, model) if accelerator.is_main_process else None)
    loop = build_loop(run, card, splits, settings, accelerator)
    if accelerator.is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        card.write(run)
        samples: Any = loop.loader.dataset
        write_first_batch(run / "first_batch.jpg", samples, next(iter(loop.batches)), card.preprocessing)
    accelerator.wait_for_everyone()
    return _finish(loop, splits, settings)


def resume_run(run: Path, given: Settings) -> Path:
    """Continue the run in its folder to the end, to the same weights as if it had never stopped."""
    card = Card.read(run)
    other = sorted(given.keys() - set(CHANGEABLE))
    if other:
        raise BadOption(f"a resumed run keeps its settings; only {', '.join(CHANGEABLE)} may change, not {other[0]}")
    load_state(run)  # a damaged one is refused before any work
    for partial in run.glob(".*.partial"):  # left by a process that was killed
        partial.unlink(missing_ok=True)
    settings: Any = {**card.settings, **given}
    data = Path(card.data["path"])
    accelerator = build_accelerator(settings)
    splits, _ = open_readable(data, settings)
    if splits.fingerprint() != card.data["fingerprint"]:
        raise BadRun(f"{data}: not the images this run began with; restore them, or start a new run")
    loop = build_loop(run, card, splits, settings, accelerator)
    loop.resume()
    return _finish(loop, splits, settings)


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


def _finish(loop: Loop, splits: Splits, settings: Settings) -> Path:
    with curves(loop.run, settings["tensorboard"] and loop.accelerator.is_main_process) as write:

        def on_epoch(row: dict[str, Any]) -> None:
            write(row)
            val = row["val"]
            say(
                f"epoch {row['epoch']}/{loop.epochs}  loss {row['train']['loss']:.3f}  val loss {val['loss']:.3f}  "
                f"top-1 {val['top1']:.3f}  best {max(loop.best, val['top1']):.3f}  {row['seconds']:.0f} s"
            )

        loop.on_epoch = on_epoch
        loop.fit()
    report_on(loop.run, splits.val, loop.accelerator, count_workers(settings["workers"], loop.accelerator.device))
    return loop.run
