"""From the outputs of a detector exported with NMS to objects. `about` is featherbone.json; needs boxes.py."""

from typing import Any

import boxes as ops
import numpy as np


def decode(
    outputs: dict[str, Any],
    about: dict[str, Any],
    size: tuple[int, int],
    inner: tuple[int, int],
    score: float | None = None,
) -> list[dict[str, Any]]:
    """The objects of an image of `size` (height, width), `inner` on the input, with scores above `score`."""
    boxes, scores, labels = (outputs[name][0] for name in ("boxes", "scores", "labels"))  # highest score first
    above = scores > np.float32(about["decode"]["shown"] if score is None else score)
    boxes, seen = ops.to_image(boxes[above], size, inner)
    return ops.describe(boxes[seen], scores[above][seen], labels[above][seen], about)
