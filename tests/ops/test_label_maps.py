"""From scores to maps of classes, and from masks and stuff to one map of segments."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from featherbone.ops import label_maps, rle
from featherbone.ops.label_maps import fuse, label_map


def plain(scores, canvas, inner, size):
    """All classes at once, by two resizings."""
    seen = F.interpolate(scores[None], size=canvas, mode="bilinear")[..., : inner[0], : inner[1]]
    return F.interpolate(seen, size=size, mode="bilinear")[0].argmax(0)


@pytest.mark.parametrize("values", [2**26, 1, 500])
def test_labels_are_the_best_scores_however_many_classes_fit(monkeypatch, values):
    monkeypatch.setattr(label_maps, "VALUES", values)
    scores = torch.randn(7, 9, 13, generator=torch.Generator().manual_seed(0))
    canvas, inner, size = (36, 52), (31, 52), (61, 103)
    labels = label_map(scores, canvas, inner, size)
    assert labels.dtype == torch.uint8 and labels.shape == size
    assert (labels == plain(scores, canvas, inner, size)).all()


def masks_of(*drawn):
    return [rle.encode(np.array(mask, bool)) for mask in drawn]


def test_the_surest_lies_on_top():
    fused = fuse(masks_of([[1, 1, 1, 0]], [[0, 0, 1, 1]]), np.zeros((1, 4), int), 1, minimum=1)
    assert fused.ids.tolist() == [[1, 1, 1, 2]] and fused.things == [0, 1]


def test_what_is_mostly_covered_is_dropped():
    """Of the second mask two thirds are taken, of the third one half: that is allowed."""
    fused = fuse(masks_of([[1, 1, 1, 0, 0]], [[0, 1, 1, 1, 0]], [[0, 0, 1, 1, 0]]), np.zeros((1, 5), int), 1, minimum=1)
    assert fused.things == [0, 2] and fused.ids.tolist() == [[1, 1, 1, 2, 0]]


def test_stuff_fills_what_is_free_unless_it_is_little():
    stuff = np.array([[0, 1, 1, 2, 3, 3]])
    fused = fuse(masks_of([[1, 1, 0, 0, 0, 0]]), stuff, 3, minimum=2)
    assert fused.ids.tolist() == [[1, 1, 0, 0, 2, 2]] and fused.stuff == [2]
    fused = fuse(masks_of([[1, 1, 0, 0, 0, 0]]), stuff, 3, minimum=0)
    assert fused.ids.tolist() == [[1, 1, 2, 3, 4, 4]] and fused.stuff == [0, 1, 2]


def test_an_empty_mask_and_no_mask_are_nothing():
    fused = fuse(masks_of([[0, 0]]), np.zeros((1, 2), int), 2, minimum=0)
    assert fused.ids.tolist() == [[0, 0]] and not fused.things and not fused.stuff
    assert not fuse([], np.zeros((1, 2), int), 0, minimum=0).ids.any()


def test_laws_of_fusion():
    """Segments are as listed, things lie within their masks, and stuff is what the branch said."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        masks = rng.random((4, 6, 7)) < 0.4
        stuff = rng.integers(0, 4, (6, 7))
        fused = fuse(masks_of(*masks), stuff, 3, minimum=3)
        assert set(np.unique(fused.ids)) - {0} == set(range(1, 1 + len(fused.things) + len(fused.stuff)))
        for number, thing in enumerate(fused.things, 1):
            own = fused.ids == number
            assert (masks[thing] | ~own).all() and 2 * own.sum() >= masks[thing].sum()
        for number, kind in enumerate(fused.stuff, 1 + len(fused.things)):
            own = fused.ids == number
            assert (stuff[own] == 1 + kind).all() and own.sum() >= 3
