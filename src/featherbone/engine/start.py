"""What training starts from: published weights, a file, another run's backbone, or random weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from featherbone.backbones.checkpoints import published_file
from featherbone.backbones.published import CLASSIFIERS
from featherbone.errors import BadOption
from featherbone.tasks.backbone import full_name, licence_of, require_licence, require_model, weights_licence
from featherbone.tasks.card import Card
from featherbone.tasks.published import PUBLISHED, our_weights, published_card, read_published
from featherbone.tasks.run import build_task, fit


class Start(NamedTuple):
    """What training starts from, as the card of a run states it."""

    backbone: str
    weights: str
    """The published model, file or run; empty for random weights."""
    licence: str
    model_args: Mapping[str, Any] = MappingProxyType({})
    head_args: Mapping[str, Any] = MappingProxyType({})


def starting_point(
    model: str, pretrained: bool, checkpoint: str | None, backbone_from: str | None, accepted: str | None
) -> Start:
    """What training of `model` starts from. Raises `BadLicence`, and `BadCheckpoint` where it is not available."""
    if model in PUBLISHED:
        licence = PUBLISHED[model].checkpoint.licence
        require_licence(model, licence, accepted)
        card = published_card(model, read_published(_file(model, checkpoint)))
        return Start(card.backbone, model, licence, card.model_args, card.head_args)
    require_model(model)
    if backbone_from is not None:
        return Start(model, Path(backbone_from).name, Card.read(Path(backbone_from)).weights_licence)
    licence = weights_licence(model, pretrained, checkpoint)
    if checkpoint is not None:
        return Start(model, Path(checkpoint).name, licence)
    if not pretrained:
        return Start(model, "", licence)
    require_licence(model, licence_of(model), accepted)
    return Start(model, full_name(model), licence)


def _file(model: str, checkpoint: str | None) -> Path:
    return Path(checkpoint) if checkpoint else published_file(model, PUBLISHED[model].checkpoint)


def starting_words(card: Card) -> str:
    """What training starts from, for the log."""
    if card.starting_weights:
        return f"starts from the weights {card.starting_weights}; their licence: {card.weights_licence}"
    reason = CLASSIFIERS[card.backbone].unusable if card.backbone in CLASSIFIERS else ""
    return "starts from random weights" + (f": {reason.partition(';')[0]}" if reason else "")


def fine_tuning(name: str, task: str | None, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The task, and the settings with the head, of a training that starts from the published model `name`.

    Raises `BadOption` for another task or head, or other weights.
    """
    model = PUBLISHED[name]
    chosen = {"task": (task, model.task), "head": (settings.get("head"), model.head)}
    for option, (given, own) in chosen.items():
        if given not in (None, own):
            raise BadOption(f"{option} {given}: {name} has {own}; omit it, or start from the backbone {model.backbone}")
    if settings.get("backbone_from"):
        raise BadOption(f"backbone_from: {name} has its own weights; omit it, or pass --model {model.backbone}")
    if settings.get("pretrained") is False:
        raise BadOption(f"no-pretrained: {name} is a model with its weights; pass --model {model.backbone}")
    return model.task, {**settings, "head": model.head, "pretrained": True}


def load_published(task: Any, card: Card, checkpoint: str | None = None) -> None:
    """The published weights that a card starts from into `task`, but the layers of the classes if those differ.

    They are downloaded, or those of the file `checkpoint`.
    """
    model = PUBLISHED[card.starting_weights]
    weights = our_weights(read_published(_file(card.starting_weights, checkpoint)), task)
    own = task.state_dict()
    if card.classes != model.data.classes:
        with torch.device("meta"):
            wider = build_task(replace(card, classes=(*card.classes, "one more"))).state_dict()
        others = {name for name, value in wider.items() if value.shape != own[name].shape}
        weights = {name: own[name] if name in others else value for name, value in weights.items()}
    fit(task, weights, Path(card.starting_weights))
