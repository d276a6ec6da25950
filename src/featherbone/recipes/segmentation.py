"""Semantic and panoptic segmentation as the papers train it. None has been run here.

The papers scale an image by its shorter side and train on square crops; our input is one canvas that the whole image
fits in, so scales are relative to that, and `featherbone evaluate RUN --slide` evaluates at the papers' size.
"""

from typing import Any

ADE20K, CITYSCAPES, COCO = 20_210, 2_975, 118_287
"""Training images."""


def lvt_segformer() -> dict[str, Any]:
    """SegFormer's head on LVT, ADE20K at 512.

    Command: `accelerate launch -m featherbone train --data ADEChallengeData2016 --task semantic --model lvt
    --recipe lvt_segformer`, with `classes.txt` of the 150 names in the folder. Cost: 160k updates of 16 images, 10.6
    GMACs each. Paper: 39.3 mIoU. Ours: not run.
    """
    return _ade20k(160_000) | {"head": "segformer", "lr": 6e-5, "head_lr": 10.0}


def lit_semantic_fpn() -> dict[str, Any]:
    """Semantic FPN on LIT tiny or small, ADE20K at 512.

    Command: `accelerate launch -m featherbone train --data ADEChallengeData2016 --task semantic --model lit_tiny
    --recipe lit_semantic_fpn`, with `classes.txt` of the 150 names in the folder. Cost: 80k updates of 16 images, 43.7
    GMACs each (small 47.0). Paper: 41.3 / 41.7 mIoU. Ours: not run.
    """
    more = {"head": "semantic_fpn", "lr": 1e-4, "weight_decay": 1e-4, "power": 0.9, "min_lr": 1e-6}
    return _ade20k(80_000) | more


def xformer_segformer() -> dict[str, Any]:
    """SegFormer's head on XFormer (a reconstruction), Cityscapes in parts of 1024; the settings are ours.

    Command: `accelerate launch -m featherbone train --data cityscapes --task semantic --model xformer_small
    --recipe xformer_segformer`. Cost: 160k updates of 8 images, 47 GMACs each. Paper: 78.5 mIoU. Ours: not run.
    """
    length = dict(batch_size=8, epochs=round(160_000 * 8 / CITYSCAPES), warmup_epochs=1500 * 8 / CITYSCAPES)
    rates = dict(lr=6e-5, head_lr=10.0, weight_decay=0.01, min_lr=0.0)
    images = dict(image_size=1024, scale=(1.0, 4.0), photometric=0.5, class_share=0.75)
    return {"head": "segformer"} | length | rates | images


def lvt_panoptic_fpn() -> dict[str, Any]:
    """The light Panoptic FPN on LVT, COCO at 800, 1x.

    Command: `accelerate launch -m featherbone train --data COCO --task panoptic --model lvt --recipe lvt_panoptic_fpn`.
    Cost: 12 epochs of 118k images, 56.8 GMACs each at 1216 x 800. Paper: PQ 42.8, things 49.5, stuff 32.6. Ours: not
    run.
    """
    length = dict(batch_size=64, epochs=12, schedule="step", milestones=(8, 11), warmup_epochs=500 * 64 / COCO)
    images = dict(image_size=(800, 1344), scale=(1.0, 1.0), photometric=0.0)
    return {"head": "panoptic_fpn_light", "lr": 4e-4} | length | images


def _ade20k(updates: int) -> dict[str, Any]:
    """What the runs on ADE20K share."""
    length = dict(batch_size=16, epochs=round(updates * 16 / ADE20K), warmup_epochs=1500 * 16 / ADE20K)
    images = dict(image_size=512, scale=(0.67, 2.67), zero_ignored=True)
    return length | images | dict(weight_decay=0.01, min_lr=0.0)
