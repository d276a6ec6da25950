"""Texts in arrays are the texts that were given, also those that are not UTF-8, in any order, and after pickling."""

import pickle

import numpy as np
import pytest

from featherbone.data.object_table import ObjectTable
from featherbone.data.objects import Annotation
from featherbone.data.text_array import TextArray

TEXTS = ["train/a/0.jpg", "", "ü\n\0", "caf\udce9.png", "train/b/1.jpg"]


def test_texts_are_kept_and_taken_in_any_order():
    texts = TextArray(TEXTS)
    assert list(texts) == TEXTS and len(texts) == 5 and [texts[i] for i in range(-5, 5)] == TEXTS * 2
    for order in ([], [3], [4, 0, 0, 2], np.arange(5)):
        assert list(texts.take(order)) == [TEXTS[i] for i in order]
    assert list(pickle.loads(pickle.dumps(texts))) == TEXTS and list(TextArray()) == []
    with pytest.raises(IndexError):
        texts[5]


def test_objects_of_images_in_any_order():
    def rows(*labels):
        return [Annotation(label, (label, 1, 2, 3), [[label, 0.5] * 3], id=f"n{label}") for label in labels]

    errors = [Annotation(error="a: no box")]
    table = ObjectTable.of([("a", 7, (4, 5), rows(1, 2)), ("b", 8, None, errors), ("c", 9, (6, 7), rows(3))])
    assert table.owners.tolist() == [0, 0, 2] and table.has_shape.all()
    for order in ([0, 1, 2], [2, 0], [1], [2, 2]):
        taken = table.take(order)
        for place, image in enumerate(order):
            one, other = taken.objects(place, (4, 5)), table.objects(image, (4, 5))
            assert one.labels.tolist() == other.labels.tolist() == [[1, 2], [], [3]][image]
            assert (one.path, one.image_id, one.ids) == (other.path, other.image_id, other.ids)
            assert one.errors == other.errors
            assert [one.shape(i) for i in range(len(one))] == [[[label, 0.5] * 3] for label in one.labels.tolist()]
    assert table.objects(1, (4, 5)).errors == ("a: no box",)
