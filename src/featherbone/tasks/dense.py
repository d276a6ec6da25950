"""The heads by task and name, and a whole dense model by the names of its parts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from timm.models import get_pretrained_cfg

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption, did_you_mean
from featherbone.heads.mask_rcnn import MaskRCNN
from featherbone.heads.panoptic_fpn import LightPanopticFPN, PanopticFPN
from featherbone.heads.retinanet import RetinaNet
from featherbone.heads.segformer import SegFormer
from featherbone.heads.semantic_fpn import SemanticFPN
from featherbone.heads.yolov3 import YOLOv3
from featherbone.tasks.backbone import build_backbone, preprocessing_of, require_architecture
from featherbone.tasks.detection import Detector
from featherbone.tasks.panoptic import PanopticSegmenter
from featherbone.tasks.pyramid import Pyramid
from featherbone.tasks.semantic import Segmenter

HEADS: dict[str, dict[str, Any]] = {
    "detection": {"retinanet": RetinaNet, "yolov3": YOLOv3},
    "instance": {"mask_rcnn": MaskRCNN},
    "semantic": {"segformer": SegFormer, "semantic_fpn": SemanticFPN},
    "panoptic": {"panoptic_fpn_light": LightPanopticFPN, "panoptic_fpn": PanopticFPN},
}
"""Heads by task and name; a task's first is its default."""


def find_head(task: str, name: str | None) -> tuple[str, Any]:
    """Name and class of a head of the task, by default its first. Raises `BadOption`."""
    heads = HEADS[task]
    name = name or next(iter(heads))
    if name not in heads:
        raise BadOption(f"no head {name!r} for {task}{did_you_mean(name, heads)}; there is {', '.join(heads)}")
    return name, heads[name]


def dense_preprocessing(backbone: str, head: Any, image_size: int | tuple[int, int] | None) -> Preprocessing:
    """The backbone's normalisation on a canvas of `image_size`, by default the head's, the whole image on it."""
    own = preprocessing_of(backbone, image_size or head.image_size)
    return replace(own, crop=1.0, interpolation="bilinear", rule="fit")


def build_dense(
    backbone: str,
    task: str,
    head: str | None,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    head_args: dict[str, Any] | None = None,
    model_args: dict[str, Any] | None = None,
    things: Sequence[int] = (),
    pretrained: bool = False,
    checkpoint: str | None = None,
) -> Any:
    """A `Detector`, `Segmenter` or `PanopticSegmenter` on the timm model `backbone`, for inputs of `preprocessing`.

    `things` are the classes that are counted, for panoptic segmentation.
    """
    name, kind = find_head(task, head)
    arguments = dict(model_args or {})
    require_architecture(arguments, "model_args")
    require_architecture(head_args or {}, "head_args")
    cfg = get_pretrained_cfg(backbone)
    if cfg is not None and cfg.fixed_input_size:
        arguments.setdefault("img_size", (preprocessing.height, preprocessing.width))
    pyramid = Pyramid(build_backbone(backbone, pretrained, checkpoint, **arguments))
    counts = (len(things), len(classes) - len(things)) if task == "panoptic" else (len(classes),)
    try:
        built = kind(pyramid.levels, *counts, **(head_args or {}))
    except (TypeError, ValueError) as error:
        raise BadOption(f"{name} on {backbone} does not take these arguments: {error}") from None
    if task == "panoptic":
        return PanopticSegmenter(pyramid, built, classes, things)
    return (Segmenter if task == "semantic" else Detector)(pyramid, built, classes)
