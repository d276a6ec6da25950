"""What a task says of an image: frozen records, the same from the model, an exported file and the command line."""

from dataclasses import dataclass
from typing import Any, TypedDict

Box = tuple[float, float, float, float]
"""x1 y1 x2 y2 in pixels of the image that was given, x to the right and y down from its upper left corner."""


class Rle(TypedDict):
    """A mask as COCO's compressed run lengths; `ops.rle` makes and reads it."""

    size: list[int]
    """Height and width."""
    counts: str


@dataclass(frozen=True)
class Classification:
    """The likeliest classes of one image, best first."""

    labels: tuple[int, ...]
    """Class indices."""
    names: tuple[str, ...]
    """Class names."""
    scores: tuple[float, ...]
    """Probabilities from 0 to 1; over all classes they sum to 1."""

    @property
    def label(self) -> int:
        """The best class."""
        return self.labels[0]

    @property
    def name(self) -> str:
        """The best class's name."""
        return self.names[0]

    @property
    def score(self) -> float:
        """The best class's probability."""
        return self.scores[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the command line prints them."""
        return {
            "task": "classification",
            "classes": [
                {"label": label, "name": name, "score": score}
                for label, name, score in zip(self.labels, self.names, self.scores, strict=True)
            ],
        }


@dataclass(frozen=True)
class Detections:
    """Objects found in one image, the surest first."""

    height: int
    """Of the image, in pixels."""
    width: int
    boxes: tuple[Box, ...]
    labels: tuple[int, ...]
    """Class indices."""
    names: tuple[str, ...]
    """Class names."""
    scores: tuple[float, ...]
    """From 0 to 1."""

    def __len__(self) -> int:
        return len(self.boxes)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the command line prints them."""
        rows = zip(self.labels, self.names, self.scores, self.boxes, strict=True)
        objects = [{"label": i, "name": name, "score": score, "box": list(box)} for i, name, score, box in rows]
        return {"task": "detection", "height": self.height, "width": self.width, "objects": objects}


@dataclass(frozen=True)
class Instances(Detections):
    """Objects found in one image, each with the pixels that it covers."""

    masks: tuple[Rle, ...]
    """One for each box, of the image's height and width."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; a mask is COCO's compressed run-length form."""
        values = super().to_json()
        objects = [{**found, "mask": dict(mask)} for found, mask in zip(values["objects"], self.masks, strict=True)]
        return {**values, "task": "instance", "objects": objects}


Record = Classification | Detections  # a task's result; grows with the tasks
