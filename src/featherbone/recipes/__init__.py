"""The papers' runs, by name: functions that return the settings they choose; `complete` adds the rest."""

from typing import Any

from featherbone.errors import BadOption, did_you_mean
from featherbone.recipes.coco import lightvit_mask_rcnn, lit_mask_rcnn, lit_retinanet, xformer_yolov3
from featherbone.recipes.imagenet import lightvit_imagenet, lit_imagenet, lvt_imagenet, xformer_imagenet
from featherbone.recipes.segmentation import lit_semantic_fpn, lvt_panoptic_fpn, lvt_segformer, xformer_segformer

IMAGENET = (lvt_imagenet, lightvit_imagenet, xformer_imagenet, lit_imagenet)
SEGMENTATION = (lvt_segformer, lit_semantic_fpn, xformer_segformer, lvt_panoptic_fpn)
COCO = (lit_retinanet, lit_mask_rcnn, lightvit_mask_rcnn, xformer_yolov3)
RECIPES = {recipe.__name__: recipe for recipe in (*IMAGENET, *COCO, *SEGMENTATION)}


def find_recipe(name: str) -> dict[str, Any]:
    """The settings that a recipe chooses. Raises `BadOption` with near matches."""
    if name not in RECIPES:
        raise BadOption(f"no recipe {name!r}{did_you_mean(name, RECIPES)} There is: {', '.join(RECIPES)}")
    return RECIPES[name]()
