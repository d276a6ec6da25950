"""Annotations of drawn scenes as the records of a perfect model."""

from dataclasses import replace

from featherbone.data.formats import open_split
from featherbone.tasks.task import KINDS
from scenes import write_coco, write_masks, write_panoptic

WRITERS = {"detection": write_coco, "instance": write_coco, "semantic": write_masks, "panoptic": write_panoptic}


def perfect(folder, task, count=8, size=(90, 128)):
    """The images of a drawn set and their records; of equal objects, the first have the highest scores."""
    WRITERS[task](folder, count, 2, size)
    images = open_split(folder, task, "train").images
    records = [KINDS[task].truth_record(images.truth(index), images) for index in range(count)]
    if task in ("detection", "instance"):
        scored = [tuple(0.9 - 0.01 * i for i in range(len(record))) for record in records]
        records = [replace(record, scores=scores) for record, scores in zip(records, scored, strict=True)]
    return images, records
