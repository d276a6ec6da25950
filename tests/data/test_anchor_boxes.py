"""Fitted anchors find planted sizes, fit better than anchors made for other data, and scale with what they fit."""

import json

import numpy as np
import pytest

from featherbone.data import anchor_boxes
from featherbone.data.anchor_boxes import fit_anchors, input_sizes, mean_best_iou
from featherbone.data.object_split import ObjectSplit
from featherbone.data.object_table import ObjectTable
from featherbone.data.objects import Annotation
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadData
from featherbone.heads.levels import Level
from featherbone.heads.yolov3 import ANCHORS, YOLOv3

PLANTED = [(12, 9), (10, 40), (60, 8), (30, 30), (25, 90), (110, 50), (90, 160), (200, 100), (280, 290)]


def draw_sizes(count=900, spread=0.05, seed=0):
    """Sizes about the planted ones, not as many about each."""
    generator = np.random.default_rng(seed)
    share = np.linspace(1, 3, len(PLANTED))
    chosen = generator.choice(len(PLANTED), count, p=share / share.sum())
    return np.array(PLANTED)[chosen] * np.exp(generator.normal(0, spread, (count, 2)))


def test_planted_sizes_are_found():
    for seed in range(2):
        found = fit_anchors(draw_sizes(seed=seed), seed=seed)
        planted = sorted(PLANTED, key=lambda pair: pair[0] * pair[1])
        np.testing.assert_allclose(found, planted, rtol=0.03)


@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
def test_fitted_anchors_beat_others(spread):
    sizes = draw_sizes(spread=spread)
    fitted = mean_best_iou(sizes, fit_anchors(sizes))
    drawn = np.random.default_rng(0).choice(sizes, 9, replace=False)
    assert fitted > max(mean_best_iou(sizes, other) for other in (ANCHORS[320], ANCHORS[416], drawn)) + 0.02
    if spread < 1:
        assert fitted > mean_best_iou(sizes, PLANTED) - 0.01
    assert mean_best_iou(sizes, fit_anchors(sizes, 12)) > fitted > mean_best_iou(sizes, fit_anchors(sizes, 6))


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_no_small_change_of_a_side_gains_anything(spread):
    sizes = draw_sizes(spread=spread)
    fitted = np.array(fit_anchors(sizes))
    reached = mean_best_iou(sizes, fitted)
    for i, side, factor in np.ndindex(9, 2, 2):
        moved = fitted.copy()
        moved[i, side] *= (0.9, 1.1)[factor]
        assert mean_best_iou(sizes, moved) < reached + 0.002


def test_mean_best_iou_equals_the_plain_one():
    sizes, anchors = draw_sizes(50, 1.0), draw_sizes(4, 1.0, seed=1)
    total = 0.0
    for w, h in sizes:
        common = [min(w, a) * min(h, b) for a, b in anchors]
        total += max(x / (w * h + a * b - x) for x, (a, b) in zip(common, anchors, strict=True))
    assert mean_best_iou(sizes, anchors) == pytest.approx(total / 50)
    assert mean_best_iou(sizes, sizes) == 1


@pytest.mark.parametrize("count", [300, 900])
def test_the_same_seed_gives_the_same_anchors_sorted_by_area(count, monkeypatch):
    """Also where only a sample of the sizes is clustered."""
    monkeypatch.setattr(anchor_boxes, "MOST", 400)
    sizes = draw_sizes(count, 1.0)
    found = fit_anchors(sizes, 5, seed=3)
    assert found == fit_anchors(sizes.copy(), 5, seed=3) != fit_anchors(sizes, 5, seed=4)
    areas = [w * h for w, h in found]
    assert areas == sorted(areas) and len(found) == 5


@pytest.mark.parametrize("scale", [(0.25, 0.25), (2.0, 8.0)])
def test_anchors_scale_with_the_sizes(scale):
    """By powers of two, so that no rounding differs."""
    sizes = draw_sizes(spread=0.5)
    expected = sorted((w * scale[0], h * scale[1]) for w, h in fit_anchors(sizes))
    assert sorted(fit_anchors(sizes * scale)) == expected


@pytest.mark.parametrize("different", [1, 4, 9])
def test_few_sizes_are_all_anchors(different):
    sizes = np.repeat(draw_sizes(different), 20, axis=0)
    anchors = fit_anchors(sizes)
    assert len(anchors) == 9 and set(anchors) == {(w, h) for w, h in sizes.tolist()}
    assert mean_best_iou(sizes, anchors) == 1


def test_sizes_that_hardly_differ_are_clustered():
    """Between some neighbours 1 - IoU is rounded to 0."""
    sizes = np.stack([np.full(10, 6.1), 0.1 + np.arange(10) * np.spacing(0.1)], 1)
    np.testing.assert_allclose(fit_anchors(sizes), [(6.1, 0.1)] * 9)


@pytest.mark.parametrize("sizes", [[], [[3, 0]], [[3, float("nan")]], [[-2, -2]]])
def test_no_sizes_are_refused(sizes):
    with pytest.raises(BadData, match="annotate some, or write the anchors"):
        fit_anchors(sizes)


def test_a_head_takes_what_a_card_keeps_of_them():
    fitted = fit_anchors(draw_sizes())
    assert YOLOv3([Level(8, 8)], 3, anchors=json.loads(json.dumps(fitted))).anchors == fitted


def marked(path, height, width, *boxes):
    return path, 1, (height, width), [Annotation(0, box, crowd=bool(crowd)) for *box, crowd in boxes]


def test_sizes_are_those_on_the_input(tmp_path):
    entries = (
        marked("a.png", 200, 400, (10, 10, 40, 20, 0), (0, 0, 300, 100, 1), (380, 0, 100, 50, 0)),
        marked("b.png", 100, 50),
        marked("c.png", 640, 320, (0, 0, 320, 640, 0)),
    )
    images = ObjectSplit(tmp_path, ObjectTable.of(entries), ("thing",), (1,))
    sizes = input_sizes(images, Preprocessing(320, 320, rule="fit"))
    np.testing.assert_allclose(sizes, [(32, 16), (16, 40), (160, 320)])
    assert input_sizes(images.take([1]), Preprocessing(320, 320, rule="fit")).shape == (0, 2)
