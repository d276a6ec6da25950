"""The score above which a model's results count, chosen for a precision, a recall or the highest F1."""

import re
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from featherbone.errors import BadOption
from featherbone.metrics.counts import Floats, divide

GRAMMAR = "write precision=0.9, recall=0.8 or f1"


class Answers(NamedTuple):
    """What a model predicted on a set of images: objects, matched at IoU 0.5, or one class for each image."""

    scores: Floats
    """(N,), from 0 to 1."""
    right: NDArray[np.bool_]
    """(N,)."""
    total: int
    """Objects or images: a perfect model gives as many right answers."""


class OperatingPoint(TypedDict):
    """A threshold of the score, and the metrics above it on the images on which it was chosen."""

    target: str
    score: float
    precision: float
    """Share of the answers above the threshold that are right."""
    recall: float
    """Right answers above the threshold, as a share of `total`."""
    f1: float
    images: int


def parse_target(text: str) -> tuple[str, float]:
    """The metric of an operating point and its minimum; 0 for f1. Raises `BadOption`."""
    found = re.fullmatch(r"(precision|recall)=(0?\.\d+|[01](?:\.0*)?)|(f1)", text.strip())
    if found is None or (found[2] is not None and not float(found[2])):
        raise BadOption(f"operating-point {text!r}: {GRAMMAR}, with numbers above 0 and up to 1")
    return found[1] or found[3], float(found[2] or 0)


def choose_point(answers: Answers, target: str, images: int) -> OperatingPoint:
    """The threshold with the highest recall of at least a precision, the highest precision of at least a recall, or F1.

    It is midway between two scores that occur. Raises `BadOption`, with the best possible value, where no threshold
    reaches the `target`, and where no answer is right.
    """
    metric, minimum = parse_target(target)
    order = np.argsort(-answers.scores, kind="stable")
    scores, hits = np.append(answers.scores[order], 0.0), answers.right[order].cumsum()
    last = np.flatnonzero(scores[:-1] > scores[1:])  # no threshold separates equal scores
    scores, hits, count = (scores[last] + scores[last + 1]) / 2, hits[last], last + 1.0
    if not hits.any():
        raise BadOption(f"operating-point {target}: nothing that the model predicts on {images} images is right")
    rates = {
        "precision": hits / count,
        "recall": divide(hits, np.array(answers.total)),
        "f1": 2 * hits / (count + answers.total),
    }

    def point(place: int) -> Any:
        values = {name: float(of[place]) for name, of in rates.items()}
        return {"target": target, "score": float(scores[place]), **values, "images": images}

    other = rates["recall" if metric == "precision" else "precision"]
    reached = np.flatnonzero(rates[metric] >= minimum)
    if not len(reached):
        best = point(int(np.lexsort((other, rates[metric]))[-1]))
        raise BadOption(
            f"operating-point {target} cannot be reached on {images} images: the highest {metric} is "
            f"{best[metric]:.3f}, at score {_at(best)}; give a lower target; the threshold was not changed"
        )
    first, second = (rates["f1"], other) if metric == "f1" else (other, rates[metric])
    return point(int(reached[np.lexsort((second[reached], first[reached]))[-1]]))


def describe_point(point: OperatingPoint) -> str:
    """A sentence for people."""
    return (
        f"Score threshold for {point['target']}: {_at(point)}; chosen on these {point['images']} validation images, so "
        "it is optimistic"
    )


def _at(point: OperatingPoint) -> str:
    return (
        f"{point['score']:.3f} (precision {point['precision']:.3f}, recall {point['recall']:.3f}, F1 {point['f1']:.3f})"
    )
