"""A stand-in for a GPU on any machine: a device with memory of its own, in name, that computes on the CPU.

Tensors on it are `StandIn`, whose device is `DEVICE`; each holds a plain tensor with its values. Inside of `Guard`
every operator runs as on the CPU, and what a real device would refuse or punish is refused or counted:

- a float64 tensor on the device, which MPS does not have;
- an operator on tensors of both the device and the CPU, except a CPU scalar, as on CUDA;
- a read, where the host waits for the device and takes a value: `item`, `bool`, `tolist`, `cpu` and the like.
"""

from collections import Counter
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy:0")
"""Torch has this kind of device on every machine, without a backend; nothing else uses it."""
ATEN = torch.ops.aten
MIXING = {ATEN._to_copy.default, ATEN.copy_.default, ATEN._foreach_copy_.default}
"""Operators that may take tensors of both sides: they copy between them."""
SHAPES = {ATEN.nonzero.default, ATEN.masked_select.default, ATEN._unique2.default, ATEN.bincount.default}
"""Operators whose result has a size that the host must wait for; they are counted apart."""


class DeviceFault(AssertionError):
    """Something that fails on a real device."""


class StandIn(torch.Tensor):
    """A tensor on `DEVICE`."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values):
        layout = dict(strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype)
        tensor = torch.Tensor._make_wrapper_subclass(cls, values.shape, **layout, device=DEVICE)
        tensor.values = values
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise DeviceFault(f"{func} on a tensor of the device outside of its guard")

    def __repr__(self):
        return f"StandIn({self.values})"

    def __reduce_ex__(self, protocol):
        """Saved as a CPU tensor: what `map_location="cpu"` would load."""
        return self.values.__reduce_ex__(protocol)


class Guard(TorchDispatchMode):
    """Computes on `DEVICE`, refuses float64 and mixed operators there, and counts reads."""

    def __init__(self):
        super().__init__()
        self.reads, self.shapes = Counter(), Counter()
        """Of values and of sizes, by operator, since the last `start`."""
        self.intervals = 0
        self.stack = ExitStack()

    def __enter__(self):
        self.stack.enter_context(_Constructors())
        self.stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # a thread has no modes
        fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
        self.stack.enter_context(patch(fused, lambda: ["cpu", "cuda", "mps", DEVICE.type]))
        self.stack.enter_context(patch("torch.Generator", _Generator))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.stack.close()

    def start(self):
        """Forget the reads so far."""
        self.reads.clear()
        self.shapes.clear()

    def finish_interval(self):
        """Raise `DeviceFault` where the steps between two reads of the loss have read, too; start the next interval."""
        if self.reads.total() > 1:
            raise DeviceFault(f"training reads more than once in an interval from the device: {dict(self.reads)}")
        self.intervals += 1
        self.start()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = any(isinstance(x, StandIn) for x in given)
        if there and func not in MIXING:
            self.refuse_mixing(func, given)
        target = kwargs.get("device")
        lands = there if target is None else torch.device(target).type == DEVICE.type
        if there and (func is ATEN._local_scalar_dense.default or func is ATEN.equal.default or not lands):
            self.reads[str(func)] += 1
        if there and func is ATEN.copy_.default and not isinstance(args[0], StandIn):
            self.reads[str(func)] += 1
        if there and (func in SHAPES or _has_mask(func, given)):
            self.shapes[str(func)] += 1
        plain = tree_map(_values, kwargs) | ({} if target is None else {"device": torch.device("cpu")})
        made = func(*tree_map(_values, args), **plain)
        if not lands:
            return made
        originals = {id(x.values): x for x in given if isinstance(x, StandIn)}
        return tree_map(lambda x: self.place(func, x, originals), made)

    def refuse_mixing(self, func, given):
        """Raise `DeviceFault` unless all tensors but CPU scalars are on the device."""
        strangers = [x for x in given if not isinstance(x, StandIn) and x.dim()]
        if strangers:
            raise DeviceFault(f"{func} on the device, and on a CPU tensor of shape {tuple(strangers[0].shape)}")

    def place(self, func, made, originals):
        """What an operator made, on the device; what it changed in place stays itself."""
        if not isinstance(made, torch.Tensor):
            return made
        if id(made) in originals:
            return originals[id(made)]
        if made.dtype in (torch.float64, torch.complex128):
            raise DeviceFault(f"{func} makes {made.dtype} on the device, which MPS does not have")
        return StandIn(made)


class _Generator(torch.Generator):
    """A generator, on the CPU for the device, too."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu" if torch.device(device).type == DEVICE.type else device)


class _Constructors(TorchFunctionMode):
    """What torch's Python binding does behind the dispatcher's back: constants, and lists of values."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func == torch.Tensor.data.__set__ and isinstance(args[0], StandIn):
            args[0].values = args[1].values
        if args and isinstance(args[0], StandIn):
            if func is torch.Tensor.new_tensor:
                return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(DEVICE)
            if func is torch.Tensor.tolist:
                return args[0].cpu().tolist()
            if func is torch.Tensor.__format__ and not args[0].dim():
                return format(args[0].item(), args[1])
            if func in (torch.Tensor.numpy, torch.Tensor.__array__):
                raise DeviceFault("a tensor on the device as a NumPy array; copy it with .cpu() first")
        return func(*args, **kwargs)


def _values(x):
    return x.values if isinstance(x, StandIn) else x


def _has_mask(func, given):
    """Whether an index is a mask, of which the host must know how much is true."""
    return func in (ATEN.index.Tensor, ATEN.index_put_.default) and any(
        x.dtype in (torch.bool, torch.uint8) for x in given[1:]
    )
