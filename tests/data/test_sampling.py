from collections import Counter
from itertools import pairwise

import pytest

from featherbone.data.sampling import spread, spread_classes


@pytest.mark.parametrize("most", [1, 2, 3, 12, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 12, 13, 23, 24, 25, 65, 127, 128, 1000])
def test_indices_span_the_whole_range(count, most):
    chosen = spread(count, most)
    assert len(chosen) == len(set(chosen)) == min(count, most)
    assert chosen == sorted(chosen) and all(0 <= i < count for i in chosen)
    if most > 1 and count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        gaps = [b - a for a, b in pairwise(chosen)]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_fewer_than_twice_as_many_do_not_leave_out_the_end():
    """A step of len // most would take the first 12 of 23."""
    assert spread(23, 12) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]
    assert spread(5, 1) == [2] and spread(5, 0) == []


@pytest.mark.parametrize("count,most", [(20, 20), (30, 20), (39, 20), (40, 20), (64, 7), (10, 5)])
def test_every_class_of_sorted_data_is_reached(count, most):
    labels = [5 * i // count for i in range(count)]
    chosen = spread_classes(labels, most)
    counts = Counter(labels[i] for i in chosen)
    assert len(chosen) == len(set(chosen)) == most and set(counts) == set(range(5))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_rare_class_is_reached_and_a_common_one_fills_up():
    labels = [0] * 50 + [1] + [2] * 3
    assert Counter(labels[i] for i in spread_classes(labels, 10)) == {0: 6, 1: 1, 2: 3}
    assert spread_classes(labels, 100) == list(range(54)) and spread_classes([], 3) == []


def test_fewer_images_than_classes_take_classes_from_all_over():
    labels = [i // 4 for i in range(40)]
    assert [labels[i] for i in spread_classes(labels, 4)] == [0, 3, 6, 9]
