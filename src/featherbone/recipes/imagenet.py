"""ImageNet-1K classification as the papers train it. None has been run here."""

from typing import Any

COMMON: dict[str, Any] = dict(
    pretrained=False, batch_size=1024, epochs=300, warmup_epochs=20, smoothing=0.1, erasing=0.25, min_area=0.08
)


def lvt_imagenet() -> dict[str, Any]:
    """LVT with token labelling's MixToken and auxiliary loss; every position takes its image's label.

    Command: `accelerate launch -m featherbone train --data IMAGENET --model lvt_cls --recipe lvt_imagenet`.
    Cost: 310 epochs of 1.28M images at 224 px, 0.89 GMACs each. Paper: 74.8% top-1, with 7x7 token labels of a teacher,
    which this recipe omits. Ours: not run.
    """
    rates = dict(cooldown_epochs=10, lr=1.6e-3, warmup_lr=1e-6, min_lr=1e-5, weight_decay=0.05)
    images = dict(auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4)
    return COMMON | rates | images | dict(drop_path=0.1, model_args="mix_token=True")


def lightvit_imagenet() -> dict[str, Any]:
    """LightViT tiny and small; base takes `--drop-path 0.3`.

    Command: `accelerate launch -m featherbone train --data IMAGENET --model lightvit_tiny --recipe lightvit_imagenet`.
    Cost: 300 epochs of 1.28M images at 224 px, 0.77 GMACs each (small 1.83, base 4.11). Paper: 78.7 / 80.9 / 82.1%
    top-1. Ours: not run.
    """
    rates = dict(lr=1e-3, warmup_lr=1e-7, min_lr=1e-6, weight_decay=0.04)
    images = dict(mixup=0.2, cutmix=1.0, auto_augment="rand-m9-mstd0.5")
    return COMMON | rates | images | dict(drop_path=0.1)


def lit_imagenet() -> dict[str, Any]:
    """LIT small; medium takes `--drop-path 0.3`, base `--drop-path 0.5 --recompute`.

    LIT tiny takes `--warmup-epochs 5 --cooldown-epochs 10 --drop-path 0.1`, and in the paper repeated augmentation,
    which this recipe omits. The model states that the weights of the offsets have 0.01 of the learning rate.
    Command: `accelerate launch -m featherbone train --data IMAGENET --model lit_small --recipe lit_imagenet`.
    Cost: 300 epochs of 1.28M images at 224 px, 4.08 GMACs each (tiny 3.61, medium 8.59, base 15.03). Paper: 81.1 / 81.5
    / 83.0 / 83.4% top-1 for tiny to base. Ours: not run.
    """
    rates = dict(lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, weight_decay=0.05, clip_grad=5.0)
    images = dict(mixup=0.8, cutmix=1.0, auto_augment="rand-m9-mstd0.5-inc1")
    return COMMON | rates | images | dict(drop_path=0.2)


def xformer_imagenet() -> dict[str, Any]:
    """XFormer small, a reconstruction; the recipe is ours, the paper's is not known.

    Command: `accelerate launch -m featherbone train --data IMAGENET --model xformer_small --recipe xformer_imagenet`.
    Cost: 300 epochs of 1.28M images at 256 px, 1.75 GMACs each. Paper: 78.5% top-1. Ours: not run.
    """
    rates = dict(lr=2e-3, warmup_lr=1e-6, min_lr=2e-4, weight_decay=0.01)
    images = dict(mixup=0.2, cutmix=1.0, auto_augment="rand-m9-mstd0.5")
    return COMMON | rates | images | dict(ema=0.9998)
