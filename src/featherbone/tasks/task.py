"""The tasks by name; nothing else in the package asks which task it is."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from featherbone.data.frames import Frame
from featherbone.errors import BadRun
from featherbone.results import Record
from featherbone.tasks.card import Card
from featherbone.tasks.classification import ClassificationKind
from featherbone.tasks.detection import DetectionKind, InstanceKind
from featherbone.tasks.kind import Decoder, Kind
from featherbone.tasks.multilabel import MultiLabelKind
from featherbone.tasks.panoptic import PanopticKind
from featherbone.tasks.semantic import SemanticKind

ROWS: tuple[Kind, ...] = (
    *(ClassificationKind(), MultiLabelKind(), DetectionKind(), InstanceKind(), SemanticKind(), PanopticKind()),
)
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


def infer(
    task: Any, inputs: Sequence[Tensor], frames: Sequence[Frame], device: torch.device, score: float | None
) -> list[Record]:
    """The records of images by their inputs (3, H, W) and frames; neighbours of one size make a batch."""
    records: list[Record] = []
    for _, group in groupby(inputs, lambda image: image.shape):
        batch = torch.stack(list(group))
        its_frames = frames[len(records) : len(records) + len(batch)]
        records += task.decoder(task(batch.to(device), score or 0.0), its_frames, score=score)
    return records
