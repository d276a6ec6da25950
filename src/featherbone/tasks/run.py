"""A run folder as users of its weights see it: card and weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from featherbone.backbones.checkpoints import not_finite
from featherbone.errors import BadOption, BadRun, FeatherboneError
from featherbone.files import write_bytes
from featherbone.hub import download, is_repository
from featherbone.tasks.card import CARD, WEIGHTS, Card
from featherbone.tasks.classification import build_classifier
from featherbone.tasks.dense import DenseTask, build_head, build_pyramid
from featherbone.tasks.task import decoder_of, kind_of
from featherbone.tasks.timm_format import CONFIG, TIMM_WEIGHTS, read_config
from featherbone.tasks.variant import split_variant

DIGEST = "sha256"
"""Only name in the metadata of `weights.safetensors`, for the order of several varies: the digest of its tensors."""


def load_task(run: Path) -> tuple[Card, Any]:
    """The card of a run and its model with the run's weights, in evaluation mode.

    `run` is a folder, also one of a classifier in timm's format, or the name of a repository on the hub; with a suffix,
    a variant of its model. Raises `BadRun`, `BadOption` as `vary`, and `HubError` where it cannot be downloaded.
    """
    name, arguments = split_variant(run)
    run = Path(name)
    if is_repository(run):
        run = download(run, (CARD, WEIGHTS, CONFIG, TIMM_WEIGHTS))
    card = Card.read(run) if (run / CARD).is_file() or not (run / CONFIG).is_file() else read_config(run)
    card = vary(card, arguments)
    with torch.random.fork_rng(devices=()):  # initial weights are drawn, then replaced
        task = build_task(card)
    load_weights(run, task)
    return card, task.eval()


def build_task(card: Card, pretrained: bool = False, checkpoint: str | None = None, **model_args: Any) -> Any:
    """The model of a card, with more keyword arguments of its backbone, untrained or as `build_backbone` starts it.

    Raises `BadRun` for a task this version does not know.
    """
    kind, arguments = kind_of(card), {**card.model_args, **model_args}
    head_class = kind.find_head(card.head)[1]
    try:
        if head_class is None:
            return build_classifier(card.backbone, card.classes, arguments, pretrained, checkpoint, kind.model)
        pyramid = build_pyramid(card, arguments, pretrained, checkpoint)
        head = build_head(card, head_class, pyramid, kind.counts(card))
        return DenseTask(pyramid, head, decoder_of(card, getattr(head, "strides", ())), kind.loss())
    except FeatherboneError:
        raise
    except Exception as error:  # timm and torch raise whatever a keyword leads to
        if not card.model_args and not card.head_args:
            raise
        given = {**card.model_args, **card.head_args}
        raise BadOption(
            f"{card.backbone} cannot be built with {str(given)[:200]} ({type(error).__name__}: {error}); "
            "give other model_args and head_args"
        ) from error


def vary(card: Card, arguments: Mapping[str, Any]) -> Card:
    """A card with other keyword arguments of its backbone, for the same weights, and without the metrics of the run.

    The threshold of scores is kept. Raises `BadOption` for arguments that the backbone does not take, or that change
    its parameters.
    """
    if not arguments:
        return card
    threshold = {name: value for name, value in card.metrics.items() if name in ("best_score", "operating_point")}
    varied = replace(card, model_args={**card.model_args, **arguments}, metrics=threshold)
    with torch.random.fork_rng(devices=()), torch.device("meta"):
        own, others = (
            {name: tuple(value.shape) for name, value in build_task(one).state_dict().items()} for one in (card, varied)
        )
    if wrong := sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name)):
        given = ",".join(f"{name}={value}" for name, value in arguments.items())
        raise BadOption(
            f"{given} changes weights of {card.backbone}, such as {wrong[0]}, so trained ones do not fit; give "
            f"arguments that change none, or train a model with --model-args {given}"
        )
    return varied


def load_backbone(run: Path, card: Card, backbone: Any, name: str) -> None:
    """The weights of another run's backbone, of any task, into `backbone`, the timm model `name`.

    Parts that `backbone` lacks, such as a classifier, are left behind; all that it has must be there.
    """
    if card.backbone != name:
        raise BadRun(
            f"{run}: its backbone is {card.backbone}, not {name}; give a run of {name}, or --model {card.backbone}"
        )
    tensors = read_weights(run)
    inside = ("pyramid.backbone.", "backbone.")
    found = {key.removeprefix(p): value for p in inside for key, value in tensors.items() if key.startswith(p)}
    own = backbone.state_dict()
    fit(backbone, {key: value for key, value in found.items() if key in own}, run / WEIGHTS)


def save_weights(run: Path, model: nn.Module, name: str = WEIGHTS) -> None:
    """The model's weights to `weights.safetensors`, or another name, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(run / name, save(tensors, metadata={DIGEST: digest(tensors)}))


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values of tensors on the CPU."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def load_weights(run: Path, model: nn.Module) -> None:
    """The weights of a run, or of a classifier in timm's format, into the model of its card.

    Raises `BadRun` naming what does not fit.
    """
    if (run / WEIGHTS).is_file() or not (run / TIMM_WEIGHTS).is_file():
        return fit(model, read_weights(run), run / WEIGHTS)
    counters = {name: x for name, x in model.state_dict().items() if name.endswith("num_batches_tracked")}
    found = {f"backbone.{name}": value for name, value in read_weights(run, TIMM_WEIGHTS).items()}
    fit(model, counters | found, run / TIMM_WEIGHTS)  # timm has files without these counters


def read_weights(run: Path, name: str = WEIGHTS) -> dict[str, Tensor]:
    """The weights of a run by name, from the file `name`.

    Raises `BadRun` where they are missing, or damaged by their digest.
    """
    path = run / name
    if not path.is_file():
        raise BadRun(f"{run}: no {WEIGHTS} yet; finish the run with: featherbone train --resume {run}")
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get(DIGEST)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # it is no dict
        if written not in (None, digest(tensors)):
            raise SafetensorError("other values than were written")
        return tensors
    except (SafetensorError, OSError) as error:
        raise BadRun(f"{path}: damaged ({str(error)[:200]}); restore the file or train again") from None


def fit(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load `tensors`, all names and shapes of which must be the model's."""
    own = model.state_dict()
    wrong = [f"{name} missing" for name in own.keys() - tensors.keys()]
    wrong += [f"{name} unknown" for name in tensors.keys() - own.keys()]
    wrong += [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise BadRun(f"{path}: weights of another model than the card's: {'; '.join(sorted(wrong)[:10])}")
    if broken := not_finite(tensors):
        raise BadRun(
            f"{path}: {len(broken)} weights are not finite, such as {broken[0]}; restore the file, or train again with "
            "a lower --lr or --precision fp32"
        )
    model.load_state_dict(tensors)
