"""The inference form of a network: what only training needs is gone, and what never changes is computed once."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

import torch
from timm.layers import DropPath
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode

from featherbone.ops.product import convolve, fuses, product

Net = TypeVar("Net", bound=nn.Module)

DROPS = (DropPath, nn.Dropout, nn.Dropout2d)


def deploy(model: Net, image_size: tuple[int, int] | None = None) -> Net:
    """A copy of a network for inference, equal to it within rounding (1e-5); the network itself stays as it is.

    A BatchNorm is folded into the convolution before it, and an activation computed with the convolution or Linear
    before it, wherever nothing else reads what stands between the two, which running one image tells. Branches that
    timm knows how to merge are merged. Dropout and drop path are gone. Modules that have a method `fold_constants` have
    computed what never changes. With `image_size` (H, W), learned tables have their size there: the copy is equal at
    that size alone. Kernels lie channels-last in memory. The copy has no gradients: train and save the network itself.
    """
    net = reparameterize_model(deepcopy(model).eval()).requires_grad_(False)
    size = image_size or _own_size(net)
    with torch.inference_mode(False), torch.no_grad():
        for convolution, norm in _neighbours(net, size, (nn.Conv2d,), _tracks):
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
        for module, activation in _neighbours(net, size, (nn.Conv2d, nn.Linear), fuses):
            usual = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
            if usual or type(module) is nn.Linear:
                _replace(net, activation, nn.Identity())
                _replace(net, module, Convolution(module, activation) if usual else Product(module, activation))
        for module in list(net.modules()):
            if type(module) is nn.Linear:
                _replace(net, module, Product(module))
    return net.requires_grad_(False).to(memory_format=torch.channels_last)


class Product(nn.Linear):
    """A Linear, and the activation behind it, by the fastest product."""

    def __init__(self, linear: nn.Linear, activation: nn.Module | None = None) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias, self.activation = linear.weight, linear.bias, activation

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, self.activation)


class Convolution(nn.Conv2d):
    """A convolution and the activation behind it at once."""

    def __init__(self, conv: Any, activation: nn.Module) -> None:
        sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation
        super().__init__(*sizes, conv.groups, conv.bias is not None, device="meta")
        self.weight, self.bias, self.activation = conv.weight, conv.bias, activation

    def forward(self, x: Tensor) -> Tensor:
        assert not isinstance(self.padding, str), "none is padded by a word"
        how = self.stride, self.padding, self.dilation, self.groups
        return convolve(x, self.weight, self.bias, self.activation, *how)


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.track_running_stats


def _own_size(net: nn.Module) -> tuple[int, int]:
    """Height and width of the images that a timm model inside was made for."""
    for module in net.modules():
        if size := (getattr(module, "pretrained_cfg", None) or {}).get("input_size"):
            return size[1:]
    return 224, 224


def _neighbours(
    net: nn.Module, image_size: tuple[int, int], kinds: tuple[type, ...], follows: Callable[[nn.Module], bool]
) -> list[tuple[Any, Any]]:
    """Modules of some kinds, and ones that always and alone read what those give."""
    made: dict[int, tuple[Any, Tensor]] = {}  # by the tensor, which is kept so that none takes its place
    pairs: list[tuple[Any, Any, int]] = []
    calls: Counter[nn.Module] = Counter()

    def seen(module: Any, given: tuple[Any, ...], result: Any) -> None:
        calls[module] += 1
        if isinstance(module, kinds):
            made[id(result)] = module, result
            readers.count[id(result)] = 0  # it may have the place of one that is gone
        elif given and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module, id(given[0])))

    first = [module for module in net.modules() if isinstance(module, kinds)]
    behind = [module for module in net.modules() if follows(module)]
    if not first or not behind:
        return []
    in_place: list[Any] = [module for module in behind if getattr(module, "inplace", False)]  # makes what it reads
    handles = [module.register_forward_hook(seen) for module in (*first, *behind)]
    channels = next((m.in_channels for m in net.modules() if isinstance(m, nn.Conv2d)), 3)
    image = next(net.parameters()).new_zeros(1, channels, *image_size)
    readers = _Readers()
    try:
        for activation in in_place:
            activation.inplace = False
        with readers:
            net(image)
    finally:
        for activation in in_place:
            activation.inplace = True
        for handle in handles:
            handle.remove()
    alone = Counter((one, other) for one, other, tensor in pairs if readers.count[tensor] == 1)
    return [(one, other) for (one, other), times in alone.items() if times == calls[one] == calls[other]]


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
