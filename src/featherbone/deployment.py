"""The forms of a network for inference, compilation and export: batch norms folded, modules replaced by a table."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from typing import Any, Literal, TypeVar

import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from featherbone.replacements import TABLE, fuse

Form = Literal["inference", "compiled", "graph", "size", "device"]
Net = TypeVar("Net", bound=nn.Module)

STEPS: dict[str, tuple[str, ...]] = {
    "inference": ("deployed", "inference"),
    "compiled": ("deployed", "compiled"),
    "graph": ("deployed", "compiled", "graph"),
    "size": ("deployed", "compiled", "graph", "size"),
    "device": ("deployed", "compiled", "device"),
}
"""The columns of the table that make each form, applied in this order."""


def deploy(model: Net, image_size: tuple[int, int] | None = None, form: Form = "inference") -> Net:
    """A copy of a network for inference, equal to it within rounding (1e-5); the network itself is not changed.

    A BatchNorm is folded into the convolution before it where nothing else reads the convolution's result, which is
    found by running one image. timm's mergeable branches are merged. Dropout and drop path are removed. With
    `image_size` (H, W), tables of positions are resized, and the copy is equal at that size only. The copy has no
    gradients: train and save the network itself. Forms: `inference` for eager PyTorch; `compiled` for torch.compile;
    `graph` for exported files, whose batch may stay open; `size` for those whose height and width stay open, too (do
    not give `image_size`); `device` for phones.
    """
    net = reparameterize_model(deepcopy(model).eval()).requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        for convolution, norm in _foldable(net, image_size or _own_size(net)):
            fuse(convolution, norm)
            _replace(net, {norm: getattr(norm, "act", nn.Identity())})  # timm has norms that hold an activation
        for step in STEPS[form]:
            use_form(net, step, image_size)
    return net.requires_grad_(False).to(memory_format=torch.channels_last)


def use_form(net: nn.Module, step: str, image_size: tuple[int, int] | None = None) -> None:
    """Replace the modules inside `net` by one column of the table, such as `compiled` or `triton`, in place."""
    replaced = {}
    for module in net.modules():
        if build := TABLE.get(type(module), {}).get(step):
            replaced[module] = build(module, image_size)
        if step == "device" and getattr(module, "fused_attn", False):  # timm's switch, in many classes
            module.fused_attn = False  # type: ignore[assignment]
    _replace(net, replaced)


def _replace(net: nn.Module, replaced: dict[nn.Module, nn.Module]) -> None:
    """Put modules in the place of others, wherever those are used."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if replaced.get(child, child) is not child:
                setattr(parent, name, replaced[child])


def _own_size(net: nn.Module) -> tuple[int, int]:
    """Height and width of the images that a timm model inside was made for."""
    for module in net.modules():
        if size := (getattr(module, "pretrained_cfg", None) or {}).get("input_size"):
            return size[1:]
    return 224, 224


def _foldable(net: nn.Module, image_size: tuple[int, int]) -> list[tuple[Any, Any]]:
    """Convolutions, and the norms that are always the only readers of their results."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # by the tensor's id, which it keeps in use
    pairs: list[tuple[nn.Module, nn.Module, int]] = []
    calls: Counter[nn.Module] = Counter()

    def record(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(result)] = module, result
            readers.count[id(result)] = 0
        elif given and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module, id(given[0])))

    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm) and m.track_running_stats]
    if not norms:
        return []
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    channels = convolutions[0].in_channels if convolutions else 3
    image = next(net.parameters()).new_zeros(1, channels, *image_size)
    with ExitStack() as hooks, _Readers() as readers:
        for module in (*convolutions, *norms):
            hooks.callback(module.register_forward_hook(record).remove)
        net(image)
    only = Counter((one, other) for one, other, tensor in pairs if readers.count[tensor] == 1)
    return [(one, other) for (one, other), times in only.items() if times == calls[one] == calls[other]]


class _Readers(TorchFunctionMode):
    """Counts the functions of torch that read each tensor; one that returns no tensor, as a shape, does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(True for _ in _tensors(result)):
            self.count.update(id(x) for x in _tensors((args, list((kwargs or {}).values()))))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
