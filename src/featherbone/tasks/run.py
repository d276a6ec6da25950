"""A run folder as users of its weights see it: card and weights."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from featherbone.errors import BadRun
from featherbone.files import write_bytes
from featherbone.tasks.card import WEIGHTS, Card
from featherbone.tasks.classification import Classifier, build_classifier


def load_task(run: Path) -> tuple[Card, Classifier]:
    """The card of a run and its model with the run's weights, in evaluation mode. Raises `BadRun`."""
    card = Card.read(run)
    task = build_classifier(card.backbone, card.classes, card.model_args)
    load_weights(run, task)
    return card, task.eval()


def save_weights(run: Path, model: nn.Module) -> None:
    """The model's weights to `weights.safetensors`, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(run / WEIGHTS, save(tensors, metadata={"format": "pt"}))


def load_weights(run: Path, model: nn.Module) -> None:
    """The weights of a run into the model of its card. Raises `BadRun` naming what does not fit."""
    path = run / WEIGHTS
    if not path.is_file():
        raise BadRun(f"{run}: no {WEIGHTS} yet; finish the run with: featherbone train --resume {run}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadRun(f"{path}: damaged ({error}); restore the file or train again") from None
    fit(model, tensors, path)


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
    model.load_state_dict(tensors)
