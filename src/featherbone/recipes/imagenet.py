"""ImageNet-1K classification as the papers train it. None has been run here."""

from featherbone.engine.settings import Settings, complete


def lvt_imagenet() -> Settings:
    """LVT with token labelling's MixToken and auxiliary loss; every position takes its image's label.

    Command: `accelerate launch -m featherbone train --data IMAGENET --model lvt_cls --recipe lvt_imagenet`.
    Cost: 310 epochs of 1.28M images at 224 px, 0.90 GMACs each. Paper: 74.8% top-1, with 7x7 token labels of a teacher,
    which this recipe does without. Ours: not run.
    """
    return complete(
        batch_size=1024,
        epochs=300,
        cooldown_epochs=10,
        warmup_epochs=20,
        lr=1.6e-3,
        warmup_lr=1e-6,
        min_lr=1e-5,
        weight_decay=0.05,
        smoothing=0.1,
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.4,
        erasing=0.25,
        min_area=0.08,
        drop_path=0.1,
        model_args="mix_token=True",
    )
