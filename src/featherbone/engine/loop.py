"""The training loop.

Random values of a step are derived from (seed, step, part of the batch), and those of an image from (seed, epoch,
index). A run can therefore be resumed from the weights, the optimiser and the step. For the same reason, N processes
compute the same as one process that computes its batches in N parts.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from featherbone.data.loading import Batches, train_loader
from featherbone.deployment import use_form
from featherbone.engine.accelerator import count_workers
from featherbone.engine.batch_norm import RunningStatistics, synchronise
from featherbone.engine.job import Job
from featherbone.engine.optimiser import build_optimiser, build_schedule, freeze_norms, freeze_parts, set_training
from featherbone.engine.run import (
    AGAIN,
    STATE,
    fit_optimiser,
    load_state,
    read_metrics,
    require_folder,
    save_state,
    write_metrics,
)
from featherbone.engine.settings import Settings
from featherbone.errors import BadOption, BadRun, FeatherboneError
from featherbone.progress import bar, notify
from featherbone.tasks.card import Card
from featherbone.tasks.run import fit, save_weights

PREDICTIONS = "predictions.jpg"
"""Picture of what the last evaluation found, on the same few images each time."""
INTERVAL = 10
"""Steps between reads of the losses; a read makes the host wait for the device."""


class LossModule(nn.Module):
    """The module that accelerate wraps: images and targets to loss terms. The task itself is not wrapped."""

    def __init__(self, task: Any, compile: bool) -> None:
        super().__init__()
        self.task = task
        if compile:
            use_form(task, "compiled")
        self.network = torch.compile(task.forward) if compile else task.forward

    def forward(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        return self.task.losses(self.network(images), targets)


@dataclass
class Progress:
    """Progress of a run, saved with its state."""

    step: int = 0
    best: float = -1.0
    """Best value of the headline metric; -1 before the first evaluation."""
    sums: dict[str, float] = field(default_factory=dict)
    """Loss terms, summed over all micro-batches of the current epoch in all processes."""
    seconds: float = 0.0
    """Time spent in the current epoch."""


class Loop:
    """Trains the task of a job and writes its run folder; every process has one loop."""

    def __init__(self, run: Path, card: Card, job: Job, accelerator: Accelerator, resumed: bool = False) -> None:
        self.run, self.card, self.job, self.accelerator = run, card, job, accelerator
        self.settings = s = job.settings
        self.epochs = s.epochs + s.cooldown_epochs
        self.progress = Progress()
        self.measured: tuple[dict[str, Any], Any] | None = None
        """Metrics and outcome of the saved weights; None if the last evaluation measured other weights."""
        world, device = accelerator.num_processes, accelerator.device
        batch_size = fit_batch_size(len(job.train), s, accelerator)
        parts, rank = world * s.accumulate, accelerator.process_index
        self.batches = Batches(job.train, batch_size, parts, rank, world, s.seed, job.factors)
        torch.manual_seed(s.seed)
        with accelerator.local_main_process_first():  # the first process downloads the weights
            task = job.build(card, device, resumed)
        task = task.to(memory_format=torch.channels_last)  # convolutions are faster, on any device
        if s.sync_batchnorm:
            task = synchronise(task, accelerator)
        freeze_parts(task.backbone, s.freeze)
        if s.freeze_norm:
            freeze_norms(task.backbone)
        if self.batches.batch_size == self.batches.parts:
            p = card.preprocessing
            check_single_images(task, p.height, p.width, p.num_channels, device)
        if s.recompute:
            task.backbone.set_grad_checkpointing()
        self.task = task
        optimiser = build_optimiser(task, task.backbone, s)
        self.schedule = build_schedule(optimiser, s, self.batches.steps)
        self.samples = job.kind.samples(job.train, card.preprocessing, s, training=True)
        workers = count_workers(s.workers, device)
        self.loader = train_loader(self.samples, self.batches, workers, device, job.kind.collate)
        self.prepare = job.preparer(card, task.decoder, device)
        self.ema = ModelEmaV3(task, s.ema, use_warmup=True) if s.ema else None
        self.model, self.optimiser = accelerator.prepare(LossModule(task, s.compile), optimiser)
        self.statistics = RunningStatistics(task, accelerator)
        self.val = job.eval_loader(card, max(job.kind.eval_batch // world, 1), accelerator)

    def fit(self, report: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
        """Train from the current step to the end.

        The main process calls `report` with the row and the metrics of each epoch; the metrics are empty for an epoch
        without evaluation.
        """
        if self.progress.step == 0:
            self.save()  # so that a run that is killed at once can be resumed
        for epoch in range(self.progress.step // self.batches.steps, self.epochs):
            if self.is_stuck(epoch):
                break
            self.train_epoch(epoch)
            row, metrics = self.finish_epoch(epoch)
            if self.accelerator.is_main_process:
                report(row, metrics)

    def is_stuck(self, epochs: int) -> bool:
        """Whether, after so many epochs, none of the last `patience` ones had a better metric than all before."""
        if self.settings.patience is None or self.progress.best < 0:
            return False
        self.accelerator.wait_for_everyone()  # the main process has written the rows
        scores = {row["epoch"]: self.score(row["val"]) for row in read_metrics(self.run) if row["val"]}
        best = max(scores, key=lambda epoch: scores[epoch])  # the first of equal ones
        if epochs - best < self.settings.patience:
            return False
        if self.accelerator.is_main_process:
            notify(f"stopped after epoch {epochs}: none was better than epoch {best}", "note")
        return True

    def train_epoch(self, epoch: int) -> None:
        """Train from the current step to the end of the epoch."""
        progress, per_epoch = self.progress, self.batches.steps
        start = time.monotonic() - progress.seconds
        self.batches.begin(epoch, progress.step % per_epoch)
        set_training(self.task)
        saved = time.monotonic()
        parts: list[Tensor] = []
        with bar(f"epoch {epoch + 1}/{self.epochs}", per_epoch, progress.step % per_epoch) as advance:
            names: list[str] = []
            for _, batch, met in self.loader:
                self.job.skip("train", met)
                terms = self.micro_step(batch, len(parts) % self.settings.accumulate)
                names = list(terms)
                parts.append(torch.stack([term.float() for term in terms.values()]))
                if len(parts) % self.settings.accumulate:
                    continue
                progress.step += 1
                advance()
                progress.seconds = time.monotonic() - start
                if not self.is_time_to_read(saved):
                    continue
                loss, due = self.read_losses(names, parts, time.monotonic() - saved >= self.settings.save_seconds)
                advance(0, note=f"loss {loss:.3f}")
                parts = []
                if due and progress.step % per_epoch:
                    self.save()
                    saved = time.monotonic()

    def is_time_to_read(self, saved: float) -> bool:
        """Whether to read the losses after this step; does not use the clock if several processes must agree."""
        step, seconds = self.progress.step, self.settings.save_seconds
        if step % INTERVAL == 0 or step % self.batches.steps == 0 or seconds == 0:
            return True
        return self.accelerator.num_processes == 1 and time.monotonic() - saved >= seconds

    def take_updates(self, count: int) -> Iterator[int]:
        """Take `count` updates without saving anything; yields the number of those taken, after each."""
        set_training(self.task)
        parts, accumulate = 0, self.settings.accumulate
        for epoch in itertools.count():
            self.batches.begin(epoch, 0)
            for _, batch, _ in self.loader:
                self.micro_step(batch, parts % accumulate)
                parts += 1
                if parts % accumulate == 0:
                    yield parts // accumulate
                if parts == count * accumulate:
                    return

    def micro_step(self, batch: Any, part: int) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch; update the weights after the last one of a step.

        Returns the loss terms, which stay on the device.
        """
        keys = (self.settings.seed, self.progress.step, part * self.batches.world + self.batches.rank)
        draws = np.random.SeedSequence(keys).generate_state(1, np.uint64)
        torch.manual_seed(int(draws[0]))
        with self.accelerator.accumulate(self.model):
            images, targets = self.prepare(batch, (self.settings.seed, self.progress.step))
            self.statistics.begin()
            terms: dict[str, Tensor] = self.model(images, targets)
            self.accelerator.backward(torch.stack(list(terms.values())).sum())
            self.statistics.finish()
            if self.accelerator.sync_gradients:
                if self.settings.clip_grad:
                    self.accelerator.clip_grad_norm_(self.task.parameters(), self.settings.clip_grad)
                self.schedule.step_update(self.progress.step)
                self.optimiser.step()
                self.optimiser.zero_grad()
                if self.ema is not None:
                    self.ema.update(self.task, step=self.progress.step)
        return {name: term.detach() for name, term in terms.items()}

    def read_losses(self, names: list[str], parts: list[Tensor], due: bool) -> tuple[float, bool]:
        """Add the loss terms since the last read, from all processes, to the sums; return the last loss and `due`.

        The host waits for the device only here. `due` states whether it is time to save; every process returns the
        value of the main process. Raises `FeatherboneError` in every process if a loss is not finite: the weights are
        then unusable, but the saved state is not affected.
        """
        own = torch.stack(parts)  # (steps * parts, terms)
        own = torch.cat((own, own.new_full((len(own), 1), float(due))), 1)
        table = self.accelerator.gather(own).cpu()  # ordered by process
        rows = table.unflatten(0, (-1, len(own))).transpose(0, 1).flatten(0, 1)  # ordered by part
        losses = rows[:, :-1].double().sum(1).unflatten(0, (-1, self.batches.parts)).mean(1).tolist()  # of each step
        for step, loss in enumerate(losses, self.progress.step - len(losses)):
            if not math.isfinite(loss):
                raise FeatherboneError(
                    f"the loss became {loss} at step {step}; lower --lr, set --clip-grad 1, or use "
                    f"--precision fp32, and resume or start again"
                )
        for *terms, _ in rows.tolist():
            for name, term in zip(names, terms, strict=True):
                self.progress.sums[name] = self.progress.sums.get(name, 0.0) + term
        return losses[-1], bool(rows[0, -1])

    def finish_epoch(self, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Evaluate if it is due, save the best weights, the row of the epoch and the state; return row and metrics."""
        progress = self.progress
        count = self.batches.steps * self.batches.parts
        means = {name: total / count for name, total in progress.sums.items()}
        weights = self.ema.module if self.ema is not None else self.task
        due = (epoch + 1) % self.settings.eval_every == 0 or epoch + 1 == self.epochs
        metrics, outcome = self.job.measure(weights, self.card, self.accelerator, self.val) if due else ({}, None)
        group = self.optimiser.param_groups[0]
        row = {
            "epoch": epoch + 1,
            "step": progress.step,
            "lr": group["lr"] / group.get("lr_scale", 1.0),
            "train": {"loss": sum(means.values()), **means},
            "val": {name: value for name, value in metrics.items() if isinstance(value, int | float)},
            "seconds": round(progress.seconds, 3),
        }
        is_best = due and self.score(metrics) >= progress.best
        if self.accelerator.is_main_process:
            require_folder(self.run)
            if outcome is not None:
                self.job.show_outcome(self.run / PREDICTIONS, outcome)
            rows = [past for past in read_metrics(self.run) if past["epoch"] <= epoch]
            write_metrics(self.run, [*rows, row])
            if is_best:
                save_weights(self.run, weights)
                replace(self.card, metrics={**metrics, "epoch": epoch + 1}).write(self.run)
        if due:
            self.measured = (metrics, outcome) if is_best and outcome is not None else None
        progress.best = max(progress.best, self.score(metrics))
        progress.sums, progress.seconds = {}, 0.0
        self.save()
        return row, metrics

    def score(self, metrics: dict[str, Any]) -> float:
        """The headline metric, by which weights are compared: from 0 to 1, or -1 if it was not measured."""
        value = metrics.get(self.job.kind.headline)
        return -1.0 if value is None or math.isnan(value) else float(value)

    def save(self) -> None:
        """Write the state for a resume, and the names of skipped images to the card; only the main process writes."""
        self.job.share_skipped(self.accelerator)
        if not self.accelerator.is_main_process:
            return
        require_folder(self.run)
        if (skipped := self.job.skipped) != self.card.data.get("skipped"):
            self.card = replace(self.card, data={**self.card.data, "skipped": skipped})
            replace(Card.read(self.run), data=self.card.data).write(self.run)
        scaler = self.accelerator.scaler
        save_state(
            self.run,
            {
                **asdict(self.progress),
                "task": self.task.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema is not None else None,
                "optimiser": self.optimiser.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
            },
        )

    def resume(self) -> None:
        """Restore the saved state. Raises `BadRun` if it is damaged, or of a run with another model or length."""
        state = load_state(self.run)
        total = self.epochs * self.batches.steps
        if state["step"] > total or (self.ema is None) != (state["ema"] is None):
            raise BadRun(f"{self.run / STATE}: not of this run of {total} steps; {AGAIN}")
        self.progress = Progress(**{name: state[name] for name in asdict(self.progress)})
        fit(self.task, state["task"], self.run / STATE)
        fit_optimiser(self.optimiser, state["optimiser"], self.run)
        if self.ema is not None:
            fit(self.ema.module, state["ema"], self.run / STATE)
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


@contextmanager
def trial(card: Card, job: Job, accelerator: Accelerator, **changes: Any) -> Iterator[Loop]:
    """A loop of a job with some settings changed, of which nothing is kept."""
    settings = job.settings
    job.settings = settings.override(**changes)
    try:
        with TemporaryDirectory() as folder:
            yield Loop(Path(folder), card, job, accelerator)
    finally:
        job.settings = settings
        accelerator.free_memory()


def fit_batch_size(count: int, settings: Settings, accelerator: Accelerator) -> int:
    """The batch size of the settings, or the largest possible one for `count` images if that is smaller.

    Raises `BadOption` if it is not a multiple of the number of parts, processes times `accumulate`.
    """
    assert isinstance(settings.batch_size, int), "it was chosen before"
    world = accelerator.num_processes
    parts = world * settings.accumulate
    batch_size = min(settings.batch_size, count // parts * parts)
    if batch_size % parts or not batch_size:
        raise BadOption(
            f"batch size {settings.batch_size} does not divide into {world} processes x "
            f"{settings.accumulate} parts; use a multiple of {parts}, at most {count} images"
        )
    return batch_size


def check_single_images(task: nn.Module, height: int, width: int, channels: int, device: torch.device) -> None:
    """Raise `BadOption` if the task cannot be trained on one image at a time.

    On a 1x1 map, one image gives a BatchNorm only one value per channel, which has no variance.
    """
    trial = copy.deepcopy(task)
    set_training(trial)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            trial(torch.zeros(1, channels, height, width, device=device).to(memory_format=torch.channels_last))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BadOption(
            f"one image at a time leaves a BatchNorm one value a channel at {height}x{width} pixels; give 2 or more "
            "images to each part (--batch-size over --accumulate and processes), a larger --image-size, or a model "
            "without BatchNorm, such as lvt"
        ) from None
