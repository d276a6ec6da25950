"""The one training loop.

Everything random about a step follows from (seed, step, part of the batch), and about an image from (seed, epoch,
index), so the state to resume from is the weights, the optimiser and the step, and N processes do exactly what one
process does that computes its batches in N parts.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from featherbone.data.loading import Batches
from featherbone.engine.batch_norm import RunningStatistics
from featherbone.engine.optimiser import set_training
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
from featherbone.errors import BadRun, FeatherboneError
from featherbone.progress import bar
from featherbone.tasks.run import fit, save_weights

Prepare = Callable[[Any, tuple[int, int]], tuple[Tensor, Any]]
"""A loaded batch on the device and (seed, step), to images and targets."""
Evaluate = Callable[[nn.Module], dict[str, Any]]


class Wrapped(nn.Module):
    """Images and targets to loss terms: what accelerate wraps. The task inside stays plain, evaluated in float32."""

    def __init__(self, task: Any, compile: bool) -> None:
        super().__init__()
        self.task = task
        self.network = torch.compile(task.forward) if compile else task.forward

    def forward(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        return self.task.losses(self.network(images), targets)


@dataclass
class Loop:
    """Train `task` and keep its run folder; every process of a group makes one of its own."""

    run: Path
    accelerator: Accelerator
    task: Any
    """The module with `forward` and `losses`."""
    optimiser: torch.optim.Optimizer
    schedule: Scheduler
    loader: DataLoader[Any]
    batches: Batches
    prepare: Prepare
    evaluate: Evaluate
    on_best: Callable[[dict[str, Any], int], None]
    """Told the metrics and the epoch of the best weights so far, after they are written."""
    epochs: int
    metric: str
    """The validation metric by which weights are best."""
    seed: int = 0
    clip_grad: float | None = None
    compile: bool = False
    ema: ModelEmaV3 | None = None
    save_seconds: float = 60.0
    eval_every: int = 1
    on_epoch: Callable[[dict[str, Any], dict[str, Any]], None] = lambda row, metrics: None
    """Called with each epoch's row and its metrics, of which there are none between evaluations."""
    step: int = 0
    best: float = -1.0
    sums: dict[str, float] = field(default_factory=dict)
    """Loss terms summed over the micro-batches of the epoch so far, of all processes."""
    seconds: float = 0.0
    """Of the epoch so far."""

    def __post_init__(self) -> None:
        self.model, self.optimiser = self.accelerator.prepare(Wrapped(self.task, self.compile), self.optimiser)
        self.statistics = RunningStatistics(self.task, self.accelerator)
        self.parts = self.batches.parts // self.batches.world
        """Micro-batches of a step in this process."""

    def fit(self) -> None:
        """Train from the current step to the end."""
        per_epoch = self.batches.steps
        if self.step == 0:
            self.save()  # so that a run that is killed at once can be resumed
        for epoch in range(self.step // per_epoch, self.epochs):
            self.train_epoch(epoch)
            self.finish_epoch(epoch)

    def train_epoch(self, epoch: int) -> None:
        """The rest of the epoch."""
        per_epoch, begun = self.batches.steps, time.monotonic() - self.seconds
        self.batches.begin(epoch, self.step % per_epoch)
        set_training(self.task)
        saved = time.monotonic()
        parts: list[dict[str, Tensor]] = []
        with bar(f"epoch {epoch + 1}/{self.epochs}", per_epoch, self.step % per_epoch) as advance:
            for batch in self.loader:
                parts.append(self.micro_step(batch, len(parts)))
                if len(parts) < self.parts:
                    continue
                loss, due = self.count(parts, time.monotonic() - saved >= self.save_seconds)
                parts = []
                self.step += 1
                advance(note=f"loss {loss:.3f}")
                self.seconds = time.monotonic() - begun
                if due and self.step % per_epoch:
                    self.save()
                    saved = time.monotonic()

    def micro_step(self, batch: Any, part: int) -> dict[str, Tensor]:
        """Gradients of one micro-batch, and with a step's last one the update; the loss terms, on the device."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        draws = np.random.SeedSequence((self.seed, self.step, part * world + rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(draws[0]))
        with self.accelerator.accumulate(self.model):
            images, targets = self.prepare(batch, (self.seed, self.step))
            self.statistics.begin()
            terms: dict[str, Tensor] = self.model(images, targets)
            self.accelerator.backward(torch.stack(list(terms.values())).sum())
            self.statistics.finish()
            if self.accelerator.sync_gradients:
                if self.clip_grad:
                    self.accelerator.clip_grad_norm_(self.task.parameters(), self.clip_grad)
                self.schedule.step_update(self.step)
                self.optimiser.step()
                self.optimiser.zero_grad()
                if self.ema is not None:
                    self.ema.update(self.task, step=self.step)
        return {name: term.detach() for name, term in terms.items()}

    def count(self, parts: list[dict[str, Tensor]], due: bool) -> tuple[float, bool]:
        """Add the loss terms of a step's micro-batches, of all processes, to `sums`; the step's loss.

        This is the one place of a step where the host waits for the device. The main process's `due`, whether it is
        time to save, comes back in every process. Raises `FeatherboneError`, in every process, for a loss that is not
        finite: the weights are spoilt then, but the saved state is not.
        """
        own = torch.stack([torch.stack(list(part.values())).float() for part in parts])  # (parts, terms)
        own = torch.cat((own, own.new_full((len(own), 1), float(due))), 1)
        table = self.accelerator.gather(own).cpu()  # process by process
        rows = table.unflatten(0, (-1, len(own))).transpose(0, 1).flatten(0, 1).tolist()  # in the order of the parts
        loss = sum(sum(terms) for *terms, _ in rows) / len(rows)
        if not math.isfinite(loss):
            raise FeatherboneError(
                f"the loss became {loss} at step {self.step}; lower --lr, set --clip-grad 1, or use "
                f"--precision fp32, and resume or start again"
            )
        for *terms, _ in rows:
            for name, term in zip(parts[0], terms, strict=True):
                self.sums[name] = self.sums.get(name, 0.0) + term
        return loss, bool(rows[0][-1])

    def finish_epoch(self, epoch: int) -> None:
        """Evaluate if it is time, keep the best weights, write the epoch's row, and save."""
        count = self.batches.steps * self.batches.parts
        means = {name: total / count for name, total in self.sums.items()}
        weights = self.ema.module if self.ema is not None else self.task
        due = (epoch + 1) % self.eval_every == 0 or epoch + 1 == self.epochs
        metrics = self.evaluate(weights) if due else {}
        row = {
            "epoch": epoch + 1,
            "step": self.step,
            "lr": self.optimiser.param_groups[0]["lr"] / self.optimiser.param_groups[0].get("lr_scale", 1.0),
            "train": {"loss": sum(means.values()), **means},
            "val": {name: value for name, value in metrics.items() if isinstance(value, int | float)},
            "seconds": round(self.seconds, 3),
        }
        if self.accelerator.is_main_process:
            require_folder(self.run)
            rows = [past for past in read_metrics(self.run) if past["epoch"] <= epoch]
            write_metrics(self.run, [*rows, row])
            if due and self.score(metrics) >= self.best:
                save_weights(self.run, weights)
                self.on_best(metrics, epoch + 1)
        self.best = max(self.best, self.score(metrics))
        if self.accelerator.is_main_process:
            self.on_epoch(row, metrics)
        self.sums, self.seconds = {}, 0.0
        self.save()

    def score(self, metrics: dict[str, Any]) -> float:
        """What weights are compared by: from 0 to 1, or -1 where nothing could be measured."""
        value = metrics.get(self.metric)
        return -1.0 if value is None or math.isnan(value) else float(value)

    def save(self) -> None:
        """Everything a resume needs, from the main process."""
        if not self.accelerator.is_main_process:
            return
        require_folder(self.run)
        scaler = self.accelerator.scaler
        save_state(
            self.run,
            {
                "step": self.step,
                "best": self.best,
                "sums": self.sums,
                "seconds": self.seconds,
                "task": self.task.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema is not None else None,
                "optimiser": self.optimiser.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
            },
        )

    def resume(self) -> None:
        """Take up the saved state. Raises `BadRun` where it is damaged, or of another model or length than the run."""
        state = load_state(self.run)
        total = self.epochs * self.batches.steps
        if state["step"] > total or (self.ema is None) != (state["ema"] is None):
            raise BadRun(f"{self.run / STATE}: not of this run of {total} steps; {AGAIN}")
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.sums = state["sums"]
        fit(self.task, state["task"], self.run / STATE)
        fit_optimiser(self.optimiser, state["optimiser"], self.run)
        if self.ema is not None:
            fit(self.ema.module, state["ema"], self.run / STATE)
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
