"""Classification: any timm backbone with its own classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.data.frames import Frame
from featherbone.data.loading import Samples
from featherbone.data.sampling import spread_classes
from featherbone.data.split import Split
from featherbone.data.transforms import Preprocessing, training_transform
from featherbone.layers.token_labelling import TokenLabels, token_label_losses
from featherbone.metrics.audit import Audit, ClassAudit
from featherbone.metrics.classification import ClassificationMetrics
from featherbone.results import Classification
from featherbone.tasks.backbone import build_backbone, preprocessing_of, require_architecture
from featherbone.tasks.card import Card
from featherbone.tasks.kind import Item, Kind
from featherbone.tasks.likeness import Likeness, compare_classes


class ClassTargets(NamedTuple):
    """Targets of a batch."""

    labels: Tensor
    """Soft labels (B, K), each row summing to 1."""
    teacher: Tensor | None = None
    """Logits (B, K) of the teacher."""


@dataclass(frozen=True)
class ClassDecoder:
    """From logits to the `top` most probable classes of each image."""

    classes: tuple[str, ...]
    top: int = 5
    kind: ClassVar[str] = "classification"
    raw: ClassVar[Any] = Tensor

    def __call__(
        self, raw: Tensor, frames: Sequence[Frame] = (), *, score: float | None = None
    ) -> list[Classification]:
        """Records from logits (B, K) with the threshold `score`; `frames` have no effect."""
        scores, labels = self._best(raw)
        return [
            Classification(tuple(row), tuple(self.classes[i] for i in row), tuple(best), score or 0.0)
            for row, best in zip(labels.tolist(), scores.tolist(), strict=True)
        ]

    def tensors(self, raw: Tensor, frame: Frame) -> dict[str, Tensor]:
        scores, labels = self._best(raw)
        return {"scores": scores[0], "labels": labels[0]}

    def exhaustive(self) -> "ClassDecoder":
        return replace(self, top=len(self.classes))

    def describe(self, shown: float | None) -> dict[str, Any]:
        return {
            "kind": "softmax",
            "outputs": {"logits": "(B, class)"},
            "formulas": {"score": "exp(logit) / sum(exp(logits))"},
            "top": self.top,
            "order": "score_descending",
            **({} if shown is None else {"abstain_below": shown}),
        }

    def _best(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return torch.topk(raw.float().softmax(1), min(self.top, raw.shape[1]), dim=1)


class Classifier(nn.Module):
    """A backbone that yields logits.

    With a teacher, the loss is (1 - w) of the labels and w = `distillation_weight` of the teacher:
    soft, T^2 KL(teacher / T || student / T) (arXiv 1503.02531), or hard, cross-entropy with the teacher's top class
    (arXiv 2012.12877).
    """

    backbone: Any
    """A timm model."""

    def __init__(
        self,
        backbone: nn.Module,
        classes: Sequence[str],
        smoothing: float = 0.0,
        distillation: str = "soft",
        distillation_weight: float = 0.5,
        temperature: float = 2.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = ClassDecoder(tuple(classes))
        self.smoothing = smoothing
        self.distillation, self.distillation_weight, self.temperature = distillation, distillation_weight, temperature

    @property
    def classes(self) -> tuple[str, ...]:
        return self.decoder.classes

    def forward(self, images: Tensor, score: float = 0.0) -> Tensor | TokenLabels:
        """Normalised images (B, C, H, W) to logits (B, K); a token-labelling backbone in training to `TokenLabels`."""
        return self.backbone(images)

    def losses(self, raw: Tensor | TokenLabels, targets: ClassTargets) -> dict[str, Tensor]:
        """Named terms whose sum is minimised; in evaluation cross-entropy without smoothing."""
        if isinstance(raw, TokenLabels):
            terms, logits = token_label_losses(raw, targets.labels, self.smoothing), raw.logits.float()
        else:
            logits = raw.float()
            smoothing = self.smoothing if self.training else 0.0
            terms = {"class": F.cross_entropy(logits, targets.labels, label_smoothing=smoothing)}
        if targets.teacher is None:
            return terms
        w, t = self.distillation_weight, self.temperature
        if self.distillation == "hard":
            distilled = F.cross_entropy(logits, targets.teacher.argmax(1))
        else:
            student, teacher = (logits / t).log_softmax(1), (targets.teacher / t).log_softmax(1)
            distilled = t**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return {**{name: (1 - w) * term for name, term in terms.items()}, "teacher": w * distilled}


def build_classifier(
    backbone: str,
    classes: Sequence[str],
    model_args: dict[str, Any] | None = None,
    pretrained: bool = False,
    checkpoint: str | None = None,
    model: type[Classifier] = Classifier,
    **loss: Any,
) -> Classifier:
    """A classifier for `classes` on the timm model `backbone`; `loss` are the loss arguments of `Classifier`."""
    require_architecture(model_args or {}, "model_args")
    net = build_backbone(backbone, pretrained, checkpoint, num_classes=len(classes), **(model_args or {}))
    return model(net, classes, **loss)


class ClassificationKind(Kind):
    """One class per image."""

    name = "classification"
    record: ClassVar[type[Classification]] = Classification
    model: ClassVar[Any] = Classifier
    headline = "top1"
    same: ClassVar[Callable[..., Likeness]] = staticmethod(compare_classes)
    explained = "the logit of the class"
    num_explained = 1
    figures: ClassVar[Mapping[str, str]] = {
        **{"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class"},
        "ece": "calibration error",
    }
    inference = frozenset({"score"})
    options = frozenset(
        {"smoothing", "mixup", "cutmix", "auto_augment", "color_jitter", "erasing", "min_area", "dropout"}
        | {"teacher", "distillation", "distillation_weight", "temperature", "operating_point"}
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small-data": dict(batch_size=16, epochs=100, warmup_epochs=5, clip_grad=1.0, ema=0.995)
        | dict(mixup=0.2, cutmix=0.0, auto_augment="rand-m6-mstd0.5-inc1")
    }
    eval_batch = 64
    has_validation_loss = True
    collate = None

    def preprocessing(self, model: str, head: Any, image_size: int | tuple[int, int] | None) -> Preprocessing:
        return preprocessing_of(model, image_size)

    def decoder(self, card: Card, strides: Sequence[float]) -> ClassDecoder:
        return ClassDecoder(card.classes)

    def metrics(self, source: Any) -> ClassificationMetrics:
        return ClassificationMetrics(len(source.classes))

    def audit(self, source: Any) -> Audit:
        return ClassAudit(source.classes)

    def items(self, decoder: Any, raw: Tensor, frame: Frame, score: float | None) -> tuple[Classification, list[Item]]:
        [record] = decoder(raw, [frame], score=score)
        rows = zip(record.names, record.labels, record.scores, strict=True)
        return record, [Item(name, partial(raw[0].select, 0, label), own) for name, label, own in rows]

    def truth_record(self, truth: int, split: Split[Any]) -> Classification:
        return Classification((truth,), (split.classes[truth],), (1.0,))

    def target_record(self, target: int, image: Tensor, split: Split[Any]) -> Classification:
        return self.truth_record(target, split)

    def class_notes(self, metrics: Mapping[str, Any], split: Split[Any]) -> list[str]:
        return [f"{sum(row)} images" for row in metrics["confusion"]]

    def samples(self, split: Any, preprocessing: Preprocessing, settings: Any, training: bool) -> Samples:
        names = ("auto_augment", "color_jitter", "erasing", "flip", "min_area")
        chosen = {name: getattr(settings, name) for name in names}
        transform = training_transform(preprocessing, **chosen) if training else preprocessing.transform()
        return Samples(split, transform, settings.seed, training, preprocessing.channels)

    def choose(self, split: Any, count: int) -> list[int]:
        return spread_classes(split.labels, count)

    def set_loss(self, task: Any, settings: Any, train: Split[Any]) -> None:
        for name in ("smoothing", "distillation", "distillation_weight", "temperature"):
            setattr(task, name, getattr(settings, name))

    def to_targets(self, batch: Any, decoder: Any, device: torch.device) -> tuple[Tensor, ClassTargets]:
        images, labels = (part.to(device, non_blocking=True) for part in batch)
        return images, ClassTargets(F.one_hot(labels, len(decoder.classes)).float())

    def draw_targets(self, decoder: Any, size: tuple[int, int, int], draw: torch.Generator) -> ClassTargets:
        count = len(decoder.classes)
        return ClassTargets(F.one_hot(torch.randint(count, (size[0],), generator=draw), count).float())
