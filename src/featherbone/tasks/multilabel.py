"""Multi-label classification: any number of classes per image, each with a probability of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.data.frames import Frame
from featherbone.data.sampling import spread
from featherbone.data.split import Split
from featherbone.errors import BadOption
from featherbone.layers.token_labelling import TokenLabels
from featherbone.metrics.audit import LabelSetAudit
from featherbone.metrics.multilabel import THRESHOLD, LabelMetrics
from featherbone.results import LabelSet
from featherbone.tasks.card import Card
from featherbone.tasks.classification import ClassDecoder, ClassificationKind, Classifier, ClassTargets
from featherbone.tasks.kind import Kind
from featherbone.tasks.likeness import compare_labels


@dataclass(frozen=True)
class LabelDecoder(ClassDecoder):
    """From logits to the classes whose probability is above a threshold."""

    kind: ClassVar[str] = "multilabel"

    def __call__(  # type: ignore[override]  # a record of its own
        self, raw: Tensor, frames: Sequence[Frame] = (), *, score: float | None = None
    ) -> list[LabelSet]:
        """Records from logits (B, K), with the classes above `score`, by default all; `frames` have no effect."""
        scores, labels = self._best(raw)
        counts = (scores > score).sum(1).tolist() if score else [len(self.classes)] * len(raw)
        return [
            LabelSet(tuple(row[:count]), tuple(self.classes[i] for i in row[:count]), tuple(best[:count]))
            for row, best, count in zip(labels.tolist(), scores.tolist(), counts, strict=True)
        ]

    def exhaustive(self) -> "LabelDecoder":
        return self

    def describe(self, shown: float | None) -> dict[str, Any]:
        return {
            "kind": "sigmoid",
            "outputs": {"logits": "(B, class)"},
            "formulas": {"score": "1 / (1 + exp(-logit))"},
            "shown": THRESHOLD if shown is None else shown,
            "score_rule": "above",
            "order": "score_descending",
        }

    def _best(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return torch.topk(raw.float().sigmoid(), raw.shape[1], dim=1)


class LabelClassifier(Classifier):
    """A backbone that yields logits, each of which is the presence of a class."""

    def __init__(self, backbone: Any, classes: Sequence[str]) -> None:
        super().__init__(backbone, classes)
        self.decoder = LabelDecoder(tuple(classes))

    def losses(self, raw: Tensor | TokenLabels, targets: ClassTargets) -> dict[str, Tensor]:
        """Binary cross-entropy, averaged over images and classes."""
        if isinstance(raw, TokenLabels):
            raise BadOption("mix_token trains on one class per position; omit it for images with several labels")
        return {"class": F.binary_cross_entropy_with_logits(raw.float(), targets.labels)}


class MultiLabelKind(ClassificationKind):
    """Any number of classes per image, also none."""

    name = "multilabel"
    record = LabelSet
    model = LabelClassifier
    headline = "mAP"
    same = staticmethod(compare_labels)
    figures: ClassVar[Mapping[str, str]] = {"mAP": "mAP", "micro_F1": "micro F1", "macro_F1": "macro F1"}
    num_explained = Kind.num_explained
    score = THRESHOLD
    inference = frozenset({"score"})
    options = frozenset(
        {"mixup", "cutmix", "auto_augment", "color_jitter", "erasing", "min_area", "dropout"}  # others are of one class
    )

    def decoder(self, card: Card, strides: Sequence[float]) -> LabelDecoder:
        return LabelDecoder(card.classes)

    def metrics(self, source: Any) -> LabelMetrics:  # type: ignore[override]  # of records of its own
        return LabelMetrics(len(source.classes))

    def audit(self, source: Any) -> LabelSetAudit:
        return LabelSetAudit(source.classes)

    def truth_record(self, truth: Any, split: Split[Any]) -> LabelSet:
        labels = tuple(i for i, there in enumerate(truth.tolist()) if there)
        return LabelSet(labels, tuple(split.classes[i] for i in labels), (1.0,) * len(labels))

    def class_notes(self, metrics: Mapping[str, Any], split: Split[Any]) -> list[str]:
        notes = zip(metrics["positives"], metrics["F1"], strict=True)
        return [f"{count} images" + (f", F1 {score:.3f}" if score is not None else "") for count, score in notes]

    def choose(self, split: Any, count: int) -> list[int]:
        return spread(len(split), count)

    def set_loss(self, task: Any, settings: Any, train: Split[Any]) -> None:
        pass  # no setting changes it

    def to_targets(self, batch: Any, decoder: Any, device: torch.device) -> tuple[Tensor, ClassTargets]:
        images, labels = (part.to(device, non_blocking=True) for part in batch)
        return images, ClassTargets(labels.float())

    def draw_targets(self, decoder: Any, size: tuple[int, int, int], draw: torch.Generator) -> ClassTargets:
        return ClassTargets(torch.randint(2, (size[0], len(decoder.classes)), generator=draw).float())
