"""Where a run computes, and in which precision."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, set_seed

from featherbone.devices import find_device
from featherbone.engine.settings import Settings
from featherbone.errors import BadOption


def build_accelerator(settings: Settings) -> Accelerator:
    """Accelerate's view of this process and its group, on the device and in the precision of `settings`."""
    device = find_device(settings["device"])
    precision = settings["precision"]
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise BadOption("precision fp16 needs a GPU; use fp32 or bf16 on the CPU")
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # an exact resume needs exact products
        torch.use_deterministic_algorithms(True, warn_only=True)
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run in this process may differ
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=settings["accumulate"],
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # a head may leave maps unread
    )
    set_seed(settings["seed"])
    return accelerator


def count_workers(given: int | None, device: torch.device) -> int:
    """Processes that read images: one on a CPU, which has its cores for the network, else one a core, up to eight."""
    if given is not None:
        return given
    return 1 if device.type == "cpu" else min(8, os.cpu_count() or 1)
