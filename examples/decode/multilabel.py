"""From the logits of a classifier to any number of labels. `about` is featherbone.json."""

from typing import Any

import numpy as np


def decode(outputs: dict[str, Any], about: dict[str, Any], score: float | None = None) -> list[dict[str, Any]]:
    """The labels of an image with a score above `score`, by default `shown`; best first."""
    logits = outputs["logits"][0].astype(np.float64)  # (classes,)
    scores = 1 / (1 + np.exp(-logits))
    limit = about["decode"]["shown"] if score is None else score
    best = [i for i in np.argsort(-scores, kind="stable") if scores[i] > limit]
    return [{"label": int(i), "name": about["classes"][i], "score": float(scores[i])} for i in best]
