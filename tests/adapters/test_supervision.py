import sys

import numpy as np
import pytest

from adapters.perfect import perfect
from featherbone.adapters.supervision import from_supervision, to_supervision
from featherbone.errors import MissingExtra
from featherbone.results import Classification, Detections, LabelSet

sv = pytest.importorskip("supervision")


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_records_survive_the_round_trip(task, tmp_path):
    """Also one without objects; what supervision does in between, it does to boxes, masks and names together."""
    _, records = perfect(tmp_path, task)
    for record in records:
        found = to_supervision(record)
        assert isinstance(found, sv.Detections) and len(found) == len(record)
        assert (found.mask is not None) == (task == "instance")
        assert from_supervision(found, record.height, record.width) == record
    record = max(records, key=len)
    chosen = from_supervision(to_supervision(record)[[1, 0]], record.height, record.width)
    assert chosen.boxes == record.boxes[:2] and chosen.scores == record.scores[:2]
    name = record.names[0]
    kept = from_supervision(to_supervision(record)[to_supervision(record).data["class_name"] == name], 90, 128)
    assert {*kept.names} == {name} and len(kept) == record.names.count(name)


def test_annotators_take_them(tmp_path):
    images, records = perfect(tmp_path, "instance", 1)
    scene = np.asarray(images.image(0))
    found = to_supervision(records[0])
    drawn = sv.LabelAnnotator().annotate(sv.MaskAnnotator().annotate(scene.copy(), found), found)
    assert drawn.shape == scene.shape and (drawn != scene).any()


@pytest.mark.parametrize("kind", [Classification, LabelSet])
def test_classes(kind):
    found = to_supervision(kind((2, 0), ("c", "a"), (0.75, 0.25)))
    assert found.class_id.tolist() == [2, 0] and found.confidence.tolist() == [0.75, 0.25]
    assert to_supervision(LabelSet((), (), ())).class_id.shape == (0,)


def test_detections_of_other_models_need_only_boxes():
    record = from_supervision(sv.Detections(np.array([[1.0, 2.0, 3.0, 4.0]])), 10, 20)
    assert record == Detections(10, 20, ((1.0, 2.0, 3.0, 4.0),), (0,), ("0",), (1.0,))
    assert not len(from_supervision(sv.Detections.empty(), 10, 20))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtra, match="pip install supervision"):
        to_supervision(Classification((0,), ("a",), (1.0,)))
