"""How many epochs of training fit into a time on this machine."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from featherbone.engine.accelerator import accelerate
from featherbone.engine.job import Job
from featherbone.engine.loop import Loop, fit_batch_size
from featherbone.engine.optimiser import set_training
from featherbone.engine.settings import Settings

WARM_UP, SECONDS = 2, 5.0
"""Steps that are not timed, and time for those that are."""


def epochs_within(seconds: float, data: Path, model: str, task: str, settings: Settings) -> int:
    """The number of epochs, at least 1, whose training takes that time, from the time of some real steps."""
    with TemporaryDirectory() as folder, accelerate(settings) as accelerator:
        job = Job(task, data, settings)
        job.settings = settings.override(batch_size=fit_batch_size(len(job.train), settings, accelerator))
        loop = Loop(Path(folder), job.card(model), job, accelerator)
        set_training(loop.task)
        times: list[float] = []
        epoch = 0
        while len(times) <= WARM_UP or sum(times[WARM_UP:]) < SECONDS:
            loop.batches.begin(epoch, 0)
            start = time.perf_counter()
            for _, batch, _ in loop.loader:
                loop.micro_step(batch, 0)
                times.append(time.perf_counter() - start)
                start = time.perf_counter()
                if len(times) > WARM_UP and sum(times[WARM_UP:]) >= SECONDS:
                    break
            epoch += 1
        per_step = settings.accumulate * sum(times[WARM_UP:]) / len(times[WARM_UP:])
        return max(int(seconds / (per_step * loop.batches.steps)), 1)
