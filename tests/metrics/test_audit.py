"""Contradictions of labels on cases whose answer is known."""

import numpy as np
import pytest
import torch

from featherbone.data.frames import Frame
from featherbone.data.objects import Objects
from featherbone.metrics import audit
from featherbone.metrics.audit import ClassAudit, LabelSetAudit, ObjectAudit, RegionAudit
from featherbone.results import Detections, SemanticMap
from featherbone.tasks.classification import ClassDecoder
from featherbone.tasks.multilabel import LabelDecoder
from featherbone.tasks.semantic import ClassMapDecoder

CLASSES = ("cat", "dog", "emu")


def codes(found):
    rows = {code: found.contradictions(code) for code in found.messages}
    return {code: [(one.image, one.given, one.predicted) for one in of] for code, of in rows.items()}


def audit_classes(probabilities, labels):
    found, decoder = ClassAudit(CLASSES), ClassDecoder(CLASSES).exhaustive()
    for index, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
        found.update(index, label, decoder(torch.tensor([row]).log())[0])
    return found


def test_a_class_must_reach_its_own_mean_confidence():
    """Dogs have a mean of 0.9 where they are labelled, cats of 0.4; only image 4 passes, in spite of image 5's 0.8."""
    rows = [(0.6, 0.3, 0.1), (0.1, 0.9, 0.0), (0.05, 0.95, 0.0), (0.1, 0.85, 0.05), (0.05, 0.94, 0.01), (0.1, 0.8, 0.1)]
    found = audit_classes(rows, [0, 1, 1, 1, 0, 0])
    assert codes(found) == {"contradicted-labels": [(4, "cat", "dog")]}
    [one] = found.contradictions("contradicted-labels")
    assert one.confidence == pytest.approx(0.94) and one.weight == pytest.approx(0.89)


def test_five_per_cent_of_flipped_labels_are_at_the_top(monkeypatch):
    """A model that is right in 90% of 2,000 images, with little kept: the first fifty are almost all flips."""
    generator = np.random.default_rng(0)
    truth = generator.integers(3, size=2000)
    logits = 3 * np.eye(3)[truth] + generator.normal(0, 1.2, (2000, 3))
    rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    flipped = generator.permutation(2000)[:100]
    labels = truth.copy()
    labels[flipped] = (labels[flipped] + generator.integers(1, 3, 100)) % 3
    assert 0.85 < (rows.argmax(1) == truth).mean() < 0.97
    monkeypatch.setattr(audit, "MAX_KEPT", 80)
    found = audit_classes(rows.tolist(), labels.tolist())
    assert found.totals["contradicted-labels"] > 80 >= len(found.kept["contradicted-labels"])
    first = [one.image for one in found.contradictions("contradicted-labels")][:50]
    assert len(first) == 50 and np.isin(first, flipped).mean() > 0.9
    weights = [one.weight for one in found.contradictions("contradicted-labels")]
    assert weights == sorted(weights, reverse=True)


def test_labels_that_are_missing_or_too_many():
    """Cats have a mean score of 0.7 where they are given, their absence one of 0.6."""
    found, decoder = LabelSetAudit(CLASSES[:2]), LabelDecoder(CLASSES[:2])
    scores = [(0.95, 0.1), (0.99, 0.1), (0.05, 0.1), (0.98, 0.1), (0.1, 0.1)]
    given = [(1, 0), (1, 0), (0, 0), (0, 0), (1, 0)]
    for index, (row, truth) in enumerate(zip(scores, given, strict=True)):
        found.update(index, np.array(truth, bool), decoder(torch.tensor([row]).logit())[0])
    assert codes(found) == {"missing-labels": [(3, "no cat", "cat")], "extra-labels": [(4, "cat", "no cat")]}


def test_objects():
    """Right boxes set the bar at 0.6; a dog on a cat, a box on nothing, a label without a box, and a crowd."""
    found = ObjectAudit(CLASSES)
    box, other, far, last = (0, 0, 50, 50), (60, 0, 110, 50), (0, 100, 50, 150), (100, 100, 150, 150)

    def update(index, objects, predictions):
        boxes, labels, crowd = zip(*objects, strict=True)
        truth = Objects.of_boxes((200, 200), np.array(boxes), np.array(labels), np.array(crowd, bool))
        rows, classes, scores = zip(*predictions, strict=True) if predictions else ((), (), ())
        found.update(index, truth, Detections(200, 200, rows, classes, tuple(CLASSES[i] for i in classes), scores))

    update(0, [(box, 0, 0), (other, 1, 0), (last, 1, 1)], [(box, 0, 0.6), (other, 1, 0.6), (last, 1, 0.99)])
    update(1, [(box, 0, 0), (other, 0, 0)], [(box, 1, 0.9), (other, 1, 0.5), (far, 1, 0.8), (last, 1, 0.3)])
    update(2, [(far, 2, 0)], [])
    update(3, [(box, 0, 0)], [(box, 1, 0.7), (box, 0, 0.65)])  # the given class is found as well
    assert codes(found) == {
        "unlabelled-objects": [(1, "nothing", "dog")],
        "contradicted-classes": [(1, "cat", "dog")],
        "unpredicted-objects": [(2, "emu", "nothing")],
    }
    assert found.contradictions("contradicted-classes")[0].boxes == (box, box)


def test_regions_are_wide_and_borders_are_not():
    truth = np.zeros((60, 80), np.uint8)
    truth[:, 40:] = 1
    predicted = truth.copy()
    predicted[10:30, 50:70] = 2  # a region
    predicted[:, 39] = 1  # a border
    truth[50:, :20] = 255
    predicted[50:, :20] = 2
    scores = np.full(truth.shape, 0.8, np.float32)
    scores[predicted == 2] = 0.9
    found = RegionAudit(CLASSES)
    found.update(7, truth, SemanticMap(predicted, CLASSES, scores))
    assert codes(found) == {"contradicted-regions": [(7, "dog", "emu")]}
    [one] = found.contradictions("contradicted-regions")
    assert one.confidence == pytest.approx(0.9) and one.region.sum() == 400 and one.region[20, 60]


def test_an_exhaustive_decoder_states_the_probability_of_each_pixel():
    raw = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    frame = Frame(32, 32, 32, 32, 32, 32)
    [plain], [full] = (one(raw, [frame]) for one in (ClassMapDecoder(CLASSES), ClassMapDecoder(CLASSES).exhaustive()))
    assert plain.scores is None and (plain.labels == full.labels).all() and full.scores.shape == (32, 32)
    assert 1 / 3 <= full.scores.min() and full.scores.max() <= 1
