"""Running statistics of batch norms in several processes, as one process has them that computes its batch in parts."""

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featherbone.errors import BadOption


def synchronise(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The model with batch norms that take the statistics of the whole batch from all processes.

    Raises `BadOption` on anything but CUDA cards: torch has it only there.
    """
    if accelerator.device.type != "cuda":
        raise BadOption(
            f"sync_batchnorm on {accelerator.device.type}: only CUDA cards share the statistics of a batch; omit it: "
            "running statistics are those of all processes without it, too"
        )
    return convert_sync_batchnorm(model) if accelerator.num_processes > 1 else model


class RunningStatistics:
    """Keeps the running statistics of a model's batch norms the same in all processes.

    With momentum m a forward pass takes a statistic r to (1 - m) r + m s, where s is the batch's; n passes take it to
    d r + c with d = (1 - m)^n. One process applies these maps part by part, which gives after W parts
    d^W r + sum over k of d^(W - 1 - k) c_k. Here process k knows c_k, and the terms are added up over the processes.

    A norm in evaluation mode has n = 0 and stays as it is. SyncBatchNorm is left out: its statistics agree already.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.norms = [
            m
            for m in model.modules()
            if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)
            if m.running_mean is not None and m.momentum is not None
        ]
        self.active = accelerator.num_processes > 1 and bool(self.norms)
        if self.active:
            sizes = torch.tensor([2 * m.num_features for m in self.norms])
            self.owners = torch.arange(len(sizes)).repeat_interleave(sizes).to(accelerator.device)
            """The norm of each of the statistics."""
            self.kept = torch.tensor([1 - (m.momentum or 0) for m in self.norms]).to(accelerator.device)
            """1 - m of each norm."""

    def begin(self) -> None:
        """Remember the statistics before a micro-batch."""
        if self.active:
            self.before, self.counts = torch.cat(self._tensors()), torch.stack(self._counters())

    @torch.no_grad()
    def finish(self) -> None:
        """Replace the statistics after this process's micro-batch by those after the micro-batches of all."""
        if not self.active:
            return
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        passes = torch.stack(self._counters()) - self.counts
        decay = (self.kept**passes)[self.owners]
        added = (torch.cat(self._tensors()) - decay * self.before) * decay ** (world - 1 - rank)
        joined = decay**world * self.before + self.accelerator.reduce(added, "sum")
        tensors = self._tensors()
        for tensor, value in zip(tensors, joined.split([len(x) for x in tensors]), strict=True):
            tensor.copy_(value)
        for counter, count in zip(self._counters(), (self.counts + world * passes).unbind(), strict=True):
            counter.copy_(count)

    def _tensors(self) -> list[Tensor]:
        return [x for norm in self.norms for x in (norm.running_mean, norm.running_var) if x is not None]

    def _counters(self) -> list[Tensor]:
        return [norm.num_batches_tracked for norm in self.norms if norm.num_batches_tracked is not None]
