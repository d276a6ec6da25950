"""TIDE's causes and costs on cases whose answer is known from the paper's definitions."""

import numpy as np
import pytest

from featherbone.data.objects import Objects
from featherbone.metrics.detection import DetectionMetrics
from featherbone.metrics.tide import CAUSES, RIGHT, find_errors
from featherbone.results import Detections

CLASSES = ("cat", "dog")
BOX, FAR = (0, 0, 100, 100), (150, 150, 200, 200)


def moved(by):
    """The box shifted to the right; its IoU with `BOX` is (100 - by) / (100 + by)."""
    return (by, 0, 100 + by, 100)


def measure(*images):
    """Metrics of images, each of objects (box, label, crowd) and detections (box, label, score)."""
    metrics = DetectionMetrics(CLASSES, masks=False)
    for index, (objects, found) in enumerate(images):
        boxes = np.array([box for box, *_ in objects], float).reshape(-1, 4)
        labels = np.array([label for _, label, *_ in objects], np.int64)
        crowd = np.array([len(one) > 2 for one in objects], bool)
        truth = Objects.of_boxes((300, 300), boxes, labels, crowd)
        rows, found_labels, scores = zip(*found, strict=True) if found else ((), (), ())
        names = tuple(CLASSES[i] for i in found_labels)
        metrics.update(index, truth, Detections(300, 300, rows, found_labels, names, scores))
    return metrics


@pytest.mark.parametrize(
    ("detection", "cause"),
    [
        ((BOX, 1, 0.9), "classification"),
        ((moved(60), 0, 0.9), "localisation"),  # IoU 0.25
        ((moved(60), 1, 0.9), "both"),
        ((moved(10), 0, 0.5), "duplicate"),
        (((95, 95, 195, 195), 0, 0.9), "background"),  # IoU 0.001
        ((FAR, 0, 0.9), "background"),
    ],
)
def test_a_false_detection_has_one_cause(detection, cause):
    """Beside a right one of the same object; what fixes it makes AP50 perfect, and nothing else helps."""
    metrics = measure(([(BOX, 0)], [(BOX, 0, 0.6), detection]), ([(BOX, 1)], [(BOX, 1, 0.99)]))
    values = metrics.compute()
    errors = values["errors"]
    assert {name: one["count"] for name, one in errors.items()} == {name: int(name == cause) for name in CAUSES}
    assert errors[cause]["dAP50"] == pytest.approx(1 - values["AP50"], abs=1e-6)
    assert all(one["dAP50"] == 0 for name, one in errors.items() if name != cause)


def test_missed_objects_are_those_that_no_other_fix_finds():
    """Of four cats one is found, one has the class of a dog, one a loose box, one nothing."""
    found = [(BOX, 0, 0.9)], [(BOX, 1, 0.8)], [(moved(60), 0, 0.7)], []
    metrics = measure(*(([(BOX, 0)], one) for one in found))
    values = metrics.compute()
    counts = {name: one["count"] for name, one in values["errors"].items()}
    assert counts == {**dict.fromkeys(CAUSES, 0), "classification": 1, "localisation": 1, "missed": 1}
    at = lambda recall: (int(recall * 100) + 1) / 101  # noqa: E731  # AP of perfect precision up to a recall
    assert values["AP50"] == pytest.approx(at(0.25))
    assert values["errors"]["classification"]["dAP50"] == pytest.approx(at(0.5) - at(0.25))
    assert values["errors"]["localisation"]["dAP50"] == pytest.approx(at(0.5) - at(0.25))
    assert values["errors"]["missed"]["dAP50"] == pytest.approx(at(1 / 3) - at(0.25))


def test_only_the_best_of_several_fixed_detections_remains():
    """Two dogs on one cat: the fix makes one of them the cat and removes the other."""
    values = measure(([(BOX, 0)], [(BOX, 1, 0.8), (moved(5), 1, 0.9)])).compute()
    assert values["AP50"] == 0 and values["errors"]["classification"] == {"count": 2, "dAP50": 1.0}


def test_crowds_are_no_errors_and_nothing_is_no_error():
    values = measure(([(BOX, 0, True), (FAR, 0)], [(moved(20), 0, 0.9), (FAR, 0, 0.8)])).compute()
    assert all(one == {"count": 0, "dAP50": 0.0} for one in values["errors"].values())
    assert all(one == {"count": 0, "dAP50": 0.0} for one in measure(([], [])).compute()["errors"].values())
    assert measure(([], [(BOX, 0, 0.5)])).compute()["errors"]["background"] == {"count": 1, "dAP50": 0.0}


def test_every_false_detection_of_drawn_images_has_a_cause():
    generator = np.random.default_rng(0)

    def draw(count):
        corners = generator.integers(0, 200, (count, 2))
        rows = np.concatenate((corners, corners + generator.integers(20, 90, (count, 2))), 1)
        return [tuple(map(float, row)) for row in rows]

    images = []
    for _ in range(20):
        objects = [(box, int(generator.integers(2))) for box in draw(4)]
        near = [(tuple(np.add(box, generator.normal(0, 8, 4))), label, generator.random()) for box, label in objects]
        images.append((objects, [*near, *((box, int(generator.integers(2)), generator.random()) for box in draw(3))]))
    whole = measure(*images)
    errors = whole.compute()["errors"]
    causes = np.concatenate([one.causes for one in whole.errors.values()])
    assert sum(one["count"] for name, one in errors.items() if name != "missed") == (causes != RIGHT).sum()
    costs = [one["dAP50"] for one in errors.values()]
    assert min(costs) > -1e-9 and sum(cost > 0.01 for cost in costs) > 3


def test_a_match_is_the_free_object_with_the_highest_iou():
    overlaps = np.array([[0.6, 0.7], [0.65, 0.9]])
    found = find_errors(np.array([0.9, 0.8]), np.zeros(2, int), np.zeros(2, int), np.zeros(2, bool), overlaps)
    assert found.causes.tolist() == [RIGHT, RIGHT] and found.targets.tolist() == [1, 0] and found.found.all()
