"""Official metrics, beside pycocotools on the same files, and on cases whose answer is known."""

import contextlib
import io
import json
import tracemalloc

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from featherbone.data.objects import Objects
from featherbone.errors import BadData
from featherbone.metrics.detection import DetectionMetrics, read_coco_results, to_coco_results
from featherbone.ops import rle
from featherbone.results import Detections, Instances

CLASSES, IDS = ("cat", "dog", "emu", "fox"), (3, 7, 8, 90)
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
HEIGHT, WIDTH = 200, 300


def fill(boxes):
    """A mask for each box, but for a corner."""
    masks = []
    for x1, y1, x2, y2 in np.asarray(boxes).round().astype(int).tolist():
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y1:y2, x1:x2] = True
        mask[y1 : (y1 + y2) // 2, x1 : (x1 + x2) // 2] = False
        masks.append(rle.encode(mask))
    return tuple(masks)


def marked(boxes, labels, crowd=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = fill(boxes)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd, bool)
    return Objects.of_boxes((HEIGHT, WIDTH), boxes, np.array(labels, np.int64), crowd, rle.areas(masks), masks)


def found(boxes, labels, scores):
    rows = tuple(map(tuple, np.asarray(boxes, float).reshape(-1, 4).tolist()))
    names = tuple(CLASSES[label] for label in labels)
    return Instances(HEIGHT, WIDTH, rows, tuple(labels), names, tuple(map(float, scores)), fill(rows))


def draw_boxes(generator, count):
    corners = generator.random((count, 2, 2)) * [WIDTH - 1, HEIGHT - 1]
    low, high = corners.min(1), corners.max(1)
    return np.concatenate((low, np.maximum(high, low + 3).clip(max=[WIDTH, HEIGHT])), 1).round(2)


@pytest.fixture(scope="module")
def pairs():
    """Thirty images with objects of three of the classes, crowds, ties, images with nothing, and a class too many."""
    generator = np.random.default_rng(0)
    made = {}
    for image_id in (*range(5, 60, 2), 1000, 1001):
        count = int(generator.integers(0, 8))
        boxes, labels = draw_boxes(generator, count), generator.integers(0, 3, count)
        truth = marked(boxes, labels, generator.random(count) < 0.15)
        moved = boxes + generator.normal(size=boxes.shape) * generator.choice([1, 6, 20], (count, 1))
        moved = moved.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        good = (moved[:, 2:] - moved[:, :2] > 2).all(1)
        spare = draw_boxes(generator, int(generator.integers(0, 130)))
        every = np.concatenate((moved[good], spare))
        classes = np.concatenate((labels[good], generator.integers(0, 4, len(spare))))
        scores = generator.random(len(every)).round(1)  # with many ties
        order = np.argsort(-scores, kind="stable")
        made[image_id] = truth, found(every[order], classes[order].tolist(), scores[order])
    return made


def measure(pairs, masks=True):
    metrics = DetectionMetrics(CLASSES, masks)
    for image_id, (truth, record) in pairs.items():
        metrics.update(image_id, truth, record)
    return metrics


def official(pairs, kind):
    """The twelve numbers, and AP of each class, of pycocotools."""
    annotations, results = [], []
    for image_id, (truth, record) in pairs.items():
        for i in range(len(truth.labels)):
            x1, y1, x2, y2 = map(float, truth.boxes[i])
            a = {"id": len(annotations) + 1, "image_id": image_id, "category_id": IDS[truth.labels[i]]}
            a |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": truth.areas[i], "iscrowd": int(truth.crowd[i])}
            annotations.append(a | {"segmentation": dict(truth.masks[i])})
        rows = to_coco_results(image_id, record, IDS)
        left_out = {"bbox": "segmentation", "segm": "bbox"}[kind]
        results += [{k: v for k, v in row.items() if k != left_out} for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in pairs],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in zip(IDS, CLASSES, strict=True)],
            "info": {},
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = [None if (of < 0).all() else of[of > -1].mean() for of in np.moveaxis(precision, 2, 0)]
    return dict(zip(NAMES, evaluation.stats, strict=True)), per_class


