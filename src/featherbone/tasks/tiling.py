"""Objects of a large image from overlapping tiles and the whole image, merged without duplicates."""

from typing import Any

import numpy as np
import torch

from featherbone.data.bands import AnyImage
from featherbone.data.transforms import Preprocessing
from featherbone.ops import rle
from featherbone.ops.tiles import cut_windows, merge_tiles
from featherbone.results import Box, Detections, Instances, Rle
from featherbone.tasks.task import infer

MAX_OBJECTS = 1000
"""Maximum number of objects of one image: more than without tiles."""


@torch.inference_mode()
def decode_tiled(
    task: Any,
    preprocessing: Preprocessing,
    image: AnyImage,
    size: int,
    overlap: float,
    device: torch.device,
    score: float | None = None,
    batch_size: int = 8,
) -> Detections:
    """The record of an image, from tiles of `size` pixels a side that overlap by a share, and the whole image."""
    width, height = image.size
    whole = (0, 0, width, height)
    tiles = [whole, *(tile for tile in cut_windows(height, width, (size, size), overlap) if tile != whole)]
    transform, records = preprocessing.transform(), list[Any]()
    for at in range(0, len(tiles), batch_size):
        crops = [image.crop(tile) for tile in tiles[at : at + batch_size]]
        inputs = [transform(crop) for crop in crops]
        frames = [preprocessing.frame(crop.height, crop.width) for crop in crops]
        records += infer(task, inputs, frames, device, score)
    return merge_records(records, tiles, height, width)


def merge_records(
    records: list[Detections], tiles: list[tuple[int, int, int, int]], height: int, width: int
) -> Detections:
    """One record of an image of `height` x `width` from those of its tiles, without duplicates, by descending score."""
    places = [(tile, i) for tile, record in enumerate(records) for i in range(len(record))]
    source = np.array([tile for tile, _ in places], np.int64)
    corners = np.array(tiles, np.float64)[source][:, [0, 1, 0, 1]]
    boxes = np.array([box for record in records for box in record.boxes], np.float64).reshape(-1, 4) + corners
    labels = np.array([label for record in records for label in record.labels], np.int64)
    scores = np.array([score for record in records for score in record.scores], np.float64)
    kept = merge_tiles(boxes, scores, labels, source, tiles, height, width)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MAX_OBJECTS]
    rows: list[Box] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes[kept].tolist()]
    chosen = [places[k] for k in kept]
    found = Detections(
        height=height,
        width=width,
        boxes=tuple(rows),
        labels=tuple(labels[kept].tolist()),
        names=tuple(records[tile].names[i] for tile, i in chosen),
        scores=tuple(scores[kept].tolist()),
    )
    if not isinstance(records[0], Instances):
        return found
    masks: list[Rle] = []
    for tile, i in chosen:
        record, (x1, y1, x2, y2) = records[tile], tiles[tile]
        assert isinstance(record, Instances), "records of one image are of one type"
        full = np.zeros((height, width), bool)
        full[y1:y2, x1:x2] = rle.decode(record.masks[i])
        masks.append(rle.encode(full))
    return Instances(**vars(found), masks=tuple(masks))
