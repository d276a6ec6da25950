"""Transforms are timm's, to the bit."""

import numpy as np
import timm.data
import torch
from PIL import Image

from featherbone.data.loading import seeded
from featherbone.data.transforms import Preprocessing, training_transform

P = Preprocessing(64, 48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
SAME = {"interpolation": P.interpolation, "mean": P.mean, "std": P.std}


def an_image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))


def test_the_crop_is_timms():
    theirs = timm.data.create_transform((3, 64, 48), crop_pct=P.crop, **SAME)(an_image())
    assert torch.equal(P.transform()(an_image()), theirs)


def test_training_draws_what_timm_draws():
    theirs = timm.data.create_transform(
        (3, 64, 48),
        is_training=True,
        scale=(0.3, 1.0),
        hflip=0.5,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5",
        re_prob=0.5,
        re_mode="pixel",
        **SAME,
    )
    ours = training_transform(P, "rand-m9-mstd0.5", color_jitter=0.4, erasing=0.5, min_area=0.3)
    shown = []
    for seed in range(8):
        with seeded(seed):
            shown.append(ours(an_image()))
        with seeded(seed):
            assert torch.equal(shown[-1], theirs(an_image()))
    assert not torch.equal(shown[0], shown[1])
