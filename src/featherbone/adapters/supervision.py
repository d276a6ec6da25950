"""Records to and from Roboflow's supervision: https://supervision.roboflow.com."""

from typing import Any

import numpy as np

from featherbone.errors import MissingExtra
from featherbone.ops.rle import decode, encode
from featherbone.results import Classification, Detections, Instances

NAMES = "class_name"
"""Key of supervision's `data` for the names of classes."""


def to_supervision(record: Detections | Classification) -> Any:
    """`supervision.Detections` of detections or instances, `supervision.Classifications` of a classification."""
    try:
        import supervision as sv
    except ImportError:
        raise MissingExtra("supervision is not installed; pip install supervision") from None
    if isinstance(record, Classification):
        return sv.Classifications(np.array(record.labels, int), np.array(record.scores, float))
    masks = None
    if isinstance(record, Instances):
        masks = np.array([decode(mask) for mask in record.masks], bool).reshape(-1, record.height, record.width)
    return sv.Detections(
        xyxy=np.array(record.boxes, float).reshape(-1, 4),
        mask=masks,
        confidence=np.array(record.scores, float),
        class_id=np.array(record.labels, int),
        data={NAMES: np.array(record.names, str)},
    )


def from_supervision(found: Any, height: int, width: int) -> Detections:
    """The record of `supervision.Detections` on an image of that size; `Instances` if they have masks.

    Absent scores are 1, absent classes 0, and absent names the numbers of the classes.
    """
    order = range(len(found)) if found.confidence is None else np.argsort(-found.confidence, kind="stable")
    found = found[list(order)]
    labels = [0] * len(found) if found.class_id is None else found.class_id.tolist()
    scores = [1.0] * len(found) if found.confidence is None else found.confidence.tolist()
    names = found.data[NAMES].tolist() if NAMES in found.data else map(str, labels)
    boxes = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in found.xyxy.tolist())
    record = Detections(height, width, boxes, tuple(labels), tuple(names), tuple(scores))
    if found.mask is None:
        return record
    return Instances(**vars(record), masks=tuple(encode(mask) for mask in np.asarray(found.mask)))
