"""The result of an image: frozen records, the same from a model, an exported file and the command line."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""x1 y1 x2 y2 in pixels of the given image, x to the right and y down from its upper left corner."""


class Rle(TypedDict):
    """A mask as COCO's compressed run lengths; `ops.rle` makes and reads it."""

    size: list[int]
    """Height and width."""
    counts: str


@dataclass(frozen=True)
class Classification:
    """The most probable classes of one image, best first; `label`, `name` and `score` are those of the best."""

    labels: tuple[int, ...]
    """Class indices."""
    names: tuple[str, ...]
    """Class names."""
    scores: tuple[float, ...]
    """Probabilities from 0 to 1; over all classes they sum to 1."""
    threshold: float = 0.0
    """Score above which the best class counts; 0 where every one does."""

    form: ClassVar[dict[str, Any]] = {
        **{"task": str, "classes": [{"label": int, "name": str, "score": float}]},
        "abstained": bool,
    }
    """Types of the values of `to_json`, by name; a list holds the type of its items."""

    @property
    def label(self) -> int:
        return self.labels[0]

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def score(self) -> float:
        return self.scores[0]

    @property
    def abstained(self) -> bool:
        """Whether the best class does not count, because its score is not above the threshold."""
        return self.score <= self.threshold

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the command line prints them."""
        rows = zip(self.labels, self.names, self.scores, strict=True)
        classes = [{"label": label, "name": name, "score": score} for label, name, score in rows]
        return {
            "task": "classification",
            "classes": classes,
            **({"abstained": self.abstained} if self.threshold else {}),
        }


@dataclass(frozen=True)
class LabelSet(Classification):
    """The classes of one image whose probabilities are above a threshold, best first; there may be none.

    `scores` do not sum to 1. `label`, `name` and `score` are those of the best class, where there is one.
    """

    form: ClassVar[dict[str, Any]] = {name: Classification.form[name] for name in ("task", "classes")}

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "task": "multilabel"}

    def above(self, score: float) -> "LabelSet":
        """Only the classes with a score above `score`."""
        count = sum(value > score for value in self.scores)
        return LabelSet(self.labels[:count], self.names[:count], self.scores[:count])


@dataclass(frozen=True)
class Detections:
    """Objects of one image, by descending score."""

    height: int
    """Height of the image in pixels."""
    width: int
    boxes: tuple[Box, ...]
    labels: tuple[int, ...]
    """Class indices."""
    names: tuple[str, ...]
    """Class names."""
    scores: tuple[float, ...]
    """From 0 to 1."""

    form: ClassVar[dict[str, Any]] = {
        **{"task": str, "height": int, "width": int},
        "objects": [{"label": int, "name": str, "score": float, "box": [float]}],
    }

    def __len__(self) -> int:
        return len(self.boxes)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the command line prints them."""
        rows = zip(self.labels, self.names, self.scores, self.boxes, strict=True)
        objects = [{"label": i, "name": name, "score": score, "box": list(box)} for i, name, score, box in rows]
        return {"task": "detection", "height": self.height, "width": self.width, "objects": objects}


@dataclass(frozen=True)
class Instances(Detections):
    """Objects of one image with their masks."""

    masks: tuple[Rle, ...]
    """One for each box, of the image's height and width."""
    probabilities: NDArray[np.float32] | None = None
    """Probabilities on a grid over each box (n, rows, columns); only from a decoder that is exhaustive."""

    form: ClassVar[dict[str, Any]] = {
        **Detections.form,
        "objects": [{**Detections.form["objects"][0], "mask": {"size": [int], "counts": str}}],
    }

    def to_json(self) -> dict[str, Any]:
        """Plain values; a mask is COCO's compressed run-length form."""
        values = super().to_json()
        objects = [{**found, "mask": dict(mask)} for found, mask in zip(values["objects"], self.masks, strict=True)]
        return {**values, "task": "instance", "objects": objects}


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """The class of every pixel of one image."""

    labels: NDArray[np.uint8]
    """Class indices (H, W), of the image's size; 255 where there is no prediction."""
    classes: tuple[str, ...]
    """Class names, by index."""
    scores: NDArray[np.float32] | None = None
    """Probability of each pixel's class (H, W), from 0 to 1; only from a decoder that is exhaustive."""

    form: ClassVar[dict[str, Any]] = {
        **{"task": str, "height": int, "width": int},
        "classes": [{"label": int, "name": str, "pixels": int, "share": float}],
    }

    @property
    def height(self) -> int:
        return self.labels.shape[0]

    @property
    def width(self) -> int:
        return self.labels.shape[1]

    def counts(self) -> dict[int, int]:
        """Number of pixels of each class in the map, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=256)[: len(self.classes)]
        return {int(i): int(counts[i]) for i in np.argsort(-counts, kind="stable") if counts[i]}

    def to_json(self) -> dict[str, Any]:
        """Plain values: the classes and their shares; the map itself is stored as a picture."""
        rows = [
            {"label": i, "name": self.classes[i], "pixels": count, "share": count / self.labels.size}
            for i, count in self.counts().items()
        ]
        return {"task": "semantic", "height": self.height, "width": self.width, "classes": rows}


@dataclass(frozen=True)
class Segment:
    """A thing, or all stuff of one class, of one image."""

    id: int
    """Its value on the map, from 1."""
    label: int
    """Class index."""
    name: str
    """Class name."""
    thing: bool
    """Whether it is countable."""
    score: float | None
    """From 0 to 1; None for stuff, unless the decoder is exhaustive: then the mean probability of its pixels."""
    area: int
    """Pixels."""
    box: Box


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """The segment of every pixel of one image."""

    ids: NDArray[np.int32]
    """Segment ids (H, W), of the image's size; 0 on pixels without a segment."""
    segments: tuple[Segment, ...]

    form: ClassVar[dict[str, Any]] = {
        **{"task": str, "height": int, "width": int},
        "segments": [
            {
                **{"id": int, "label": int, "name": str, "thing": bool},
                **{"score": float, "area": int, "box": [float]},
            }
        ],
    }

    @property
    def height(self) -> int:
        return self.ids.shape[0]

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    def to_json(self) -> dict[str, Any]:
        """Plain values; the map itself is stored as a picture."""
        rows = [{**asdict(segment), "box": list(segment.box)} for segment in self.segments]
        return {"task": "panoptic", "height": self.height, "width": self.width, "segments": rows}


Record = Classification | Detections | SemanticMap | PanopticMap
"""Result of any task."""
