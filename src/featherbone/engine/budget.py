"""How many epochs of training fit into a time on this machine."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from featherbone.engine.accelerator import accelerate
from featherbone.engine.job import Job
from featherbone.engine.loop import Loop, fit_batch_size
from featherbone.engine.optimiser import set_training
from featherbone.engine.settings import Settings
from featherbone.tasks.card import Card

WARM_UP, STEPS = 2, 10
"""Updates that are not timed, and that are."""


def epochs_within(minutes: float, card: Card, job: Job, accelerator: Accelerator) -> int:
    """The number of epochs, at least 1, whose training takes that time, by the time of some real updates.

    Nothing of them is kept. All processes get the number of the main one.
    """
    with TemporaryDirectory() as folder:
        loop = Loop(Path(folder), card, job, accelerator)
        set_training(loop.task)
        total, parts, epoch = (WARM_UP + STEPS) * job.settings.accumulate, 0, 0
        start = time.perf_counter()
        while parts < total:
            loop.batches.begin(epoch, 0)
            for _, batch, _ in loop.loader:
                loop.micro_step(batch, parts % job.settings.accumulate)
                parts += 1
                if parts == WARM_UP * job.settings.accumulate:
                    start = time.perf_counter()
                if parts == total:
                    break
            epoch += 1
        seconds = (time.perf_counter() - start) / STEPS * loop.batches.steps
    [epochs] = broadcast_object_list([max(int(60 * minutes / seconds), 1)])
    return int(epochs)


def epochs_of(minutes: float, data: Path, model: str, task: str, settings: Settings) -> int:
    """`epochs_within` of a training that has not begun."""
    with accelerate(settings) as accelerator:
        job = Job(task, data, settings)
        job.settings = settings.override(batch_size=fit_batch_size(len(job.train), settings, accelerator))
        return epochs_within(minutes, job.card(model), job, accelerator)
