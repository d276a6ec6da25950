"""Semantic segmentation: from logits to the class of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from featherbone.data.frames import Frame
from featherbone.ops.label_maps import LABEL_MAP, label_map
from featherbone.results import SemanticMap


@dataclass(frozen=True)
class ClassMapDecoder:
    """The class of every pixel, from logits at stride 4."""

    classes: tuple[str, ...]
    kind: ClassVar[str] = "semantic"
    raw: ClassVar[Any] = Tensor

    def __call__(self, raw: Tensor, frames: Sequence[Frame], *, score: float | None = None) -> list[SemanticMap]:
        """The map of each image that its frame describes, from logits (B, K, h, w); `score` has no effect."""
        found = []
        for logits, frame in zip(raw, frames, strict=True):
            labels = label_map(logits, frame.canvas, frame.inner, frame.size)
            found.append(SemanticMap(labels.cpu().numpy(), self.classes))
        return found

    def exhaustive(self) -> "ClassMapDecoder":
        """The decoder itself: its records hold every pixel."""
        return self

    def describe(self, shown: float) -> dict[str, Any]:
        """What a program needs to decode the logits."""
        return {"kind": "label_map", "outputs": {"logits": "(B, class, row, column)"}, **LABEL_MAP}
