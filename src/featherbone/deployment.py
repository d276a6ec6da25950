"""The inference form of a network: what only training needs is gone, and what never changes is computed once."""

from collections import Counter
from copy import deepcopy
from typing import Any, TypeVar

import torch
from timm.layers import DropPath
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode

from featherbone.ops.product import product

Net = TypeVar("Net", bound=nn.Module)

DROPS = (DropPath, nn.Dropout, nn.Dropout2d)


def deploy(model: Net, image_size: tuple[int, int] | None = None) -> Net:
    """A copy of a network for inference, equal to it within rounding (1e-5); the network itself stays as it is.

    A BatchNorm is folded into the convolution before it wherever nothing else reads that convolution's result, which
    running one image tells. Branches that timm knows how to merge are merged. Dropout and drop path are gone. Modules
    that have a method `fold_constants` have computed what never changes. With `image_size` (H, W), learned tables have
    their size there: the copy is equal at that size alone. Kernels lie channels-last in memory. The copy has no
    gradients: train and save the network itself.
    """
    net = reparameterize_model(deepcopy(model).eval()).requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        for convolution, norm in _foldable(net, image_size or _own_size(net)):
            assert norm.running_mean is not None and norm.running_var is not None, "it tracks them"
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            _replace(net, norm, getattr(norm, "act", nn.Identity()))  # timm has norms that hold an activation
        for module in list(net.modules()):
            if image_size is not None and hasattr(module, "set_input_size") and hasattr(module, "levels"):
                module.set_input_size(image_size)
            if hasattr(module, "fold_constants"):
                module.fold_constants()
            if isinstance(module, DROPS):
                _replace(net, module, nn.Identity())
            if type(module) is nn.Linear:
                _replace(net, module, Product(module))
    return net.requires_grad_(False).to(memory_format=torch.channels_last)


class Product(nn.Linear):
    """A Linear by the fastest product."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


def _own_size(net: nn.Module) -> tuple[int, int]:
    """Height and width of the images that a timm model inside was made for."""
    for module in net.modules():
        if size := (getattr(module, "pretrained_cfg", None) or {}).get("input_size"):
            return size[1:]
    return 224, 224


def _foldable(net: nn.Module, image_size: tuple[int, int]) -> list[tuple[nn.Conv2d, _BatchNorm]]:
    """Convolutions and norms, each used once on an image, where the norm alone reads what the convolution gives."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by the tensor, which is kept so that none takes its place
    pairs: list[tuple[nn.Conv2d, _BatchNorm, int]] = []
    calls: Counter[nn.Module] = Counter()

    def seen(module: Any, given: tuple[Any, ...], result: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(result)] = module, result
            readers.count[id(result)] = 0  # it may have the place of one that is gone
        elif given and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module, id(given[0])))

    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not convolutions or not norms:
        return []
    handles = [module.register_forward_hook(seen) for module in (*convolutions, *norms)]
    first = convolutions[0]
    image = first.weight.new_zeros(1, first.in_channels, *image_size)
    readers = _Readers()
    try:
        with readers:
            net(image)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (convolution, norm)
        for convolution, norm, tensor in pairs
        if calls[convolution] == calls[norm] == 1 and readers.count[tensor] == 1
    ]


class _Readers(TorchDispatchMode):
    """Counts the operators that read each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        self.count.update(id(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module where another is, wherever it is."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
