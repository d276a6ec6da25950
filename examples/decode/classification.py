"""From the logits of a classifier to its classes. `about` is featherbone.json."""

from typing import Any

import numpy as np


def decode(outputs: dict[str, Any], about: dict[str, Any]) -> list[dict[str, Any]]:
    """The most probable classes of an image, best first."""
    logits = outputs["logits"][0]  # (classes,)
    powers = np.exp(logits - logits.max())
    scores = powers / powers.sum()
    best = np.argsort(-scores, kind="stable")[: about["decode"]["top"]]
    return [{"label": int(i), "name": about["classes"][i], "score": float(scores[i])} for i in best]
