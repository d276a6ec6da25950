"""Labels that a trained model confidently contradicts: confident learning (Northcutt et al. 2021, arXiv 1911.00068).

A prediction of a class is confident if its score is at least the model's mean score of that class where it is the
label: of images with the label, of right boxes, of right pixels. Contradictions are ranked, and a limited number is
kept, so memory does not depend on the number of images.
"""

import heapq
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as coco
from numpy.typing import NDArray
from scipy import ndimage

from featherbone.data.objects import Objects
from featherbone.data.split import PanopticTruth
from featherbone.metrics.detection import xywh
from featherbone.ops.label_maps import IGNORE
from featherbone.results import Classification, Detections, LabelSet, PanopticMap, SemanticMap

MAX_KEPT = 1000
"""Contradictions of a kind that are kept."""
APART, SAME, CLOSE = 0.1, 0.5, 0.7
"""IoU below which a box is on no object, from which it is on the object, and from which only the class is doubtful."""
MAX_GRID = 256
"""Longest side of the grid on which regions of maps are found."""
MIN_REGION = 0.002
"""Minimum share of the image that a region covers."""


class Contradiction(NamedTuple):
    """A label of an image, and what the model predicts instead."""

    weight: float
    """By which they are ranked, the largest first."""
    image: int
    """Its index in the split."""
    given: str
    predicted: str
    confidence: float | None
    """Score of the prediction from 0 to 1; None where there is no prediction."""
    slot: int
    """Class whose threshold the confidence must reach; -1 for none."""
    boxes: tuple[tuple[float, ...], ...] = ()
    """Of the prediction and of the label, in pixels of the image."""
    region: NDArray[np.bool_] | None = None
    """On a grid over the image."""


class Audit(ABC):
    """Contradictions by kind, over images with the classes `classes`; `slots` are thresholds per class."""

    messages: ClassVar[Mapping[str, str]]
    """What was found, by the code of its finding."""
    thing = "image"

    def __init__(self, classes: Sequence[str], slots: int = 1) -> None:
        self.classes = tuple(classes)
        self.sums, self.counts = np.zeros((2, slots * len(classes)))
        self.kept: dict[str, list[tuple[float, int, Contradiction]]] = defaultdict(list)
        self.totals: dict[str, int] = defaultdict(int)
        self._serial = count(0, -1)

    @abstractmethod
    def update(self, index: int, truth: Any, record: Any) -> None:
        """Compare the annotation of an image with the record of an exhaustive decoder."""

    def expect(self, slot: int, score: float, times: float = 1) -> None:
        """Count a score of a class where it is the label."""
        self.sums[slot] += score * times
        self.counts[slot] += times

    def add(self, code: str, found: Contradiction) -> None:
        heap, row = self.kept[code], (found.weight, next(self._serial), found)
        self.totals[code] += 1
        (heapq.heappush if len(heap) < MAX_KEPT else heapq.heappushpop)(heap, row)

    def contradictions(self, code: str) -> list[Contradiction]:
        """Those that are confident, the highest-ranking first."""
        means = np.divide(self.sums, self.counts, out=np.full(len(self.sums), np.inf), where=self.counts > 0)
        means = np.where(np.isinf(means), self.sums.sum() / max(self.counts.sum(), 1), means)
        found = [one for *_, one in sorted(self.kept[code], key=lambda row: row[:2], reverse=True)]
        return [one for one in found if one.slot < 0 or (one.confidence or 0.0) >= means[one.slot]]


class ClassAudit(Audit):
    """One label per image; ranked by the difference of the scores of the predicted and of the given class."""

    messages: ClassVar[Mapping[str, str]] = {"contradicted-labels": "the model predicts another class"}

    def update(self, index: int, truth: int, record: Classification) -> None:
        own = record.scores[record.labels.index(truth)]
        self.expect(truth, own)
        if record.label != truth:
            names = self.classes[truth], record.name
            found = Contradiction(record.score - own, index, *names, record.score, record.label)
            self.add("contradicted-labels", found)


class LabelSetAudit(Audit):
    """Any number of labels per image; the thresholds are of each class, then of its absence."""

    messages: ClassVar[Mapping[str, str]] = {
        "missing-labels": "the model predicts a label that is not given",
        "extra-labels": "the model denies a given label",
    }

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes, slots=2)

    def update(self, index: int, truth: NDArray[np.bool_], record: LabelSet) -> None:
        for label, name, score in zip(record.labels, record.names, record.scores, strict=True):
            given, absent = bool(truth[label]), label + len(self.classes)
            self.expect(*((label, score) if given else (absent, 1 - score)))
            if given and score < SAME:
                self.add("extra-labels", Contradiction(1 - score, index, name, f"no {name}", 1 - score, absent))
            elif not given and score > SAME:
                self.add("missing-labels", Contradiction(score, index, f"no {name}", name, score, label))


