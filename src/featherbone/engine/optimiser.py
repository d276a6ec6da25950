"""What moves the weights: parameter groups, freezing, the optimiser, and its schedule as a function of the step."""

import inspect
import re
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_class,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from featherbone.engine.settings import Settings
from featherbone.errors import BadOption, did_you_mean


def freeze_parts(backbone: Any, count: int) -> list[str]:
    """Stop training the first `count` parts of a timm model, stem first; -1: all but the classifier. Their names.

    Norms with running statistics in frozen parts must stay in evaluation mode: see `set_training`.
    """
    if count == 0:
        return []
    if count < 0:
        classifier = backbone.get_classifier()
        layers = classifier if isinstance(classifier, tuple | list) else (classifier,)
        head = {id(parameter) for layer in layers for parameter in layer.parameters()}
        names = [name for name, parameter in backbone.named_parameters() if id(parameter) not in head]
    else:
        parts = group_parameters(backbone, backbone.group_matcher(coarse=True))
        if count >= len(parts):
            raise BadOption(f"freeze {count}: this network has {len(parts)} parts, the last its head; freeze fewer")
        names = [name for part in sorted(parts)[:count] for name in parts[part]]
    parameters = dict(backbone.named_parameters())
    for name in names:
        parameters[name].requires_grad_(False)
    return names


def set_training(module: nn.Module) -> None:
    """Training mode, except for modules all of whose parameters are frozen: their statistics stay as they are."""
    module.train()
    for child in module.modules():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()


def freeze_norms(backbone: nn.Module) -> None:
    """Keep batch norms as they are: neither weights nor, by `set_training`, running statistics move."""
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(False)


def build_optimiser(task: nn.Module, backbone: Any, settings: Settings) -> torch.optim.Optimizer:
    """Timm's optimiser over a task and the timm model in it.

    Parameter groups are timm's: no decay on 1-D parameters, layer-wise rates in the backbone, `head_lr` of the rate
    elsewhere. A backbone may have `lr_scales()`, patterns of parameter names and factors on their learning rate.
    """
    name = settings.optimizer
    if name not in list_optimizers():
        raise BadOption(f"no optimizer {name!r}{did_you_mean(name, list_optimizers())} timm's names are allowed")
    decay, layer_decay = settings.weight_decay, settings.layer_decay
    spared = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    if layer_decay is None:
        groups = param_groups_weight_decay(backbone, decay, no_weight_decay_list=spared)
    else:
        groups = param_groups_layer_decay(backbone, decay, no_weight_decay_list=spared, layer_decay=layer_decay)
    inside = {id(parameter) for parameter in backbone.parameters()}
    rest = [p for p in task.parameters() if p.requires_grad and id(p) not in inside]
    scale = {} if settings.head_lr == 1 else {"lr_scale": settings.head_lr}
    groups.append({"params": [p for p in rest if p.ndim > 1], "weight_decay": decay, **scale})
    groups.append({"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, **scale})
    arguments = inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters
    fused = {"fused": True} if "fused" in arguments else {}  # one kernel for all parameters, where torch has it
    optimiser = create_optimizer_v2([g for g in groups if g["params"]], opt=name, lr=settings.lr, **fused)
    scales: dict[str, float] = backbone.lr_scales() if hasattr(backbone, "lr_scales") else {}
    for pattern, factor in scales.items():
        _scale_group(backbone, optimiser, pattern, factor)
    return optimiser


def _scale_group(backbone: nn.Module, optimiser: torch.optim.Optimizer, pattern: str, factor: float) -> None:
    """Split the parameters that `pattern` names off their groups, at `factor` of the rate."""
    chosen = {id(p) for name, p in backbone.named_parameters() if re.search(pattern, name)}
    for group in list(optimiser.param_groups):
        matching = [p for p in group["params"] if id(p) in chosen]
        if not matching:
            continue
        group["params"] = [p for p in group["params"] if id(p) not in chosen]
        scaled: dict[str, Any] = {key: value for key, value in group.items() if key != "params"}
        optimiser.add_param_group({**scaled, "params": matching, "lr_scale": factor * group.get("lr_scale", 1.0)})
    optimiser.param_groups[:] = [group for group in optimiser.param_groups if group["params"]]


def build_schedule(optimiser: torch.optim.Optimizer, settings: Settings, steps_per_epoch: int) -> Scheduler:
    """Linear warm-up, then a cosine and cooldown, a power, or steps, by the number of updates: nothing to save."""
    updates = settings.epochs * steps_per_epoch
    warmup: dict[str, Any] = {
        "warmup_t": min(round(settings.warmup_epochs * steps_per_epoch), updates - 1),
        "warmup_lr_init": min(settings.warmup_lr, settings.lr),
        "warmup_prefix": False,
        "t_in_epochs": False,
    }
    if settings.schedule == "step":
        falls = [milestone * steps_per_epoch + 1 for milestone in settings.milestones]  # timm's count is one early
        return MultiStepLRScheduler(optimiser, decay_t=falls, decay_rate=0.1, **warmup)
    if settings.schedule == "poly":
        return PolyLRScheduler(optimiser, t_initial=updates, power=settings.power, lr_min=settings.min_lr, **warmup)
    return CosineLRScheduler(optimiser, t_initial=updates, lr_min=settings.min_lr, **warmup)
