"""Semantic segmentation: any timm backbone, as a pyramid, under a head that gives every pixel a class."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from featherbone.data.frames import Frame
from featherbone.heads.pixels import PixelLoss
from featherbone.ops.label_maps import LABEL_MAP, label_map
from featherbone.results import SemanticMap
from featherbone.tasks.pyramid import Pyramid


class SemanticHead(Protocol):
    """What SegFormer's head and Semantic FPN have in common."""

    image_size: ClassVar[int]
    """Side of the input that users expect."""

    def __call__(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps (B, C, h, w) of a pyramid and the size of the images they are of, to logits (B, K, h, w)."""


class Segmenter(nn.Module):
    """A pyramid under a head, with the names of its classes and the loss it is taught by."""

    head: Any
    """A `SemanticHead`."""

    def __init__(
        self, pyramid: Pyramid, head: nn.Module, classes: Sequence[str], loss: PixelLoss | None = None
    ) -> None:
        super().__init__()
        self.pyramid, self.head = pyramid, head
        self.classes, self.loss = tuple(classes), loss or PixelLoss()

    @property
    def backbone(self) -> Any:
        """The timm model."""
        return self.pyramid.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to logits (B, K, h, w) at stride 4."""
        return self.head(self.pyramid(images), (images.shape[2], images.shape[3]))

    def losses(self, raw: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Named terms whose sum is minimised; `targets` are classes (B, H, W), int64, 255 ignored."""
        return self.loss(raw, targets)

    raw: Any = Tensor
    """The type of what `forward` gives in evaluation."""

    def decoding(self, shown: float) -> dict[str, Any]:
        """What a program needs to decode the logits."""
        return {"kind": "label_map", "outputs": {"logits": "(B, class, row, column)"}, **LABEL_MAP}

    def decode(self, raw: Tensor, frames: Sequence[Frame]) -> list[SemanticMap]:
        """The class of every pixel of each image that its frame describes."""
        found = []
        for scores, frame in zip(raw, frames, strict=True):
            labels = label_map(scores, frame.canvas, frame.inner, frame.size)
            found.append(SemanticMap(labels.cpu().numpy(), self.classes))
        return found
