"""Training of the models of a comparison under one protocol, by any number of processes that share its folder.

Each run folder is claimed by a lock that its process holds; a run whose process has died is continued by another one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from featherbone.comparison.search import search_rate
from featherbone.comparison.subjects import Subject
from featherbone.data.findings import many
from featherbone.engine.budget import fitted_settings
from featherbone.engine.settings import Settings, complete
from featherbone.engine.train import CHANGEABLE, start_run
from featherbone.errors import BadOption
from featherbone.files import claim, read_json, write_json
from featherbone.progress import notify
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.task import KINDS

REPORT = "report.npz"
"""The last file of a finished run."""
POLL = 2.0
"""Seconds between looks at the runs of other processes."""
PROTOCOL = "protocol.json"


@dataclass(frozen=True)
class Protocol:
    """What all models of a comparison are trained by."""

    data: Path
    task: str
    preset: str | None
    search: int
    """Learning rates that are tried for each model; 0 for none."""
    given: Mapping[str, Any]
    """Settings of training that were given."""

    @property
    def first_seed(self) -> int:
        return int(self.given.get("seed", 0))

    def settings(self, subject: Subject, seed: int, **chosen: Any) -> Settings:
        """All settings of a training, with those `chosen` for its model."""
        own = {"val_seed": self.first_seed, **self.given, **chosen, "seed": seed, "model_args": subject.model_args}
        settings = complete(self.preset, None, self.task, subject.model, **own)
        return settings if "eval_every" in own else settings.override(eval_every=settings.epochs)

    def to_json(self) -> dict[str, Any]:
        """Plain values, by which two comparisons are the same."""
        settings = {name: value for name, value in self.given.items() if name not in CHANGEABLE}
        values = {"data": str(self.data.resolve()), "task": self.task, "preset": self.preset, "search": self.search}
        return msgspec.to_builtins({**values, "settings": settings})


def keep_protocol(protocol: Protocol, folder: Path) -> None:
    """Write the protocol into a new comparison's folder. Raises `BadOption` where it began with another one."""
    path, values = folder / PROTOCOL, protocol.to_json()
    if path.is_file():
        began = read_json(path, str(path), dict[str, Any])
        for name in values:
            if began.get(name) != values[name]:
                raise BadOption(
                    f"{folder} holds a comparison with {name} {began.get(name)!r}, not {values[name]!r}; give the "
                    "options that it was started with, or choose another --out"
                )
    else:
        write_json(path, values)


def train_all(subjects: Sequence[Subject], seeds: int, protocol: Protocol, folder: Path) -> dict[str, list[Path]]:
    """Train each model with each seed, or wait for the process that does; the run folders by label."""
    trained = [subject for subject in subjects if subject.model]
    if not trained:
        return {}
    keep_protocol(protocol, folder)
    plans: dict[str, dict[str, Any]] = {}

    def plan(subject: Subject) -> bool:
        path = folder / "plans" / f"{subject.folder}.json"
        if not path.is_file():
            with claim(path.with_suffix(".lock")) as ours:
                if ours and not path.is_file():
                    write_json(path, make_plan(subject, protocol, folder))
        if not path.is_file():
            return False
        plans[subject.label] = made = read_json(path, str(path), dict[str, Any])
        if (made["model"], made["model_args"]) != (subject.model, subject.model_args):
            began = made["model"] + (made["model_args"] and f"@{made['model_args']}")
            raise BadOption(f"{subject.label} is {began} in {folder}; give another label, or choose another --out")
        return True

    do_all([partial(plan, subject) for subject in trained])
    runs = {subject.label: [run_folder(folder, subject, protocol, i) for i in range(seeds)] for subject in trained}
    jobs: list[Callable[[], bool]] = []
    for number in range(seeds):  # each model once before any twice, so that an early end is fair
        for subject in trained:
            settings = protocol.settings(subject, protocol.first_seed + number, **plans[subject.label]["chosen"])
            label = f"{subject.label}, seed {settings.seed}"
            run = runs[subject.label][number]
            jobs.append(partial(train_one, subject, run, settings, protocol, label))
    do_all(jobs)
    return runs


def do_all(jobs: Sequence[Callable[[], bool]]) -> None:
    """Call each job until it reports that its work is done, by this process or another one."""
    pending, waiting = list(jobs), False
    while pending:
        left = [job for job in pending if not job()]
        if len(left) == len(pending):
            if not waiting:
                notify(f"{len(left)} left, which other processes are working on; waiting for them", "compare")
            waiting = True
            time.sleep(POLL)
        pending = left


def run_folder(folder: Path, subject: Subject, protocol: Protocol, number: int) -> Path:
    """The run of a model with one of the seeds, counted from 0."""
    return folder / "runs" / subject.folder / f"seed-{protocol.first_seed + number}"


def train_one(subject: Subject, run: Path, settings: Settings, protocol: Protocol, label: str) -> bool:
    """Train, or continue, a run unless another process does; whether it is finished."""
    if not (run / REPORT).is_file():
        with claim(run.with_suffix(".lock")) as ours:
            if ours and not (run / REPORT).is_file():
                notify(f"{'continuing' if (run / CARD).is_file() else 'training'} {label}", "compare")
                start_run(protocol.data, subject.model, protocol.task, run, settings, resume=True)
    return (run / REPORT).is_file()


def make_plan(subject: Subject, protocol: Protocol, folder: Path) -> dict[str, Any]:
    """The settings chosen for a model: batch size and epochs by this machine, and the best learning rate tried."""
    plan: dict[str, Any] = {"model": subject.model, "model_args": subject.model_args, "chosen": {}}
    settings = protocol.settings(subject, protocol.first_seed)
    if settings.minutes is not None or settings.batch_size == "auto":
        fitted = fitted_settings(protocol.data, subject.model, protocol.task, settings)
        if settings.batch_size == "auto":
            plan["chosen"] = {"batch_size": fitted.batch_size}  # the same for all seeds
            notify(f"{subject.label}: batch size {fitted.batch_size}", "compare")
        if settings.minutes is not None:
            plan["chosen"] |= {"epochs": fitted.epochs, "minutes": None}
            enough = f"{settings.minutes:g} minutes are enough for {many(fitted.epochs, 'epoch')}"
            notify(f"{subject.label}: {enough}", "compare")
    if not protocol.search:
        return plan

    def measure(lr: float) -> float:
        run = folder / "search" / subject.folder / f"lr-{lr:g}"
        given = protocol.settings(subject, protocol.first_seed, **{**plan["chosen"], "lr": lr})
        train_one(subject, run, given, protocol, f"{subject.label}, lr {lr:g}")
        return float(Card.read(run).metrics[KINDS[protocol.task].headline] or 0.0)

    tried = search_rate(measure, settings.lr, protocol.search, folder / "plans" / f"{subject.folder}.journal")
    best = max(tried, key=lambda lr: tried[lr])
    headline = KINDS[protocol.task].headline
    notify(f"{subject.label}: lr {best:.3g}, {headline} {tried[best]:.3f}, the best of {len(tried)}", "compare")
    plan["chosen"]["lr"] = best
    return {**plan, "tried": [{"lr": lr, headline: value} for lr, value in tried.items()]}
