"""Panoptic quality: crafted maps whose answers are counted by hand, and a slow plain form of COCO's rule."""

from typing import NamedTuple

import numpy as np
import pytest

from featherbone.data.split import PanopticSegment, PanopticTruth
from featherbone.metrics.panoptic import PanopticMetrics
from featherbone.results import PanopticMap, Segment

CAT, DOG, SKY = 0, 1, 2


class Stated(NamedTuple):
    """A segment of a map by its value there."""

    id: int
    label: int
    crowd: bool = False


def pair(truth, stated, said, found):
    """Annotation and record of an image from two maps and their segments."""
    truth, ids = np.array(truth, np.int32), np.zeros(np.shape(truth), np.int32)
    for number, segment in enumerate(stated, 1):
        ids[truth == segment.id] = number
    annotation = PanopticTruth(ids, tuple(PanopticSegment(s.label, s.crowd) for s in stated))
    segments = (Segment(s.id, s.label, "", True, None, 0, (0, 0, 0, 0)) for s in found)
    return annotation, PanopticMap(np.array(said, np.int32), tuple(segments))


def measure(truth, stated, said, found, classes=3, things=(CAT, DOG)):
    metrics = PanopticMetrics(classes, things)
    own = metrics.update(0, *pair(truth, stated, said, found))
    return metrics.compute(), own


def test_what_is_said_right_has_quality_one():
    ids = [[1, 1, 2, 2], [3, 3, 3, 3]]
    segments = [Stated(1, CAT), Stated(2, DOG), Stated(3, SKY)]
    result, own = measure(ids, segments, ids, segments)
    assert own == result["PQ"] == result["SQ"] == result["RQ"] == result["PQ_things"] == result["PQ_stuff"] == 1
    assert result["per_class"] == [1, 1, 1] and result["segments"] == [1, 1, 1]


def test_a_match_a_miss_and_an_invention_are_counted():
    """One cat of 8 pixels is said with 6 of them: IoU 6 / 8. A dog is missed, and 2 pixels of it said to be a cat."""
    truth = [[1, 1, 1, 1, 1, 1, 1, 1, 2, 2]]
    said = [[1, 1, 1, 1, 1, 1, 0, 0, 2, 2]]
    result, _ = measure(truth, [Stated(1, CAT), Stated(2, DOG)], said, [Stated(1, CAT), Stated(2, CAT)])
    assert result["SQ_per_class"][CAT] == pytest.approx(6 / 8)
    assert result["RQ_per_class"][CAT] == pytest.approx(1 / 1.5)
    assert result["per_class"] == [pytest.approx(6 / 8 / 1.5), 0, None]
    assert result["PQ"] == pytest.approx(6 / 8 / 1.5 / 2) and result["PQ_stuff"] is None


def test_half_is_no_match():
    """IoU of exactly one half: 2 pixels shared, 4 covered."""
    result, _ = measure([[1, 1, 1, 0]], [Stated(1, CAT)], [[0, 1, 1, 1]], [Stated(1, CAT)])
    assert result["PQ"] == 1 * (2 / 3)  # what is said on void is left out of the union
    result, _ = measure([[1, 1, 1, 2]], [Stated(1, CAT), Stated(2, SKY)], [[0, 1, 1, 1]], [Stated(1, CAT)])
    assert result["per_class"][CAT] == 0


def test_what_is_said_of_void_is_no_mistake():
    """More than half of the second cat lies on void, of the third exactly half."""
    truth = [[1, 1, 0, 0, 0, 2, 0, 0, 2, 2]]
    said = [[1, 1, 2, 2, 2, 2, 3, 3, 3, 3]]
    stated, found = [Stated(1, CAT), Stated(2, SKY)], [Stated(1, CAT), Stated(2, CAT), Stated(3, CAT)]
    result, _ = measure(truth, stated, said, found)
    assert result["RQ_per_class"][CAT] == pytest.approx(1 / 1.5)


def test_crowds_match_nothing_and_forgive_their_class():
    """Of a crowd of cats, a cat that is said in it is no mistake, a dog is; missing the crowd is none."""
    truth = [[5, 5, 5, 5, 5, 5, 1, 1]]
    stated = [Stated(5, CAT, crowd=True), Stated(1, SKY)]
    result, _ = measure(truth, stated, [[1, 1, 2, 2, 0, 0, 3, 3]], [Stated(1, CAT), Stated(2, DOG), Stated(3, SKY)])
    assert result["per_class"] == [None, 0, 1]
    result, _ = measure(truth, stated, [[1, 1, 1, 1, 1, 1, 3, 3]], [Stated(1, CAT), Stated(3, SKY)])
    assert result["per_class"] == [None, None, 1]


def test_segments_that_are_not_there_do_not_count():
    segments = [Stated(1, CAT), Stated(9, DOG)]
    result, _ = measure([[1]], segments, [[1]], segments)
    assert result["per_class"] == [1, None, None]


def test_nothing_at_all_has_no_quality():
    result, own = measure([[0, 0]], [], [[0, 0]], [])
    assert own is None and result["PQ"] is None


def test_maps_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="bring it to the image's size"):
        measure([[0, 0]], [], [[0]], [])


def slow(truth, stated, said, found, classes):
    """COCO's rule, segment by segment: sum of IoU, true positives, false positives, false negatives (4, K)."""
    counts = np.zeros((4, classes))
    known = np.isin(truth, [s.id for s in stated])
    matched, used = set(), set()
    for t in stated:
        for s in found:
            a, b = truth == t.id, said == s.id
            shared, union = (a & b).sum(), ((a | b) & (known | a)).sum()
            if t.label == s.label and not t.crowd and union and shared / union > 0.5:
                counts[0, t.label] += shared / union
                counts[1, t.label] += 1
                matched.add(t.id)
                used.add(s.id)
    for t in stated:
        if t.id not in matched and not t.crowd and (truth == t.id).any():
            counts[3, t.label] += 1
    for s in found:
        b = said == s.id
        crowd = np.isin(truth, [t.id for t in stated if t.crowd and t.label == s.label])
        if s.id not in used and b.any() and not (b & (~known | crowd)).sum() > 0.5 * b.sum():
            counts[2, s.label] += 1
    return counts


def test_the_slow_form_counts_the_same():
    rng = np.random.default_rng(0)
    total, everything = np.zeros((4, 3)), PanopticMetrics(3, (0, 1))
    parts = [PanopticMetrics(3, (0, 1)) for _ in range(2)]
    for i in range(60):
        shape = tuple(rng.integers(3, 9, 2))
        truth, noise = rng.integers(0, 4, shape), rng.integers(0, 4, shape)
        said = np.where(rng.random(shape) < 0.8, truth, noise)
        stated = [Stated(n, int(rng.integers(3)), bool(rng.random() < 0.2)) for n in (1, 2, 3)]
        found = [Stated(s.id, s.label if rng.random() < 0.8 else int(rng.integers(3))) for s in stated]
        everything.update(i, *pair(truth, stated, said, found))
        parts[i % 2].update(i, *pair(truth, stated, said, found))
        total += slow(truth, stated, said, found, 3)
    assert total[1].sum() > 20 and total[2].sum() > 5 and total[3].sum() > 5
    np.testing.assert_allclose(everything.totals, total)
    parts[0].synchronise(lambda mine: [*mine, parts[1]])
    np.testing.assert_allclose(parts[0].totals, total)
