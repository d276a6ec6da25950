"""The batch size that fits into the memory of this machine."""

from collections.abc import Callable

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from featherbone.engine.job import Job
from featherbone.engine.loop import trial
from featherbone.engine.settings import Settings
from featherbone.errors import BadOption
from featherbone.tasks.card import Card

MAX_BATCH = 1024
MIN_UPDATES = 8
"""Updates that an epoch has at least, where it has as many images."""
TRIED = 2
"""Updates of a trial; the first one allocates the state of the optimiser."""
GPU_SHARE, FREE_SHARE = 0.9, 0.5
"""Share of a GPU's memory, and of the free memory of a machine, that training may take."""
OVERHEAD = 3.0
"""Memory of a step on the CPU, as a multiple of the tensors that it keeps for its backward pass: docs/few-images.md."""


def largest_batch(card: Card, job: Job, accelerator: Accelerator) -> int:
    """The largest power of two of images, times `accumulate`, that fits, and leaves `MIN_UPDATES` in an epoch.

    On a GPU it is found by real updates, which are not kept. On the CPU large batches are no faster, and a process that
    runs out of memory is killed: there it is at most the default of the task, and its memory is calculated from the
    tensors that one update keeps. Raises `BadOption` for several processes, and where no batch fits.
    """
    parts, device = job.settings.accumulate, accelerator.device
    if accelerator.num_processes > 1:
        raise BadOption(f"batch-size auto with {accelerator.num_processes} processes; it takes one: give a number")
    images = len(job.train) if job.factors is None else int(job.factors.sum())
    most = min(MAX_BATCH, max(images // MIN_UPDATES, 2 * parts))
    if device.type == "cpu":
        usual = job.kind.defaults.get("batch_size", Settings().batch_size)
        free = FREE_SHARE * psutil.virtual_memory().available
        fitting = int(free / (OVERHEAD * bytes_per_image(card, job, accelerator)))
        return require_some(round_down(min(most, usual, fitting * parts), parts))
    found = find_largest(lambda size: try_batch(size, card, job, accelerator), most, parts)
    if device.type == "cuda" and torch.cuda.max_memory_reserved(device) > GPU_SHARE * total_memory(device):
        found = max(found // 2, parts)
    return found


def find_largest(attempt: Callable[[int], None], most: int, parts: int) -> int:
    """The largest power of two times `parts`, at most `most`, for which `attempt` does not run out of memory.

    Raises `BadOption` where there is none.
    """
    size = round_down(most, parts)

    def halve() -> int:
        nonlocal size
        size = require_some(size // 2 if size > parts else 0)
        return size

    def accept(batch_size: int) -> int:
        attempt(batch_size)
        return batch_size

    return int(find_executable_batch_size(accept, starting_batch_size=size, reduce_batch_size_fn=halve)())


def try_batch(batch_size: int, card: Card, job: Job, accelerator: Accelerator) -> None:
    """Take some updates of that many images. Raises what the device raises without memory."""
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    with trial(card, job, accelerator, batch_size=batch_size) as loop:
        for _ in loop.take_updates(TRIED):
            pass


def bytes_per_image(card: Card, job: Job, accelerator: Accelerator) -> float:
    """Bytes that a training step keeps for its backward pass for each image, measured with two images."""
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with trial(card, job, accelerator, batch_size=2, accumulate=1, compile=False) as loop:
        with saved_tensors_hooks(note, lambda x: x):
            for _ in loop.take_updates(1):
                pass
        for parameter in loop.task.parameters():
            kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / 2


def round_down(number: int, parts: int) -> int:
    """The largest power of two times `parts` that is not above a number; 0 where there is none."""
    return parts * (1 << (number // parts).bit_length() >> 1)


def require_some(size: int) -> int:
    """The batch size. Raises `BadOption` where it is 0."""
    if not size:
        raise BadOption(
            "batch-size auto: one image for each part of the batch does not fit into the memory; use --recompute, a "
            "smaller --image-size or a smaller model"
        )
    return size


def total_memory(device: torch.device) -> int:
    """Bytes of a CUDA card."""
    return int(torch.cuda.get_device_properties(device).total_memory)
