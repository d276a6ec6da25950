"""A run takes the device it is given, and leaves the process as it found it."""

import os
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from featherbone.devices import find_device
from featherbone.engine.accelerator import accelerate, check_group, deterministic
from featherbone.engine.settings import complete
from featherbone.errors import BadOption

CUDA = torch.device("cuda")


def flags():
    """Everything process-wide that a run on a GPU changes."""
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        (cudnn.deterministic, cudnn.benchmark),
        dict(os.environ),
    )


def draw():
    """The next draw of each generator, which moves on none."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return drawn


@pytest.fixture
def two_cards(monkeypatch):
    """A machine with two CUDA cards, as far as names go."""
    for module in ("featherbone.devices", "featherbone.engine.accelerator"):
        monkeypatch.setattr(f"{module}.count_devices", lambda: {"cuda": 2, "mps": 0, "cpu": 1})


def test_deterministic_is_restored():
    before = flags()
    with pytest.raises(KeyError), deterministic(CUDA):
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise KeyError
    assert flags() == before


def test_deterministic_changes_nothing_on_a_cpu():
    """Its kernels are deterministic; torch's slower forms would cost time for nothing."""
    before = flags()
    with deterministic(torch.device("cpu")):
        assert flags() == before


def test_a_run_leaves_the_process_as_it_found_it():
    own = Accelerator(cpu=True, gradient_accumulation_steps=3)
    before = flags(), draw(), [dict(k._shared_state) for k in (PartialState, AcceleratorState, GradientState)]
    with pytest.raises(KeyError), accelerate(complete(device="cpu", precision="bf16", accumulate=2, seed=7)) as inner:
        assert (inner.mixed_precision, inner.gradient_accumulation_steps, str(inner.device)) == ("bf16", 2, "cpu")
        assert draw() != before[1]
        raise KeyError
    assert (flags(), draw(), [dict(k._shared_state) for k in (PartialState, AcceleratorState, GradientState)]) == before
    assert (own.mixed_precision, own.gradient_accumulation_steps, str(own.device)) == ("no", 3, "cpu")


@pytest.mark.parametrize(("name", "found"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_devices_by_name(two_cards, name, found):
    assert find_device(name) == find_device(torch.device(found)) == torch.device(found)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "cuda:-1", "mps", "tpu", "", "cpu:1"])
def test_a_missing_device_is_named_with_those_there_are(two_cards, name):
    with pytest.raises(BadOption, match=r"this machine has cuda:0 to cuda:1, cpu; pass one, or auto"):
        find_device(name)


@pytest.mark.parametrize(("device", "count"), [("cuda", 2), ("cpu", 64)])
def test_groups_that_fit(two_cards, device, count):
    check_group(torch.device(device), 0, count)


@pytest.mark.parametrize(
    ("device", "count", "remedy"),
    [
        ("cuda", 3, "pass --nproc-per-node 2 to torchrun"),
        ("cuda:1", 2, "pass --device cuda"),
        ("mps", 2, "or --device cpu"),
    ],
)
def test_groups_that_do_not_fit(two_cards, device, count, remedy):
    with pytest.raises(BadOption, match=remedy):
        check_group(torch.device(device), 0, count)
    check_group(torch.device(device), -1, 1)  # one process may