@pytest.mark.parametrize(("kind", "prefix"), [("bbox", ""), ("segm", "mask_")])
def test_equals_pycocotools(pairs, kind, prefix):
    ours, (theirs, per_class) = measure(pairs).compute(), official(pairs, kind)
    for name in NAMES:
        assert ours[prefix + name] == pytest.approx(theirs[name], abs=1e-9)
        assert theirs[name] > 0  # nothing is compared with nothing
    assert ours[prefix + "per_class"] == pytest.approx(per_class, abs=1e-9) and per_class[3] is None
    assert ours["images"] == 30 and ours["objects"] == sum((~truth.crowd).sum() for truth, _ in pairs.values())
    assert ours["engine"].startswith("faster-coco-eval 1.")


def test_order_and_masks_change_no_box(pairs):
    one = measure(pairs).compute()
    other = measure(dict(reversed(pairs.items())), masks=False).compute()
    assert one.pop("errors") != other.pop("errors")  # of masks, and of boxes
    assert other == {name: value for name, value in one.items() if not name.startswith("mask_")}


BOX, FAR = [10, 10, 60, 60], [100, 100, 180, 160]


def test_known_answers():
    truth = marked([BOX, FAR], [0, 0])
    perfect = measure({1: (truth, truth.record(CLASSES, masks=True))}).compute()
    assert perfect["AP"] == perfect["mask_AP"] == perfect["AR100"] == 1 and perfect["AR1"] == 0.5
    assert perfect["per_class"] == [1, None, None, None] and perfect["APs"] is None
    half = measure({1: (truth, found([BOX], [0], [0.9]))}).compute()
    assert half["AP"] == pytest.approx(51 / 101)  # recall 0 to 0.5 at precision 1
    wrong_first = measure({1: (truth, found([[200, 10, 290, 60], BOX, FAR], [0, 0, 0], [0.9, 0.8, 0.7]))}).compute()
    assert wrong_first["AP50"] == pytest.approx(2 / 3)
    twice = measure({1: (truth, found([BOX, BOX, FAR], [0, 0, 0], [0.9, 0.8, 0.7]))}).compute()
    assert twice["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    other = measure({1: (truth, found([BOX, FAR], [1, 1], [0.9, 0.8]))}).compute()
    assert other["AP"] == 0
    nothing = measure({1: (truth, found([], [], []))})
    assert nothing.compute()["AP"] == 0 and nothing.best_score() is None
    empty = measure({1: (marked([], []), found([BOX], [0], [0.9]))})
    assert empty.compute()["AP"] is None and empty.compute()["objects"] == 0 and empty.curves() == [None] * 4


def test_crowds_are_neither_missed_nor_made_up():
    truth = marked([BOX, [0, 0, 200, 200]], [0, 0], [False, True])
    record = found([BOX, [20, 100, 50, 140], [250, 20, 290, 90]], [0, 0, 0], [0.5, 0.9, 0.4])
    metrics = measure({4: (truth, record)})
    (row,) = metrics.per_image(0.0)
    assert (row.index, row.true_positives, row.false_positives, row.misses, row.mistakes) == (4, 1, 1, 0, 1)
    assert metrics.compute()["AP50"] == 1 and metrics.compute()["objects"] == 1


def slow_match(truth, record, score):
    """Hits and mistakes at IoU 0.5, pair by pair."""
    free = [i for i in range(len(truth.labels)) if not truth.crowd[i]]
    hits = wrong = 0
    for i in sorted(range(len(record)), key=lambda i: -record.scores[i]):
        if record.scores[i] < score:
            continue

        def common(j, i=i):
            low = np.maximum(record.boxes[i][:2], truth.boxes[j][:2])
            return float((np.minimum(record.boxes[i][2:], truth.boxes[j][2:]) - low).clip(0).prod())

        def area(box):
            return float(box[2] - box[0]) * float(box[3] - box[1])

        own = area(record.boxes[i])
        overlap = {
            j: common(j) / (own + area(truth.boxes[j]) - common(j)) for j in free if truth.labels[j] == record.labels[i]
        }
        best = max(overlap, key=overlap.get, default=None)
        if best is not None and overlap[best] >= 0.5:
            hits += 1
            free.remove(best)
        elif not any(
            truth.crowd[j] and truth.labels[j] == record.labels[i] and common(j) / own >= 0.5
            for j in range(len(truth.labels))
        ):
            wrong += 1
    return hits, wrong, len(free)


@pytest.mark.parametrize("score", [0.0, 0.5, 0.9, 1.1])
def test_single_images_are_judged_as_one_by_one(pairs, score):
    rows = {row.index: row for row in measure(pairs).per_image(score)}
    for image_id, (truth, record) in pairs.items():
        row = rows[image_id]
        assert (row.true_positives, row.false_positives, row.misses) == slow_match(truth, record, score)


def test_many_objects_on_an_image_take_little_memory():
    count = 20_000
    corners = np.random.default_rng(0).random((count, 2)).astype(np.float32) * 150
    boxes, labels = np.concatenate((corners, corners + 20), 1), np.zeros(count, np.int64)
    truth = Objects.of_boxes((HEIGHT, WIDTH), boxes, labels, areas=np.full(count, 400.0))
    names, scores = ("cat",) * 300, tuple(np.linspace(1, 0.1, 300).tolist())
    record = Detections(HEIGHT, WIDTH, tuple(map(tuple, boxes[:300].tolist())), (0,) * 300, names, scores)
    tracemalloc.start()
    metrics = measure({1: (truth, record)}, masks=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # all pairs of objects would take 3 GB
    assert metrics.per_image(0)[0].true_positives == 300


def test_the_best_score_gives_the_best_f1(pairs):
    metrics = measure(pairs)

    def f1(score):
        rows = metrics.per_image(score)
        hits = sum(row.true_positives for row in rows)
        return 2 * hits / max(2 * hits + sum(row.mistakes for row in rows), 1)

    best = metrics.best_score()
    assert f1(best) == max(f1(score) for score in np.linspace(0, 1, 201)) > 0
    truth = marked([BOX, FAR], [0, 1])
    crafted = found([BOX, FAR, [200, 10, 290, 60]], [0, 1, 0], [0.9, 0.6, 0.2])
    assert measure({1: (truth, crafted)}).best_score() == pytest.approx(0.4)


def test_answers_are_the_boxes_that_single_images_are_judged_by(pairs):
    metrics = measure(pairs)
    answers = metrics.answers()
    for score in (0.0, 0.3, 0.7):
        rows, above = metrics.per_image(score), answers.scores >= score
        assert (answers.right & above).sum() == sum(row.true_positives for row in rows)
        assert (~answers.right & above).sum() == sum(row.false_positives for row in rows)
        assert answers.total == sum(row.true_positives + row.misses for row in rows)


def test_curves_fall_from_one():
    truth = marked([BOX, FAR], [0, 0])
    curves = measure({1: (truth, found([BOX], [0], [0.9]))}).curves()
    assert curves[1:] == [None] * 3 and (curves[0][:51] == 1).all() and (curves[0][51:] == 0).all()


@pytest.fixture
def write(tmp_path):
    def to(rows):
        path = tmp_path / "results.json"
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return path

    return to


def test_results_come_back_as_they_went(pairs, write):
    rows = [row for image_id, (_, record) in pairs.items() for row in to_coco_results(image_id, record, IDS)]
    read = read_coco_results(write(rows), dict.fromkeys([*pairs, 9999], (HEIGHT, WIDTH)), IDS, CLASSES)
    assert read.keys() == {*pairs, 9999} and len(read[9999]) == 0
    for image_id, (_, record) in pairs.items():
        again = read[image_id]
        assert isinstance(again, Instances) and again.masks == record.masks
        assert (again.labels, again.scores, again.names) == (record.labels, record.scores, record.names)
        np.testing.assert_allclose(np.array(again.boxes), np.array(record.boxes))
    boxes = [{name: value for name, value in row.items() if name != "segmentation"} for row in rows]
    assert type(read_coco_results(write(boxes), dict.fromkeys(pairs, (9, 9)), IDS, CLASSES)[5]) is Detections
    shape = {"image_id": 1, "category_id": 3, "score": 1, "segmentation": [[10, 10, 20, 10, 20, 40, 10, 40]]}
    only = read_coco_results(write([shape]), {1: (50, 60)}, IDS, CLASSES)[1]
    assert only.boxes == ((10, 10, 20, 40),)


ROW = {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


def test_results_with_text_ids_and_none_at_all(write):
    rows = [ROW | {"image_id": "1", "category_id": 3.0, "score": "0.5", "extra": {}}]
    assert read_coco_results(write(rows), {1: (9, 9)}, IDS, CLASSES)[1].scores == (0.5,)
    (record,) = read_coco_results(write([]), {1: (9, 9)}, IDS, CLASSES).values()
    metrics = measure({1: (marked([BOX], [0]), record)}, masks=False)
    assert metrics.compute()["AP"] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("[", "not JSON"),
        ({"annotations": []}, r"the file is .*; write a list of values with names"),
        ([1], r"\[0\] is 1; write values with names"),
        ([ROW, ROW | {"image_id": 2}], r"\[1\]\.image_id is 2, which is not among the 1 images measured; 1 of 2 rows"),
        ([ROW | {"category_id": 1}], r"\[0\]\.category_id is 1, which is not among 3, 7, 8, 90; 1 of 1"),
        ([ROW | {"score": "high"}], r'\[0\]\.score is "high"; write a finite number'),
        ([ROW | {"bbox": [1, 2, 3]}], "write x, y, width and height"),
        ([ROW | {"bbox": [1, 2, 3, float("inf")]}], r"\[0\]\.bbox is .*inf\]; write x, y, width and height"),
        ([ROW, ROW | {"score": float("nan")}], r"\[1\]\.score is nan; write a finite number"),
        ([{"image_id": 1, "category_id": 3, "score": 1}], r"\[0\] has no bbox and no segmentation; write x, y"),
        ([{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}], r"\[0\] has no score; write a finite number"),
        ([ROW | {"score": "\udc00"}], r'\[0\]\.score is "\\udc00"; write a finite number'),
        ([ROW | {"image_id": True}], r"\[0\]\.image_id is true; write a whole number"),
        ([ROW | {"image_id": 1.5}], r"\[0\]\.image_id is 1\.5; write a whole number"),
        ([ROW | {"segmentation": {"size": [9, 9], "counts": [-5, 86]}}], r"\[0\]\.segmentation: run lengths that"),
        ([ROW | {"segmentation": 5}], "segmentation: neither"),
    ],
)
def test_other_files_are_refused(write, rows, message):
    with pytest.raises(BadData, match=message):
        read_coco_results(write(rows), {1: (9, 9)}, IDS, CLASSES)


def test_processes_are_joined_into_one_set(pairs):
    parts = [measure(dict(list(pairs.items())[rank::2])) for rank in range(2)]
    parts[0].synchronise(lambda mine: [*mine, parts[1]])
    assert parts[0].compute() == measure(pairs).compute()
    assert parts[0].image_scores() == measure(pairs).image_scores()
    rows = parts[0].coco_results(lambda index: 10 * index, IDS)
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
    assert {row["image_id"] for row in rows} <= {10 * index for index in pairs}
