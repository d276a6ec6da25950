"""Small untrained models of every head whose results differ between images, for tests of exports."""

import os
from dataclasses import replace

import pytest
import torch

from exports import enliven
from featherbone.data.transforms import Preprocessing
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.run import build_task, save_weights
from featherbone.tasks.task import KINDS
from scenes import draw_portrait

CLASSES = ("cat", "dog", "<b>bird</b>")
HEADS = {
    None: "classification",
    "retinanet": "detection",
    "yolov3": "detection",
    "nms_free": "detection",
    "mask_rcnn": "instance",
    "nms_free_masks": "instance",
    "segformer": "semantic",
    "semantic_fpn": "semantic",
    "panoptic_fpn_light": "panoptic",
    "nms_free_panoptic": "panoptic",
}
SMALL = {
    "retinanet": {"dim": 24, "num_convs": 1},
    "yolov3": {"dim": 24},
    "nms_free": {"dim": 16, "num_convs": 1},
    "nms_free_masks": {"dim": 16, "num_convs": 1, "mask_dim": 8},
    "mask_rcnn": {"dim": 16, "fc_dim": 16, "proposals": 60},
    "segformer": {"dim": 16},
    "semantic_fpn": {"dim": 16},
    "panoptic_fpn_light": {"dim": 16, "fc_dim": 16, "proposals": 60, "branch_dim": 8},
    "nms_free_panoptic": {"dim": 16, "num_convs": 1, "mask_dim": 8},
}
"""Arguments of the heads."""


def pictures(count=3):
    """Drawn pictures of several sizes."""
    return [draw_portrait(0, i, (50 + 7 * i, 80), i % 6).image for i in range(count)]


def drawn(height, width):
    """One drawn picture."""
    return draw_portrait(0, height % 5, (height, width), width % 6).image


def draw_not_utf8(folder):
    """The path of a picture whose name is not UTF-8."""
    path = folder / os.fsdecode(b"caf\xe9.png")
    drawn(40, 60).save(folder / "x.png")
    try:
        return (folder / "x.png").rename(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")


def a_model(head=None, backbone="test_resnet", side=64, model_args=None, **head_args):
    """The card and the task of an untrained model whose results differ between images."""
    torch.manual_seed(0)
    task = HEADS[head]
    if head is None:
        size = Preprocessing(side, side + 32)
    else:
        size = replace(dense_preprocessing(backbone, KINDS[task].find_head(head)[1], side), width=side + 32)
    things = (0, 1) if task == "panoptic" else ()
    about = {"settings": {"seed": 0}, "data": {"path": "secret"}}
    about["model_args"] = model_args or {}
    head_args = {**SMALL.get(head, {}), **head_args}
    card = Card(task, backbone, CLASSES, size, head=head, head_args=head_args, things=things, **about)
    model = build_task(card)
    enliven(model, torch.stack([size.transform()(picture) for picture in pictures()]))
    return card, model


def a_run(folder, head=None, **head_args):
    """A run folder of such a model; its card and the task."""
    card, model = a_model(head, **head_args)
    folder.mkdir(parents=True)
    replace(card, data={}).write(folder)
    save_weights(folder, model)
    return card, model
