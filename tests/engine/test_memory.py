"""The batch size that fits into the memory, with a stand-in for a device that runs out of it."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from featherbone.engine import memory
from featherbone.engine.accelerator import accelerate
from featherbone.engine.job import Job
from featherbone.engine.loop import Loop
from featherbone.engine.memory import bytes_per_image, find_largest, largest_batch, round_down, try_batch
from featherbone.engine.settings import complete
from featherbone.engine.train import resume_run
from featherbone.errors import BadOption
from featherbone.tasks.card import Card
from runs import Interrupted, same_run, stop_after


def full(size):
    """What torch raises where a CUDA card has no memory for `size` images."""
    return torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} GiB.")


@pytest.fixture
def job(drawn, short):
    """A job on 24 images, its card and an accelerator."""
    job = Job("classification", drawn, complete(**short | dict(accumulate=2, ema=None)))
    with accelerate(job.settings) as accelerator:
        yield job.card("test_resnet"), job, accelerator


@pytest.fixture
def free(monkeypatch):
    """Set the free memory of the machine."""

    def to(available):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))

    return to


@pytest.mark.parametrize(
    ("number", "parts", "size"),
    [(0, 1, 0), (1, 1, 1), (7, 1, 4), (8, 1, 8), (5, 6, 0), (6, 6, 6), (23, 6, 12), (24, 6, 24), (31, 6, 24)],
)
def test_sizes_are_powers_of_two_times_the_parts(number, parts, size):
    assert round_down(number, parts) == size


@pytest.mark.parametrize(("limit", "found"), [(1000, 96), (95, 48), (13, 12), (3, 3)])
def test_the_largest_size_that_does_not_run_out_of_memory_is_found(limit, found):
    tried = []

    def attempt(size):
        tried.append(size)
        if size > limit:
            raise full(size)

    assert find_largest(attempt, 100, 3) == found
    assert tried == [size for size in (96, 48, 24, 12, 6, 3) if size >= found]


def test_nothing_fits_and_other_errors_are_no_lack_of_memory():
    def attempt(size):
        raise full(size)

    with pytest.raises(BadOption, match="one image for each part of the batch does not fit"):
        find_largest(attempt, 8, 1)
    with pytest.raises(ZeroDivisionError):
        find_largest(lambda size: 1 // 0, 8, 1)


def test_real_updates_are_tried_and_nothing_of_them_is_kept(job, monkeypatch):
    card, job, accelerator = job
    parts, original, settings = [], Loop.micro_step, job.settings

    def micro_step(self, batch, part):
        parts.append(len(batch[0]))
        if len(batch[0]) > 4:
            raise full(len(batch[0]))
        return original(self, batch, part)

    monkeypatch.setattr(Loop, "micro_step", micro_step)
    assert find_largest(lambda size: try_batch(size, card, job, accelerator), 20, 2) == 8
    assert parts == [8, 4, 4, 4, 4] and job.settings is settings, "two updates of two parts, after one failure"


def test_a_gpu_that_is_nearly_full_takes_half(job, monkeypatch):
    card, job, _ = job
    card_like = SimpleNamespace(num_processes=1, device=SimpleNamespace(type="cuda"))
    monkeypatch.setattr(memory, "try_batch", lambda *_: None)
    monkeypatch.setattr(memory, "total_memory", lambda device: 100)
    monkeypatch.setattr(memory, "MIN_UPDATES", 3)
    for reserved, size in ((90, 8), (91, 4)):
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device, reserved=reserved: reserved)
        assert largest_batch(card, job, card_like) == size, "24 images make three updates of 8"
    with pytest.raises(BadOption, match="with 2 processes; it takes one: give a number"):
        largest_batch(card, job, SimpleNamespace(num_processes=2, device=None))


def test_on_the_cpu_the_default_of_the_task_is_the_largest(job, free, monkeypatch):
    card, job, accelerator = job
    size = bytes_per_image(card, job, accelerator)
    assert 32 * 32 * 3 * 4 < size < 1e8
    monkeypatch.setattr(memory, "MIN_UPDATES", 1)
    for images, batch in ((1000, 16), (5, 8), (1, 2)):
        free(memory.OVERHEAD / memory.FREE_SHARE * size * (images + 0.5))
        assert largest_batch(card, job, accelerator) == batch, "two parts of at most 24 images in all"
    free(size)
    with pytest.raises(BadOption, match="does not fit into the memory"):
        largest_batch(card, job, accelerator)


def test_a_run_with_the_size_that_was_found_is_a_run_with_that_number(train, short, capsys, monkeypatch):
    short |= dict(epochs=1, save_seconds=0)
    run = train("auto", **short | dict(batch_size="auto"))
    assert Card.read(run).settings["batch_size"] == 2, "24 images make eight updates of 3"
    assert "batch size 2; the learning rate stays 0.0005" in capsys.readouterr().err
    same_run(run, train("number", **short | dict(batch_size=2)))
    with monkeypatch.context() as patched:
        stop_after(patched, 7)
        with pytest.raises(Interrupted):
            train("parts", **short | dict(batch_size="auto"))
    monkeypatch.setattr(memory, "MIN_UPDATES", 2)
    same_run(run, resume_run(run.parent / "parts", {}))


def test_other_words_are_refused():
    with pytest.raises(BadOption, match="batch_size 'large' is outside 1 to 1e"):
        complete(batch_size="large")
    with pytest.raises(BadOption, match="batch_size 0 is outside"):
        complete(batch_size=0)
    assert complete(batch_size="auto").batch_size == "auto"
