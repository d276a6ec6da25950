from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from featherbone.data.dataset import open_data
from featherbone.data.sampling import count_earlier, repeat_factors, repeat_images, spread, spread_classes
from featherbone.data.shard_write import write_shards
from featherbone.errors import BadImage
from scenes import WRITE, write_classification, write_panoptic


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


def test_repeat_factors_are_those_of_the_paper():
    """Eight images show class 0, two class 1, one class 2 beside both; one shows nothing."""
    images = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 8])
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 1])
    r1, r2 = (0.8 / 0.2) ** 0.5, (0.8 / 0.1) ** 0.5
    assert repeat_factors(images, labels, 10, 0.8) == pytest.approx([1] * 7 + [r2, r1, 1])
    assert repeat_factors(images, labels, 10, 0.1).tolist() == [1] * 10
    assert repeat_factors(np.zeros(0, int), np.zeros(0, int), 3, 0.5).tolist() == [1] * 3


def test_images_are_repeated_by_their_factors():
    factors = np.array([1, 1.5, 2.25, 1, 3, 1.9] * 5)
    epochs = [repeat_images(factors, 7, epoch) for epoch in range(400)]
    counts = np.array([np.bincount(one, minlength=30) for one in epochs])
    assert ((counts == np.floor(factors)) | (counts == np.ceil(factors))).all()
    assert {len(one) for one in epochs} == {int(factors.sum()), int(factors.sum()) + 1}
    assert np.abs(counts.mean(0) - factors).max() < 0.1 and len({tuple(one) for one in counts.tolist()}) > 100
    assert repeat_images(factors, 7, 3).tolist() == epochs[3].tolist() != repeat_images(factors, 8, 3).tolist()
    assert repeat_images(np.ones(9), 0, 0).tolist() == list(range(9))


def test_copies_are_numbered_in_their_order():
    assert count_earlier(np.array([4, 2, 4, 4, 0, 2])).tolist() == [0, 0, 1, 2, 0, 1]
    assert count_earlier(np.zeros(0, int)).tolist() == []


@pytest.mark.parametrize("task", [*WRITE, "classification", "shards", "things", "labels"])
def test_the_classes_of_images_are_those_of_their_annotations(task, tmp_path, monkeypatch):
    writers = {"classification": write_classification, "shards": WRITE["semantic"]}
    tasks = {"shards": "semantic", "things": "instance", "labels": "semantic"}
    writers.get(task, WRITE.get(task, write_panoptic))(tmp_path / "data", 9, 2, (64, 64))
    if task == "shards":
        write_shards(tmp_path / "data", tmp_path / "out", samples_per_shard=4)
    images = open_data(tmp_path / ("out" if task == "shards" else "data"), tasks.get(task, task)).train
    expected = set()
    for index in range(len(images)):
        truth = images.truth(index)
        found = getattr(truth, "labels", truth)
        expected |= {(index, label) for label in np.unique(found() if callable(found) else found).tolist()}
    if task not in ("semantic", "shards"):  # these read maps, and only these

        def refuse(*_):
            raise BadImage("read")

        monkeypatch.setattr(type(images), "truth", refuse)
    shown = [part.tolist() for part in images.shown_classes()]
    assert {*zip(*shown, strict=True)} == {pair for pair in expected if pair[1] < len(images.classes)}
    assert {index for index, _ in expected} >= {0, 1, 2}


def test_maps_that_cannot_be_read_show_no_class(tmp_path):
    WRITE["semantic"](tmp_path, 4, 2, (32, 32))
    next((tmp_path / "masks" / "train").iterdir()).write_bytes(b"no picture")
    images = open_data(tmp_path, "semantic").train
    assert len({*images.shown_classes()[0].tolist()}) == 3
