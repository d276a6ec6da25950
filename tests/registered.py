"""The models that featherbone registers with timm, as timm's registry tells them."""

import math
import pkgutil
from functools import cache
from importlib import import_module

import pytest
import timm
import torch
from torch import nn

from featherbone import backbones

for module in pkgutil.iter_modules(backbones.__path__, "featherbone.backbones."):
    import_module(module.name)


def family(name):
    """The module that registers the model."""
    return timm.model_entrypoint(name).__module__


NAMES = [name for name in timm.list_models() if family(name).startswith("featherbone.")]


def on_meta(name, **kwargs):
    """The model without memory or computation: names, shapes and structure."""
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


@cache
def num_parameters(name):
    return sum(parameter.numel() for parameter in on_meta(name).parameters())


def smallest(name):
    """The smallest model of the same family."""
    return min((other for other in NAMES if family(other) == family(name)), key=num_parameters)


SMALLEST = sorted({smallest(name) for name in NAMES})


def each(names=NAMES, slow=lambda name: num_parameters(name) > 2 * num_parameters(smallest(name))):
    """A parametrisation by name; more than twice the parameters of the family's smallest, and it is slow."""
    marked = [pytest.param(name, marks=pytest.mark.slow) if slow(name) else name for name in names]
    return pytest.mark.parametrize("name", marked)


def each_but_only_smallest_is_fast():
    """A parametrisation by name for laws that take seconds: all but the smallest of each family are slow."""
    return each(slow=lambda name: name not in SMALLEST)


def image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomise(model):
    """Weights far from their start, so that every branch and every parameter counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty_like(parameter).normal_(generator=generator)
            fan_in = math.prod(parameter.shape[1:])
            parameter.copy_(noise * fan_in**-0.5 if parameter.ndim > 1 else parameter + 0.1 * noise)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model


@cache
def net(name):
    """The model with seven classes in evaluation, to be left as it is."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return randomise(timm.create_model(name, num_classes=7)).eval()
