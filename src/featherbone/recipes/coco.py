"""COCO detection and instance segmentation as the papers train it. None has been run here.

The papers scale an image to 800 pixels on its shorter side and at most 1333 on the longer; our input is one canvas,
here 800 x 1344, on which portrait images are smaller.
"""

from typing import Any

CANVAS = (800, 1344)
WARMUP = 500 * 16 / 117_266
"""500 updates, in epochs of COCO's 117,266 images with objects."""


def lit_retinanet() -> dict[str, Any]:
    """RetinaNet on LIT tiny or small, 1x.

    Command: `accelerate launch -m featherbone train --data COCO --task detection --model lit_tiny
    --recipe lit_retinanet`. Cost: 12 epochs of 118k images. Paper: 41.6 AP with either. Ours: not run.
    """
    return _at_800() | {"head": "retinanet", "lr": 1e-4}


def lit_mask_rcnn() -> dict[str, Any]:
    """Mask R-CNN on LIT tiny or small, 1x.

    Command: `accelerate launch -m featherbone train --data COCO --task instance --model lit_tiny
    --recipe lit_mask_rcnn`. Cost: 12 epochs of 118k images. Paper: box AP 42.0 / 42.9, mask AP 39.1 / 39.6. Ours: not
    run.
    """
    return _at_800() | {"head": "mask_rcnn", "lr": 2e-4}


def lightvit_mask_rcnn() -> dict[str, Any]:
    """Mask R-CNN on LightViT tiny, small or base, 1x; the stem's batch norms stay as they are.

    Command: `accelerate launch -m featherbone train --data COCO --task instance --model lightvit_tiny
    --recipe lightvit_mask_rcnn`. Cost: 12 epochs of 118k images, 187 GMACs each at 1280 x 800 (small 204, base 240).
    Paper: box AP 37.8 / 40.0 / 41.7, mask AP 35.9 / 37.4 / 38.8. Ours: not run.
    """
    return _at_800() | {"head": "mask_rcnn", "lr": 2e-4, "weight_decay": 0.04, "freeze_norm": True}


def xformer_yolov3() -> dict[str, Any]:
    """The light YOLOv3 on XFormer (a reconstruction) at 320.

    Command: `accelerate launch -m featherbone train --data COCO --task detection --model xformer_small
    --recipe xformer_yolov3`. Cost: 300 epochs of 118k images at 320 px, 3.76 GMACs each. Paper: 33.2 AP. Ours: not run.
    """
    length = dict(
        batch_size=192, epochs=300, schedule="step", milestones=(240, 280), warmup_epochs=4000 * 192 / 117_266
    )
    rates = dict(optimizer="sgd", lr=3e-3, weight_decay=5e-4, clip_grad=35.0)
    images = dict(image_size=320, scale=(1.0, 1.0), photometric=0.5, expand=2.0, iou_crop=1.0)
    return {"head": "yolov3"} | length | rates | images


def _at_800() -> dict[str, Any]:
    """What the detectors on COCO at 800 pixels share."""
    length = dict(batch_size=16, epochs=12, schedule="step", milestones=(8, 11), warmup_epochs=WARMUP)
    images = dict(image_size=CANVAS, scale=(1.0, 1.0), photometric=0.0)
    return length | images | dict(weight_decay=1e-4, clip_grad=None)
