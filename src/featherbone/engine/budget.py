"""What a training takes from its machine: the batch size by the memory, and how many epochs fit into a time."""

import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from featherbone.engine.accelerator import accelerate
from featherbone.engine.job import Job
from featherbone.engine.loop import fit_batch_size, trial
from featherbone.engine.memory import largest_batch
from featherbone.engine.settings import Settings
from featherbone.tasks.card import Card

WARM_UP, STEPS = 2, 10
"""Updates that are not timed, and that are."""


def fit_machine(card: Card, job: Job, accelerator: Accelerator) -> None:
    """Replace the batch size and the epochs in a job's settings by those for its images and this machine."""
    if job.settings.batch_size == "auto":
        job.settings = job.settings.override(batch_size=largest_batch(card, job, accelerator))
    fitting = fit_batch_size(len(job.train), job.settings, accelerator)
    job.settings = job.settings.override(batch_size=fitting)
    if job.settings.minutes is not None:
        epochs = epochs_within(job.settings.minutes, card, job, accelerator)
        job.settings = job.settings.override(epochs=epochs)


def epochs_within(minutes: float, card: Card, job: Job, accelerator: Accelerator) -> int:
    """The number of epochs, at least 1, whose training takes that time, by the time of some real updates.

    Nothing of them is kept. All processes get the number of the main one.
    """
    with trial(card, job, accelerator) as loop:
        start = time.perf_counter()
        for update in loop.take_updates(WARM_UP + STEPS):
            if update == WARM_UP:
                start = time.perf_counter()
        seconds = (time.perf_counter() - start) / STEPS * loop.batches.steps
    [epochs] = broadcast_object_list([max(int(60 * minutes / seconds), 1)])
    return int(epochs)


def fitted_settings(data: Path, model: str, task: str, settings: Settings) -> Settings:
    """The settings of a training that has not begun, as `fit_machine` completes them."""
    with accelerate(settings) as accelerator:
        job = Job(task, data, settings)
        fit_machine(job.card(model), job, accelerator)
        return job.settings
