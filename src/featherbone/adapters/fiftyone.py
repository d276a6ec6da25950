"""Records as labels of FiftyOne: https://docs.voxel51.com/user_guide/using_datasets.html#labels."""

import os
from typing import Any

import numpy as np

from featherbone.errors import MissingExtra
from featherbone.ops.rle import decode
from featherbone.results import Classification, Detections, Instances, LabelSet, PanopticMap, Record

EPSILON = 1e-6
"""Pixels that are added to the corners of masks: FiftyOne rounds shares of the image down to pixels."""


def to_label(record: Record) -> Any:
    """A label: `Classification(s)`, `Detections` (masks for instances and segments), or `Segmentation`.

    A segmentation's values are class indices + 1: FiftyOne does not show 0, which is unlabelled here.
    """
    fo = _fiftyone()
    if isinstance(record, LabelSet):
        pairs = zip(record.names, record.scores, strict=True)
        return fo.Classifications(classifications=[fo.Classification(label=n, confidence=s) for n, s in pairs])
    if isinstance(record, Classification):
        return fo.Classification(label=record.name, confidence=record.score)
    if isinstance(record, PanopticMap):
        return fo.Detections(
            detections=[
                _detection(s.name, s.score, s.box, record.ids == s.id, record.height, record.width, thing=s.thing)
                for s in record.segments
            ]
        )
    if isinstance(record, Detections):
        masks = [decode(m) for m in record.masks] if isinstance(record, Instances) else [None] * len(record)
        rows = zip(record.names, record.scores, record.boxes, masks, strict=True)
        return fo.Detections(detections=[_detection(*row, record.height, record.width) for row in rows])
    return fo.Segmentation(mask=record.labels + np.uint8(1))


def to_sample(image: str | os.PathLike[str], record: Record, field: str = "predictions") -> Any:
    """A sample of an image file with its record in a field, to add to a dataset."""
    sample = _fiftyone().Sample(filepath=os.path.abspath(image))
    sample[field] = to_label(record)
    return sample


def mask_targets(classes: tuple[str, ...]) -> dict[int, str]:
    """Names of the values of segmentations, for a dataset's `mask_targets`."""
    return dict(enumerate(classes, 1))


def _detection(name: str, score: float | None, box: Any, mask: Any, height: int, width: int, **more: Any) -> Any:
    x1, y1, x2, y2 = box
    if mask is not None:  # FiftyOne's is that of the box, whose corners must be those of pixels
        x1, y1, x2, y2 = int(x1), int(y1), min(int(np.ceil(x2)), width), min(int(np.ceil(y2)), height)
        more["mask"] = mask[y1:y2, x1:x2]
        x1, y1, x2, y2 = (side + EPSILON for side in (x1, y1, x2, y2))
    relative = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
    return _fiftyone().Detection(label=name, confidence=score, bounding_box=relative, **more)


def _fiftyone() -> Any:
    try:
        import fiftyone
    except ImportError:
        raise MissingExtra("FiftyOne is not installed; pip install fiftyone") from None
    return fiftyone
