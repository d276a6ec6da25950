"""Experiment trackers, through accelerate: TensorBoard, MLflow, Weights & Biases and Trackio."""

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image

from featherbone.data.images import read_image
from featherbone.engine.run import read_metrics
from featherbone.errors import BadOption, FeatherboneError
from featherbone.exporters.targets.target import quiet, require
from featherbone.files import read_json, write_json
from featherbone.progress import notify
from featherbone.tasks.card import CARD, Card

FOLDER, IDENTITIES = "trackers", "runs.json"
"""Folder in a run, and the file in it that holds the trackers' names of the run, by which a resume finds it again."""
PROJECT = "featherbone"
"""Project of the trackers, where MLFLOW_EXPERIMENT_NAME or WANDB_PROJECT name no other."""
PRIVATE = {"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Variables without which the packages report to their makers. Like all of the environment, they are restored."""
Picture = Callable[[GeneralTracker, Image.Image, int], None]


@dataclass(frozen=True)
class TrackerKind:
    """A tracker that accelerate knows."""

    packages: tuple[str, ...]
    start: Callable[[Path, str, str | None, dict[str, Any]], GeneralTracker]
    """Given the folder for its files, the name of the run, what `identity` returned where it is continued, and the
    configuration."""
    identity: Callable[[GeneralTracker], str]
    picture: Picture


def _start_wandb(folder: Path, name: str, identity: str | None, config: dict[str, Any]) -> GeneralTracker:
    mode = None if {"WANDB_MODE", "WANDB_API_KEY"} & os.environ.keys() else "offline"
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    identity = identity or uuid.uuid4().hex[:8]
    settings = {"console": "off"}  # else it keeps what is printed
    return WandBTracker(project, name=name, id=identity, resume="allow", dir=str(folder), mode=mode, settings=settings)


def _start_trackio(folder: Path, name: str, identity: str | None, config: dict[str, Any]) -> GeneralTracker:
    name = identity or f"{name}-{uuid.uuid4().hex[:8]}"
    return TrackioTracker(PROJECT, name=name, resume="allow", config=config)  # it writes no later one


def _add_to_mlflow(tracker: GeneralTracker, picture: Image.Image, step: int) -> None:
    import mlflow

    mlflow.log_image(picture, key="predictions", step=step)


def _add_to_trackio(tracker: GeneralTracker, picture: Image.Image, step: int) -> None:
    import trackio

    tracker.log({"predictions": trackio.Image(picture)}, step=step)


TRACKERS = {
    "tensorboard": TrackerKind(
        ("tensorboard",),
        lambda folder, name, identity, config: TensorBoardTracker("tensorboard", folder),
        lambda tracker: "tensorboard",
        lambda tracker, picture, step: tracker.log_images(
            {"predictions": np.asarray(picture)[None]}, step=step, dataformats="NHWC"
        ),
    ),
    "mlflow": TrackerKind(
        ("mlflow",),
        lambda folder, name, identity, config: MLflowTracker(PROJECT, None, run_name=name, run_id=identity),
        lambda tracker: tracker.tracker.info.run_id,
        _add_to_mlflow,
    ),
    "wandb": TrackerKind(
        ("wandb",),
        _start_wandb,
        lambda tracker: tracker.tracker.id,
        lambda tracker, picture, step: tracker.log_images({"predictions": [picture]}, step=step),
    ),
    "trackio": TrackerKind(("trackio",), _start_trackio, lambda tracker: tracker.tracker.name, _add_to_trackio),
}
"""Trackers by the name that accelerate and the extra have."""


def require_trackers(names: Sequence[str]) -> None:
    """Raise `BadOption` for a tracker given twice, and `MissingExtra` for one that is not installed."""
    if len(set(names)) < len(names):
        raise BadOption(f"tracker {' '.join(names)}: one is given twice; name each once")
    for name in names:
        require(TRACKERS[name].packages, name)


class Log:
    """The trackers of a run. One that fails is reported and left out from then on; training continues."""

    def __init__(self, trackers: dict[str, GeneralTracker]) -> None:
        self.trackers = trackers

    def each(self, work: Callable[[str, GeneralTracker], None]) -> None:
        """Call `work` with the name of each tracker and the tracker."""
        for name, tracker in list(self.trackers.items()):
            try:
                with quiet():
                    work(name, tracker)
            except Exception as error:  # each package has its own
                del self.trackers[name]
                notify(f"tracker {name} failed and is no longer used: {describe(error)}", "warning")

    def row(self, row: Mapping[str, Any], picture: Path | None = None) -> None:
        """A row of `metrics.jsonl`, as `train/loss`, `val/top1`, `lr` and so on, and a picture of predictions."""
        values = {name: row[name] for name in ("epoch", "lr", "seconds")}
        values |= {f"{split}/{name}": value for split in ("train", "val") for name, value in row[split].items()}
        self.numbers(values, row["step"])
        if picture is not None and self.trackers:
            image = read_image(picture)
            self.each(lambda name, tracker: TRACKERS[name].picture(tracker, image, row["step"]))

    def numbers(self, values: Mapping[str, Any], step: int) -> None:
        """Those of the values that are finite numbers."""
        finite = {name: x for name, x in values.items() if isinstance(x, int | float) and isfinite(x)}
        self.each(lambda name, tracker: tracker.log(finite, step=step))


@contextmanager
def tracked(run: Path, card: Card, names: Sequence[str]) -> Iterator[Log]:
    """Start the trackers `names`, or continue what they have of the run, and end them with the context.

    A tracker that begins gets the settings, and the rows that the run has already. Raises `FeatherboneError` where one
    does not start.
    """
    if not names:
        yield Log({})
        return
    folder, file = run / FOLDER, run / FOLDER / IDENTITIES
    known = read_json(file, str(file), dict[str, str]) if file.is_file() else {}
    config, log, hooks = configuration(card), Log({}), (sys.excepthook, sys.exit)
    served = "WANDB_SERVICE" in os.environ  # by a process that the caller's W&B has started
    for variable, value in PRIVATE.items():
        os.environ.setdefault(variable, value)
    try:
        for name in names:
            try:
                folder.mkdir(exist_ok=True)
                with quiet():
                    log.trackers[name] = tracker = TRACKERS[name].start(folder, run.name, known.get(name), config)
                    tracker.start()
                    identity = TRACKERS[name].identity(tracker)
            except Exception as error:
                log.trackers.pop(name, None)
                raise FeatherboneError(
                    f"tracker {name} does not start: {describe(error)}; see docs/runs.md, or omit it from --tracker"
                ) from None
            if name not in known:
                known[name] = identity
                new = Log({name: tracker})
                new.each(lambda _, tracker: tracker.store_init_configuration(config))
                for row in read_metrics(run):
                    new.row(row)
        write_json(file, known)
        yield log
    finally:
        log.each(lambda name, tracker: tracker.finish())
        if "wandb" in names and not served:
            import wandb

            with quiet(), suppress(Exception):
                wandb.teardown()  # else its process stays until Python ends
        if not (run / CARD).is_file():  # nothing was trained
            shutil.rmtree(folder, ignore_errors=True)
        sys.excepthook, sys.exit = hooks  # W&B replaces them


def configuration(card: Card) -> dict[str, Any]:
    """What a run is trained with, in values that every tracker takes."""
    about = {"task": card.task, "backbone": card.backbone, "starting_weights": card.starting_weights or "random"}
    values = {**about, **card.settings, "head": card.head}
    return {name: x if isinstance(x, bool | int | float | str) else str(x) for name, x in values.items()}


def describe(error: Exception) -> str:
    """The first line of an error of a tracker."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