class ObjectAudit(Audit):
    """Boxes; ranked by score, those of another class by the difference to that of the given one, labels by area."""

    thing = "object"
    messages: ClassVar[Mapping[str, str]] = {
        "unlabelled-objects": "predicted where nothing is labelled (red)",
        "contradicted-classes": "the model predicts another class (red: prediction, orange: label)",
        "unpredicted-objects": "labelled where nothing is predicted; a weak model misses many",
    }

    def update(self, index: int, truth: Objects, record: Detections) -> None:
        found, labels, scores = np.array(record.boxes).reshape(-1, 4), np.array(record.labels), np.array(record.scores)
        crowd = truth.crowd.astype(np.uint8).tolist()
        shape = len(found), len(truth)
        iou = np.asarray(coco.iou(xywh(found), xywh(truth.boxes), crowd)) if all(shape) else np.zeros(shape)
        same = labels[:, None] == truth.labels if all(shape) else np.zeros(shape, bool)
        own = np.where(same & (iou >= SAME), scores[:, None], 0).max(0, initial=0)  # the best of each label's class
        for label, score in zip(truth.labels[own > 0].tolist(), own[own > 0].tolist(), strict=True):
            self.expect(label, score)
        for i, (row, here) in enumerate(zip(iou, same, strict=True)):
            score, name, box = float(scores[i]), record.names[i], record.boxes[i]
            if row.max(initial=0) < APART:
                self.add("unlabelled-objects", Contradiction(score, index, "nothing", name, score, labels[i], (box,)))
                continue
            place = int(np.where(truth.crowd, 0, row).argmax())
            if row[place] >= CLOSE and not (here & (row >= SAME)).any() and score > own[place]:
                boxes, given = (box, tuple(truth.boxes[place].tolist())), self.classes[truth.labels[place]]
                weight = score - float(own[place])
                found_class = Contradiction(weight, index, given, name, score, labels[i], boxes)
                self.add("contradicted-classes", found_class)
        for place in np.flatnonzero(~truth.crowd & (iou.max(0, initial=0) < APART)).tolist():
            box, given = tuple(truth.boxes[place].tolist()), self.classes[truth.labels[place]]
            area = (box[2] - box[0]) * (box[3] - box[1]) / (truth.width * truth.height)
            self.add("unpredicted-objects", Contradiction(area, index, given, "nothing", None, -1, (box,)))


class RegionAudit(Audit):
    """Maps; a region is connected, of one given and one predicted class, and ranked by its share of the image."""

    thing = "region"
    messages: ClassVar[Mapping[str, str]] = {"contradicted-regions": "the model predicts another class (red)"}

    def update(self, index: int, truth: Any, record: SemanticMap | PanopticMap) -> None:
        given = truth.labels() if isinstance(truth, PanopticTruth) else truth
        predicted, scores = class_scores(record)
        step = -(-max(given.shape) // MAX_GRID)
        given, predicted, scores = (values[::step, ::step] for values in (given, predicted, scores))
        known = (given < len(self.classes)) & (predicted < len(self.classes))
        for label in np.unique(given[known & (given == predicted)]).tolist():
            right = scores[(given == label) & (predicted == label)]
            self.expect(label, float(right.mean()), right.size)
        pairs = np.where(known & (given != predicted), given.astype(np.int64) * IGNORE + predicted, -1)
        for pair in np.unique(pairs[pairs >= 0]).tolist():
            core = ndimage.binary_opening(pairs == pair, np.ones((3, 3)))  # borders are thin
            parts, number = ndimage.label(core)
            for part in range(1, number + 1):
                region = parts == part
                share, score = float(region.mean()), float(scores[region].mean())
                if share >= MIN_REGION:
                    names = self.classes[pair // IGNORE], self.classes[pair % IGNORE]
                    found = Contradiction(share * score, index, *names, score, pair % IGNORE, region=region)
                    self.add("contradicted-regions", found)


def class_scores(record: SemanticMap | PanopticMap) -> tuple[NDArray[Any], NDArray[Any]]:
    """The class of each pixel (H, W), `IGNORE` for none, and its score, from the record of an exhaustive decoder."""
    if isinstance(record, SemanticMap):
        assert record.scores is not None, "an exhaustive decoder states them"
        return record.labels, record.scores
    classes, scores = np.full(record.ids.max() + 1, IGNORE), np.zeros(record.ids.max() + 1)
    for segment in record.segments:
        classes[segment.id], scores[segment.id] = segment.label, segment.score
    return classes[record.ids], scores[record.ids]
