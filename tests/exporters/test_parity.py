"""What counts as the same, on records made by hand."""

from dataclasses import replace

import numpy as np

from featherbone.exporters.parity import Bounds, alike, compare
from featherbone.ops import rle
from featherbone.results import Classification, Detections, Instances, PanopticMap, Segment, SemanticMap


def classes(*scores):
    order = np.argsort(scores)[::-1].tolist()
    return Classification(tuple(order), tuple("abc"[i] for i in order), tuple(scores[i] for i in order))


def objects(*rows):
    """Rows of a box, a label and a score."""
    boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(50, 60, boxes, labels, tuple("abc"[i] for i in labels), scores)


def masked(*sides):
    """Squares of these sides from the upper left corner."""
    masks = []
    for side in sides:
        mask = np.zeros((50, 60), bool)
        mask[:side, :side] = True
        masks.append(rle.encode(mask))
    n = len(sides)
    return Instances(50, 60, ((0.0, 0.0, 20.0, 20.0),) * n, (0,) * n, ("a",) * n, (0.9,) * n, tuple(masks))


def panoptic(ids, *labels):
    ids = np.array(ids, np.int32)
    about = [Segment(i, label, "abc"[label], True, 0.9, int((ids == i).sum()), (0, 0, 1, 1)) for i, label in labels]
    return PanopticMap(ids, tuple(about))


def test_classes():
    mine = classes(0.2, 0.7, 0.1)
    assert alike(mine, mine).score == 0 and not alike(mine, mine).unmatched
    moved = alike(mine, classes(0.3, 0.6, 0.1))
    assert abs(moved.score - 0.1) < 1e-12 and not moved.unmatched
    assert alike(mine, classes(0.6, 0.3, 0.1)).unmatched == 1
    assert alike(classes(0.4004, 0.4, 0.1996), classes(0.4, 0.4004, 0.1996)).unmatched == 0, "a tie"


def test_objects_are_matched_by_class_and_place():
    a, b = ((0.0, 0.0, 20.0, 20.0), 0, 0.9), ((30.0, 0.0, 40.0, 10.0), 1, 0.8)
    assert alike(objects(a, b), objects(b, a)).box_iou == 1.0
    found = alike(objects(a, b), objects(((0.0, 0.0, 20.0, 19.0), 0, 0.85), b))
    assert (found.objects, found.unmatched) == (2, 0)
    assert abs(found.box_iou - 0.95) < 1e-6 and abs(found.score - 0.05) < 1e-6
    assert alike(objects(a, b), objects(a, (b[0], 2, 0.8))).unmatched == 2
    assert alike(objects(), objects()).objects == 0 and alike(objects(a), objects()).unmatched == 1
    assert alike(objects(a, b), objects(a), limit=0.7995).unmatched == 0, "the file's may lie just below the limit"
    many = [((0.0, i, 5.0, i + 5.0), 2, 0.5) for i in range(0, 600, 6)]
    assert alike(objects(*many), objects(*many[1:])).unmatched == 0, "the last of a full list may have been cut off"
    assert alike(objects(a, *many), objects(*many)).unmatched == 1
    one = alike(objects(a, a), objects(a, (b[0], 0, 0.1)))
    assert (one.objects, one.unmatched) == (1, 2), "an object has one counterpart"


def test_masks_and_maps():
    assert alike(masked(10, 20), masked(10, 20)).mask_iou == 1.0
    assert alike(masked(10), masked(9)).mask_iou == 0.81 and alike(masked(0), masked(0)).mask_iou == 1.0
    labels = np.arange(100, dtype=np.uint8).reshape(10, 10)
    other = labels.copy()
    other[0, 0] = 7
    assert alike(SemanticMap(labels, ()), SemanticMap(other, ())).agreement == 0.99
    mine = panoptic([[1, 1, 2, 2]], (1, 0), (2, 0))
    assert alike(mine, panoptic([[5, 5, 3, 3]], (5, 0), (3, 0))).agreement == 1.0, "numbers do not matter"
    assert alike(mine, panoptic([[1, 1, 2, 2]], (1, 0), (2, 1))).agreement == 0.5, "classes do"
    assert alike(mine, panoptic([[1, 1, 1, 1]], (1, 0))).agreement == 0.5, "two are not one"
    assert alike(mine, panoptic([[1, 1, 2, 0]], (1, 0), (2, 0))).agreement == 0.75


def test_masks_are_compared_by_their_probabilities():
    """Not by pixels, of which those near the threshold change sides if values are rounded."""
    ramp = np.linspace(0, 1, 28, dtype=np.float32)
    mine = replace(masked(3), probabilities=np.minimum.outer(ramp, ramp[::-1])[None])

    def iou(probabilities):
        return alike(mine, replace(mine, masks=masked(2).masks, probabilities=probabilities)).mask_iou

    assert iou(mine.probabilities + 1e-5) > 0.9999
    assert iou(np.roll(mine.probabilities, 1, 1)) < Bounds().mask_iou, "masks that are shifted by one of 28 cells"
    assert iou(mine.probabilities.swapaxes(1, 2)) < 0.8
    assert iou(mine.probabilities * np.float32("nan")) == 0


def test_the_worst_image_decides():
    good, bad = classes(0.2, 0.7, 0.1), classes(0.25, 0.65, 0.1)
    parity = compare([good, good, good], [good, good, bad], 0.0)
    assert (
        not parity.holds
        and parity.median.score == 0
        and "scores differ by up to 0.05 (allowed 0.001)" in str(parity.failures)
    )
    assert compare([good], [bad], 0.0, Bounds(score=0.1)).holds
    assert not compare([good], [good], 0.01).holds and not compare([], [], 0.0).holds
    assert not compare([good], [replace(good, scores=(float("nan"),) * 3)], 0.0).holds
    assert not compare([good], [good], float("nan")).holds
    told = parity.to_json()
    assert told["failures"] and told["worst"]["score"] == parity.worst.score


def test_a_value_that_is_not_a_number_is_never_skipped():
    """Wherever it is among classes, objects and images."""
    nan, good, two = float("nan"), classes(0.2, 0.7, 0.1), masked(10, 20)
    for place in range(3):
        scores = tuple(nan if i == place else value for i, value in enumerate(good.scores))
        assert not compare([good], [replace(good, scores=scores)], 0.0).holds
        images = [replace(good, scores=scores) if i == place else good for i in range(3)]
        assert not compare([good] * 3, images, 0.0).holds
    assert not compare([objects()], [objects(((0.0, 0.0, 9.0, 9.0), 0, nan))], 0.0).holds
    for place in range(2):
        scores = tuple(nan if i == place else 0.9 for i in range(2))
        assert not compare([two], [replace(two, scores=scores)], 0.0).holds
        values = np.ones((2, 4, 4), np.float32)
        values[place] = nan
        ones = replace(two, probabilities=np.ones((2, 4, 4), np.float32))
        assert not compare([ones], [replace(two, probabilities=values)], 0.0).holds
