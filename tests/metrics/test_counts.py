"""The counts of single images: a metric computed from them with weights is that of the set with copies of images."""

import numpy as np
import pytest

from featherbone.data.objects import Objects
from featherbone.data.split import PanopticSegment, PanopticTruth
from featherbone.errors import BadRun
from featherbone.metrics.classification import ClassificationMetrics
from featherbone.metrics.detection import DetectionMetrics
from featherbone.metrics.multilabel import LabelMetrics
from featherbone.metrics.panoptic import PanopticMetrics
from featherbone.metrics.semantic import SemanticMetrics
from featherbone.ops import rle
from featherbone.results import Classification, Detections, Instances, LabelSet, PanopticMap, Segment, SemanticMap

K = 4
SIDE = 40


def classes(draw):
    labels = tuple(draw.permutation(K).tolist())
    return int(draw.integers(K)), Classification(labels, tuple("abcd"), (0.6, 0.2, 0.1, 0.1))


def labels(draw):
    """Some with equal scores."""
    order = draw.permutation(K)
    scores = np.sort(draw.integers(0, 6, K) / 6)[::-1]
    record = LabelSet(tuple(order.tolist()), tuple("abcd"[i] for i in order), tuple(scores.tolist()))
    return np.append(draw.random(K - 1) < 0.4, draw.random() < 0.1), record


def blocks(draw, low):
    return draw.integers(low, K, (4, 5)).repeat(2, 0).repeat(2, 1)


def maps(draw):
    truth = blocks(draw, 0).astype(np.uint8)
    truth[truth == K - 1] = 255 if draw.random() < 0.9 else K - 1  # a class that few images have
    return truth, SemanticMap(blocks(draw, 0).astype(np.uint8), ())


def segments(draw):
    truth = blocks(draw, 0)
    said = np.where(draw.random((4, 5)).repeat(2, 0).repeat(2, 1) < 0.8, truth, blocks(draw, 0)).astype(np.int32)
    annotated = tuple(PanopticSegment(int(label), bool(draw.random() < 0.2)) for label in draw.integers(0, K, K - 1))
    found = tuple(
        Segment(i + 1, one.label if draw.random() < 0.8 else 0, "", True, None, 0, (0, 0, 0, 0))
        for i, one in enumerate(annotated)
    )
    return PanopticTruth(truth.astype(np.int32), annotated), PanopticMap(said, found)


def boxes_of(draw, count):
    corners = draw.integers(0, SIDE - 4, (count, 2))
    return np.concatenate((corners, np.minimum(corners + draw.integers(4, 30, (count, 2)), SIDE)), 1).astype(np.float32)


def masks_of(boxes):
    masks = []
    for x1, y1, x2, y2 in boxes.astype(int).tolist():
        mask = np.zeros((SIDE, SIDE), bool)
        mask[y1:y2, x1:x2] = True
        mask[y1 : y1 + 2, x1 : x1 + 2] = False
        masks.append(rle.encode(mask))
    return tuple(masks)


def objects(draw):
    """A few objects, some of them crowds, and detections near most of them; of other images some have equal scores."""
    count = int(draw.integers(0, 5))
    boxes, labels = boxes_of(draw, count), draw.integers(0, K - 1, count)
    masks = masks_of(boxes)
    truth = Objects.of_boxes((SIDE, SIDE), boxes, labels, draw.random(count) < 0.15, rle.areas(masks), masks)
    near = np.concatenate((boxes, boxes, boxes_of(draw, 3)))
    near = (near + draw.integers(-2, 3, near.shape)).clip(0, SIDE)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    said = np.concatenate((labels, labels, draw.integers(0, K, 3)))
    scores = tuple(draw.permutation(20)[: len(said)] / 20)
    rows, said = tuple(map(tuple, near.tolist())), tuple(said.tolist())
    return truth, Instances(SIDE, SIDE, rows, said, tuple("abcd"[i] for i in said), scores, masks_of(near))


def boxes(draw):
    truth, record = objects(draw)
    return truth, Detections(
        *(vars(record)[name] for name in ("height", "width", "boxes", "labels", "names", "scores"))
    )


KINDS = {
    "top1": (lambda: ClassificationMetrics(K), classes),
    "mAP": (lambda: LabelMetrics(K), labels),
    "mIoU": (lambda: SemanticMetrics(K), maps),
    "PQ": (lambda: PanopticMetrics(K, (0, 1)), segments),
    "AP": (lambda: DetectionMetrics("abcd", masks=False), boxes),
    "mask_AP": (lambda: DetectionMetrics("abcd", masks=True), objects),
}


def measure(make, pairs):
    metrics = make()
    for index, pair in enumerate(pairs):
        metrics.update(index, *pair)
    return metrics


def same(found, stated):
    return np.testing.assert_allclose(found, np.array(stated, float), rtol=1e-12)


@pytest.mark.parametrize("metric", KINDS)
def test_weights_are_copies_of_images(metric):
    make, pair = KINDS[metric]
    draw = np.random.default_rng(len(metric))
    pairs = [pair(draw) for _ in range(12)]
    counts = measure(make, pairs).counts()
    weights = np.stack([np.ones(12), *draw.multinomial(12, np.full(12, 1 / 12), 15)]).astype(float)
    per_class = "mask_per_class" if metric == "mask_AP" else "per_class"
    for row, value, of_classes in zip(weights, counts.metric(weights), counts.per_class(weights), strict=True):
        copies = [pairs[i] for i in np.repeat(np.arange(12), row.astype(int))]
        official = measure(make, copies).compute()
        same(value, official[metric])
        same(of_classes, official[per_class])


@pytest.mark.parametrize("metric", KINDS)
def test_counts_are_in_the_order_of_the_images_and_of_all_processes(metric, tmp_path):
    make, pair = KINDS[metric]
    draw = np.random.default_rng(3)
    pairs = [pair(draw) for _ in range(5)]
    first, second = make(), make()
    for index in (3, 0, 4):
        first.update(index, *pairs[index])
    for index in (2, 1):
        second.update(index, *pairs[index])
    first.merge(second)
    whole = measure(make, pairs)
    counts = first.counts()
    counts.write(tmp_path / "images.npz", "these")
    read = type(counts).read(tmp_path / "images.npz", "these")
    for name, values in vars(whole.counts()).items():
        np.testing.assert_array_equal(vars(counts)[name], values)
        np.testing.assert_array_equal(vars(read)[name], values)


@pytest.mark.parametrize("metric", KINDS)
def test_a_set_of_no_image_has_no_metric(metric):
    counts = KINDS[metric][0]().counts()
    assert np.isnan(counts.metric(np.zeros((2, 0)))).all()


def test_only_counts_of_the_same_images_are_read(tmp_path):
    counts = measure(*KINDS["top1"][:1], [classes(np.random.default_rng(0))]).counts()
    path = tmp_path / "images.npz"
    assert type(counts).read(path, "these") is None
    counts.write(path, "these")
    assert type(counts).read(path, "others") is None
    assert type(measure(KINDS["PQ"][0], []).counts()).read(path, "these") is None
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadRun, match=r"images.npz: damaged .*; remove it"):
        type(counts).read(path, "these")
