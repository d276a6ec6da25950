import numpy as np
import pytest

from featherbone.metrics.multilabel import LabelMetrics, average_precision
from featherbone.results import LabelSet


def measure(truths, scores):
    metrics = LabelMetrics(truths.shape[1])
    own = []
    for index, (truth, row) in enumerate(zip(truths, scores, strict=True)):
        order = np.argsort(-row)
        record = LabelSet(tuple(order.tolist()), tuple(map(str, order)), tuple(row[order].tolist()))
        own.append(metrics.update(index, truth, record))
    return metrics, own


def slow(truth, scores):
    """Precision at every threshold, times the increase of recall."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = scores >= threshold
        now = (found & truth).sum() / truth.sum()
        total += (found & truth).sum() / found.sum() * (now - recall)
        recall = now
    return total


def test_average_precision_is_the_sum_over_thresholds():
    draw = np.random.default_rng(0)
    for ties in (3, 1000):
        truth, scores = draw.random(40) < 0.3, draw.integers(0, ties, 40) / ties
        found = average_precision(truth, scores, np.ones((1, 40)))
        assert found[0] == pytest.approx(slow(truth, scores))
    assert np.isnan(average_precision(np.zeros(3, bool), np.arange(3.0), np.ones((2, 3)))).all()


def test_counts_by_hand():
    truths = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], bool)
    scores = np.array([[0.9, 0.6, 0.1], [0.4, 0.7, 0.2], [0.1, 0.2, 0.3], [0.6, 0.8, 0.4]])
    metrics, own = measure(truths, scores)
    result = metrics.compute()
    assert own == [1, 0, 1, 0.5]
    assert result["per_class"] == [pytest.approx((1 + 2 / 3) / 2), pytest.approx((1 + 2 / 3) / 2), None]
    assert result["F1"] == [0.5, pytest.approx(0.8), None]
    assert result["mAP"] == pytest.approx(5 / 6) and result["macro_F1"] == pytest.approx(0.65)
    assert result["micro_F1"] == pytest.approx(2 * 3 / (4 + 5))
    assert result["images"] == 4 and result["positives"] == [2, 2, 0]


def test_sums_of_parts_and_classes_that_a_record_omits():
    draw = np.random.default_rng(1)
    truths, scores = draw.random((30, 5)) < 0.3, draw.random((30, 5))
    whole, _ = measure(truths, scores)
    first, _ = measure(truths[:12], scores[:12])
    second = LabelMetrics(5)
    for index in range(12, 30):
        order = np.argsort(-scores[index])
        second.update(index, truths[index], LabelSet(tuple(order.tolist()), ("",) * 5, tuple(scores[index][order])))
    first.synchronise(lambda mine: [*mine, second])
    assert first.compute() == whole.compute()
    metrics = LabelMetrics(2)
    assert metrics.update(0, np.array([False, False]), LabelSet((), (), ())) == 1
    assert metrics.update(1, np.array([True, False]), LabelSet((), (), ())) == 0


def test_nothing_yet():
    assert LabelMetrics(2).compute()["mAP"] is None and LabelMetrics(2).compute()["micro_F1"] == 0
