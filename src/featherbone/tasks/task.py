"""The tasks by name; nothing else in the package asks which task it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from featherbone.errors import BadRun
from featherbone.tasks.card import Card
from featherbone.tasks.classification import ClassificationKind, build_classifier
from featherbone.tasks.dense import DenseTask, build_head, build_pyramid
from featherbone.tasks.detection import DetectionKind, InstanceKind
from featherbone.tasks.kind import Decoder, Kind
from featherbone.tasks.panoptic import PanopticKind
from featherbone.tasks.semantic import SemanticKind

ROWS: tuple[Kind, ...] = (ClassificationKind(), DetectionKind(), InstanceKind(), SemanticKind(), PanopticKind())
KINDS: dict[str, Kind] = {kind.name: kind for kind in ROWS}
"""What differs from task to task, by the name of the task."""


def kind_of(card: Card) -> Kind:
    """The row of a card's task. Raises `BadRun` for a task that this version does not know."""
    if card.task not in KINDS:
        raise BadRun(f"{card.backbone}: a run for {card.task!r}; this version knows {', '.join(KINDS)}")
    return KINDS[card.task]


def decoder_of(card: Card, strides: Sequence[float] = ()) -> Decoder:
    """The decoder of a card's raw tensors, without a network.

    `strides` of the head's maps are needed for heads with anchors; an exported file states them in its manifest.
    """
    return kind_of(card).decoder(card, strides)


def assemble(card: Card, model_args: Mapping[str, Any], pretrained: bool, checkpoint: str | None) -> Any:
    """The network of a card, with these keyword arguments of its backbone, as a `Task`."""
    kind = kind_of(card)
    head_class = kind.find_head(card.head)[1]
    if head_class is None:
        return build_classifier(card.backbone, card.classes, dict(model_args), pretrained, checkpoint)
    pyramid = build_pyramid(card, model_args, pretrained, checkpoint)
    head = build_head(card, head_class, pyramid, kind.counts(card))
    return DenseTask(pyramid, head, decoder_of(card, getattr(head, "strides", ())), kind.loss())
