"""Classification: any timm backbone with its own classifier."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.data.frames import Frame
from featherbone.layers.token_labelling import TokenLabels, token_label_losses
from featherbone.results import Classification
from featherbone.tasks.backbone import build_backbone, require_architecture


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
        """Records from logits (B, K); `frames` and `score` have no effect."""
        scores, labels = raw.float().softmax(1).topk(min(self.top, raw.shape[1]), dim=1)
        return [
            Classification(tuple(row), tuple(self.classes[i] for i in row), tuple(best))
            for row, best in zip(labels.tolist(), scores.tolist(), strict=True)
        ]

    def exhaustive(self) -> "ClassDecoder":
        """A decoder whose records hold every class."""
        return replace(self, top=len(self.classes))

    def describe(self, shown: float) -> dict[str, Any]:
        """What a program needs to decode the logits."""
        return {
            "kind": "softmax",
            "outputs": {"logits": "(B, class)"},
            "formulas": {"score": "exp(logit) / sum(exp(logits))"},
            "top": self.top,
            "order": "score_descending",
        }


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
        """Class names."""
        return self.decoder.classes

    def forward(self, images: Tensor) -> Tensor | TokenLabels:
        """Normalised images (B, 3, H, W) to logits (B, K); a token-labelling backbone in training to `TokenLabels`."""
        return self.backbone(images)

    def losses(self, raw: Tensor | TokenLabels, targets: ClassTargets) -> dict[str, Tensor]:
        """Named terms whose sum is minimised."""
        if isinstance(raw, TokenLabels):
            terms, logits = token_label_losses(raw, targets.labels, self.smoothing), raw.logits.float()
        else:
            logits = raw.float()
            terms = {"class": F.cross_entropy(logits, targets.labels, label_smoothing=self.smoothing)}
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
    **loss: Any,
) -> Classifier:
    """A classifier for `classes` on the timm model `backbone`; `loss` are the loss arguments of `Classifier`."""
    require_architecture(model_args or {}, "model_args")
    net = build_backbone(backbone, pretrained, checkpoint, num_classes=len(classes), **(model_args or {}))
    return Classifier(net, classes, **loss)
