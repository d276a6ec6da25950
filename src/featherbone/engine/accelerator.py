"""Where a run computes and in which precision, in one process or several; the process is left as it was found."""

import os
import random
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, set_seed

from featherbone.data.loading import explained_workers
from featherbone.devices import count_devices, find_device
from featherbone.engine.settings import Settings
from featherbone.errors import BadOption, FeatherboneError


@contextmanager
def accelerate(settings: Settings) -> Iterator[Accelerator]:
    """Accelerate's view of this process and its group, on the device and in the precision of `settings`.

    Random generators, environment variables, the current CUDA device and accelerate's own state are restored on exit.
    Of several processes the first that fails raises its error, the others then end without a message.
    Raises `BadOption` for a device that is missing, and for a device or precision that does not suit.
    """
    device = find_device(settings.device)
    local_rank = int(os.environ.get("LOCAL_RANK", -1))
    check_group(device, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise BadOption("precision fp16 needs a GPU; use fp32 or bf16 on the CPU")
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    with ExitStack() as stack:
        stack.enter_context(restored(os.environ, *shared))
        stack.enter_context(_generators(device))
        for state in shared:  # of an earlier run, or the caller's
            state.clear()
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(max(local_rank, 0) if device.index is None else device.index))
        if settings.deterministic:
            stack.enter_context(deterministic(device))
        if local_rank < 0:
            os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)  # else every process takes the card of its rank
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            gradient_accumulation_steps=settings.accumulate,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True)
            ],  # a head may leave maps unread
        )
        set_seed(settings.seed)
        try:
            with explained_workers():
                yield accelerator
        except Exception as error:
            if accelerator.num_processes > 1 and not _first_to_fail():
                raise SystemExit(FeatherboneError.exit_code) from None  # what follows from the first error is no news
            if isinstance(error, FeatherboneError):
                error.of_group = True
            raise


def _first_to_fail() -> bool:
    """Whether no other process of the group has failed yet."""
    try:
        return torch.distributed.distributed_c10d._get_default_store().add("featherbone/failed", 1) == 1
    except RuntimeError:  # the process that keeps the store has ended
        return False


def check_group(device: torch.device, local_rank: int, count: int) -> None:
    """Raise `BadOption` unless `count` processes of this machine, started by torchrun, can share `device`."""
    if local_rank < 0 or device.type == "cpu":
        return
    cards = count_devices().get(device.type, 0)
    if device.type != "cuda" or count > cards:
        raise BadOption(
            f"{count} processes on {cards} device(s) of kind {device.type}: each process needs a CUDA card; "
            f"pass --nproc-per-node {cards if device.type == 'cuda' else 1} to torchrun, or --device cpu"
        )
    if device.index is not None:
        raise BadOption(f"device {device}: several processes take one card each, by rank; pass --device cuda")


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Run with deterministic kernels on a GPU, for as long as the context lasts; a CPU has no others.

    An operator that has none still runs, with torch's warning. Uninitialised memory is not filled: nothing reads it.
    """
    if device.type == "cpu":
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flags: list[tuple[Any, str, bool]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
        (torch.backends.cudnn, "deterministic", True),
        (torch.backends.cudnn, "benchmark", False),
    ]
    before = [getattr(module, name) for module, name, _ in flags]
    with restored(os.environ):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            for module, name, value in flags:
                setattr(module, name, value)
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
            for (module, name, _), value in zip(flags, before, strict=True):
                setattr(module, name, value)


@contextmanager
def restored(*mappings: MutableMapping[str, Any]) -> Iterator[None]:
    """Give mappings back the entries that they had, at the end of the context."""
    before = [dict(mapping) for mapping in mappings]
    try:
        yield
    finally:
        for mapping, entries in zip(mappings, before, strict=True):
            for name in mapping.keys() - entries.keys():
                del mapping[name]
            mapping.update(entries)


@contextmanager
def _generators(device: torch.device) -> Iterator[None]:
    """Python's, NumPy's and torch's generators, with those of CUDA cards."""
    states = random.getstate(), np.random.get_state()
    cards = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(cards):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def count_workers(given: int | None, device: torch.device) -> int:
    """Processes that read images: one on a CPU, which has its cores for the network, else one a core, up to eight."""
    usual = 1 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    return usual if given is None else given
