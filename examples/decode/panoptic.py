"""From the outputs of panoptic heads to one map of things and stuff.

`about` is featherbone.json; needs boxes.py, mask_rcnn.py, nms_free.py, prototypes.py and semantic.py.
"""

from typing import Any

import boxes as ops
import numpy as np
import prototypes
from mask_rcnn import paste
from numpy.typing import NDArray
from semantic import label_map


def decode(
    outputs: dict[str, Any],
    about: dict[str, Any],
    size: tuple[int, int],
    inner: tuple[int, int],
    score: float | None = None,
) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
    """Ids (H, W) of the segments of an image of `size`, 0 where there is none, and the segments."""
    how = about["decode"]
    if how.get("things_kind") == "prototypes":
        boxes, scores, labels, masks = prototypes.objects(outputs, how, inner, "things_")
    else:  # mask_rcnn
        boxes, scores, labels, masks = (outputs[f"things_{name}"][0] for name in ("boxes", "scores", "labels", "masks"))
    above = scores > np.float32(how["score"] if score is None else score)
    boxes, seen = ops.to_image(boxes[above], size, inner)
    kept = ops.suppress(boxes, scores[above], np.zeros_like(labels[above]), how["double"])  # whatever their classes
    ids = np.zeros(size, np.int32)
    segments: list[dict[str, Any]] = []

    def add(part: NDArray[np.bool_], label: int, thing: bool, sure: float | None) -> None:
        ids[part] = len(segments) + 1
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        row = {"id": len(segments) + 1, "label": label, "name": about["classes"][label], "thing": thing}
        segments.append({**row, "score": sure, "area": int(part.sum()), "box": box})

    for i in kept[np.isin(kept, seen)]:
        mask = paste(masks[above][i], boxes[i].tolist(), size, how["mask_threshold"])
        free = mask & (ids == 0)
        if free.any() and mask.sum() - free.sum() <= how["overlap"] * mask.sum():
            add(free, about["things"][labels[above][i]], True, float(scores[above][i]))
    best, free = label_map(outputs["stuff"][0], about, size, inner), ids == 0
    for channel, label in enumerate(how["stuff"], 1):  # channel 0 is any thing
        part = free & (best == channel)
        if part.any() and part.sum() >= how["stuff_share"] * part.size:
            add(part, label, False, None)
    return ids, segments
