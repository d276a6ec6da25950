"""Average precision and recall as COCO defines them, of boxes and masks, counted by faster-coco-eval."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco
from numpy.typing import NDArray

from featherbone.data.findings import listed
from featherbone.data.formats.coco_json import ALLOWED, CocoResult, read_typed
from featherbone.data.objects import Objects
from featherbone.errors import BadData
from featherbone.metrics.counts import Floats, ImageCounts, Ints, divide
from featherbone.metrics.metrics import Metrics
from featherbone.metrics.operating_point import Answers, choose_point
from featherbone.metrics.tide import ImageErrors, find_errors, sum_errors
from featherbone.ops import rle
from featherbone.results import Box, Detections, Instances, Rle

OVERLAP = 0.5
"""Minimum IoU of a detection and its object, where single images are judged."""
MAX_DETECTIONS = 100
"""Detections of an image and class that count."""
PAIRS = 1_000_000
"""Pairs of a detection and an object that are compared at a time."""
IOUS, RECALLS = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
"""COCO's thresholds."""
AREAS = {"": 0, "s": 1, "m": 2, "l": 3}
"""COCO's sizes by the letter at a metric's end: all, under 32 x 32 pixels of the image, under 96 x 96, larger."""


@dataclass(frozen=True)
class ImageRow:
    """The mistakes in one image, at a threshold of the score and IoU 0.5."""

    index: int
    true_positives: int
    false_positives: int
    misses: int

    @property
    def mistakes(self) -> int:
        """Missed objects and false positives."""
        return self.false_positives + self.misses


@dataclass(frozen=True)
class _Judged:
    """The detections of one image, crowds aside: whether each is right, and how many objects there are."""

    scores: Floats
    right: NDArray[np.bool_]
    objects: int


@dataclass(frozen=True)
class ObjectCounts(ImageCounts):
    """The D detections of N images, by descending score, matched as COCO does at T = 10 IoUs; the metric is AP."""

    owners: Ints
    """Row of each detection's image (D,)."""
    labels: Ints
    """(D,)."""
    right: NDArray[np.bool_]
    """Whether a detection is matched with an object (T, D)."""
    counted: NDArray[np.bool_]
    """Whether it is not matched with a crowd, and therefore right or wrong (T, D)."""
    objects: Ints
    """Objects of each class in each image (N, K)."""

    bias_rate: ClassVar[float] = 2 / 3  # measured: precision is a running maximum, which few images make too large

    def per_class(self, weights: Floats) -> Floats:
        objects = weights @ self.objects  # (B, K)
        found = [self._precision(weights, label, objects[:, label]) for label in range(objects.shape[1])]
        return np.where(objects > 0, np.stack(found, 1), np.nan)

    def _precision(self, weights: Floats, label: int, objects: Floats) -> Floats:
        """The mean precision of a class over 101 recalls and all IoUs (B,)."""
        of = np.flatnonzero(self.labels == label)
        copies = weights[:, self.owners[of]]  # (B, d)
        total = np.zeros(len(weights))
        for right, counted in zip(self.right[:, of], self.counted[:, of], strict=True):
            hits = np.flatnonzero(right)  # precision is highest at these, and recall grows at no other
            if not len(hits):
                continue
            number = copies[:, hits].cumsum(1)
            precision = np.nan_to_num(divide(number, (copies * counted).cumsum(1)[:, hits]))
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            recall = np.nan_to_num(divide(number, objects[:, None]))
            for i, (rising, falling) in enumerate(zip(recall, precision, strict=True)):
                places = rising.searchsorted(RECALLS)
                total[i] += falling[places[places < len(hits)]].sum()
        return total / (len(self.right) * len(RECALLS))


class DetectionMetrics(Metrics[Objects, Detections]):
    """Metrics over images, in any order; with `masks` also of the objects' masks."""

    def __init__(self, classes: Sequence[str], masks: bool) -> None:
        self.classes, self.masks = tuple(classes), masks
        self.category_ids = tuple(range(1, len(classes) + 1))  # in the order of the classes, as COCO's tables are
        self.images: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self.judged: dict[int, _Judged] = {}
        self.errors: dict[int, ImageErrors] = {}
        self._evals: dict[str, Any] | None = None

    def update(self, index: int, truth: Objects, record: Detections) -> None:
        """Count one image; its score is that of `image_scores`."""
        self._evals = None
        self.images.append({"id": index, "height": truth.height, "width": truth.width})
        for i, box in enumerate(xywh(truth.boxes)):
            row = {
                "id": len(self.truth) + 1,
                "image_id": index,
                "category_id": self.category_ids[truth.labels[i]],
                "bbox": box.tolist(),
                "area": float(truth.areas[i]),
                "iscrowd": int(truth.crowd[i]),
            }
            if self.masks and truth.masks is not None:
                row["segmentation"] = dict(truth.masks[i])
            self.truth.append(row)
        self.found += to_coco_results(index, record, self.category_ids)
        self.judged[index] = _judge(truth, record)
        self.errors[index] = _errors(truth, record, self.masks)

    def merge(self, other: Self) -> None:
        self._evals = None
        self.images += other.images
        self.truth += [{**row, "id": number} for number, row in enumerate(other.truth, len(self.truth) + 1)]
        self.found += other.found
        self.judged |= other.judged
        self.errors |= other.errors

    def compute(self) -> dict[str, Any]:
        """`AP`, `AP50`, `AP75`, `AR1`, `AR10`, `AR100`, by size `APs` ... `ARl`, `per_class`; of masks with `mask_`.

        From 0 to 1; None without objects. Of an image and class the 100 highest-scoring detections count. `errors` are
        those of `sum_errors`, of masks if there are.
        """
        metrics: dict[str, Any] = {}
        for kind, evaluation in self._evaluated().items():
            precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
            of = {f"AP{letter}": precision[:, :, :, area, -1] for letter, area in AREAS.items()}
            of |= {"AP50": precision[0, :, :, 0, -1], "AP75": precision[5, :, :, 0, -1]}
            of |= {f"AR{most}": recall[:, :, 0, i] for i, most in enumerate((1, 10, 100))}
            of |= {f"AR{letter}": recall[:, :, area, -1] for letter, area in AREAS.items() if letter}
            prefix = "mask_" if kind == "segm" else ""
            metrics |= {prefix + name: _mean(values) for name, values in of.items()}
            metrics[prefix + "per_class"] = [_mean(precision[:, :, k, 0, -1]) for k in range(len(self.classes))]
        labels = np.array([row["category_id"] - 1 for row in self.truth], np.int64)
        return {
            **metrics,
            "images": len(self.images),
            "objects": sum(not row["iscrowd"] for row in self.truth),
            "objects_per_class": np.bincount(labels, minlength=len(self.classes)).tolist(),
            "engine": f"faster-coco-eval {version('faster-coco-eval')}",
            "best_score": self.best_score(),
            "errors": sum_errors((self.errors[index] for index in sorted(self.errors)), len(self.classes)),
        }

    def curves(self) -> list[Floats | None]:
        """Of each class the precision at recall 0, 0.01 ... 1 and IoU 0.5 (101,); None where there is no object."""
        precision = self._evaluated()[self._headline].eval["precision"][0, :, :, 0, -1]
        return [None if (of < 0).any() else of for of in precision.T]

    def per_image(self, score: float) -> list[ImageRow]:
        """The mistakes in each image, in the order of their indices, with boxes of at least that score."""
        rows = []
        for index, judged in sorted(self.judged.items()):
            right = judged.right[judged.scores >= score]
            hits = int(right.sum())
            rows.append(ImageRow(index, hits, len(right) - hits, judged.objects - hits))
        return rows

    def image_scores(self) -> dict[int, float]:
        """F1 of each image at the best score; 1 where there is neither an object nor a detection."""
        rows = self.per_image(self.best_score() or 0.0)
        hits = {row.index: 2 * row.true_positives for row in rows}
        return {row.index: hits[row.index] / (hits[row.index] + row.mistakes) if row.mistakes else 1.0 for row in rows}

    def coco_results(self, image_id: Callable[[int], int], category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """All detections in COCO's results format, in the order of the images, with the ids of the data's files."""
        return [
            {**row, "image_id": image_id(row["image_id"]), "category_id": category_ids[row["category_id"] - 1]}
            for row in sorted(self.found, key=lambda row: row["image_id"])
        ]

    def answers(self) -> Answers:
        """The boxes, right at IoU 0.5 with an object of their class; those on crowds are left out."""
        judged = self.judged.values()
        scores = np.concatenate([np.zeros(0), *(one.scores for one in judged)])
        right = np.concatenate([np.zeros(0, bool), *(one.right for one in judged)])
        return Answers(scores, right, sum(one.objects for one in judged))

    def best_score(self) -> float | None:
        """The threshold of the score with the highest F1 of boxes at IoU 0.5; None where no box is right."""
        answers = self.answers()
        return choose_point(answers, "f1", len(self.images))["score"] if answers.right.any() else None

    def counts(self) -> ObjectCounts:
        overlaps = self._evaluated()[self._headline].ious
        rows = {image["id"]: row for row, image in enumerate(sorted(self.images, key=lambda image: image["id"]))}
        objects = np.zeros((len(rows), len(self.classes)), np.int64)
        crowds = defaultdict[tuple[int, int], list[int]](list)
        for one in self.truth:
            crowds[one["image_id"], one["category_id"]].append(one["iscrowd"])
            objects[rows[one["image_id"]], one["category_id"] - 1] += not one["iscrowd"]
        found = defaultdict[tuple[int, int], list[float]](list)
        for one in self.found:
            found[one["image_id"], one["category_id"]].append(one["score"])
        columns: list[tuple[NDArray[Any], ...]] = []
        for (image_id, category_id), given in sorted(found.items()):
            scores = -np.sort(-np.array(given), kind="stable")[:MAX_DETECTIONS]
            crowd = np.array(crowds[image_id, category_id], bool)
            right, counted = _match(np.array(overlaps[image_id, category_id]).reshape(len(scores), len(crowd)), crowd)
            here = np.full(len(scores), rows[image_id]), np.full(len(scores), category_id - 1)
            columns.append((scores, *here, right, counted))
        empty = (np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), *2 * (np.zeros((len(IOUS), 0), bool),))
        scores, owners, labels, right, counted = (np.concatenate(c, -1) for c in zip(empty, *columns, strict=True))
        order = np.argsort(-scores, kind="stable")
        own = self.image_scores()
        return ObjectCounts(
            indices=np.array(list(rows), np.int64),
            scores=np.array([own[index] for index in rows]),
            owners=owners[order],
            labels=labels[order],
            right=right[:, order],
            counted=counted[:, order],
            objects=objects,
        )

    @property
    def _headline(self) -> str:
        return "segm" if self.masks else "bbox"

    def _evaluated(self) -> dict[str, Any]:
        """COCO's evaluation of boxes and, if there are, masks."""
        if self._evals is None:
            self._evals = {kind: self._evaluate(kind) for kind in ("bbox", "segm")[: 1 + self.masks]}
        return self._evals

    def _evaluate(self, kind: str) -> Any:
        categories = [{"id": i, "name": name} for i, name in zip(self.category_ids, self.classes, strict=True)]
        data = {"images": self.images, "categories": categories}
        left_out = "bbox" if kind == "segm" else "segmentation"  # sizes are those of masks only where there is no box
        rows = [{name: value for name, value in row.items() if name != left_out} for row in self.found]
        truth = COCO({**data, "annotations": self.truth})
        found = truth.loadRes(rows) if rows else COCO({**data, "annotations": []})
        evaluation = COCOeval_faster(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation


def _match(overlaps: Floats, crowd: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """COCO's matching of the detections of one image and class, highest score first, at each IoU of `IOUS`.

    Each takes the free object with the highest overlap (D, G), else any crowd. Whether a detection has an object, and
    whether it counts (T, D).
    """
    right, counted = np.zeros((2, len(IOUS), len(overlaps)), bool)
    counted[:] = True
    for right_at, counted_at, minimum in zip(right, counted, IOUS, strict=True):
        free = ~crowd
        for i, overlap in enumerate(overlaps if len(crowd) else ()):
            last = len(crowd) - 1 - int(np.where(free, overlap, -1)[::-1].argmax())  # the last of equal ones
            if free[last] and overlap[last] >= minimum:
                free[last], right_at[i] = False, True
            elif (overlap[crowd] >= minimum).any():
                counted_at[i] = False
    return right, counted


def _mean(values: Floats) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _judge(objects: Any, record: Detections) -> _Judged:
    """COCO's matching at IoU 0.5: by descending score, each to the free object of its class with the highest IoU."""
    labels, scores = np.array(record.labels, np.int64), np.array(record.scores, np.float64)
    found, marked = xywh(np.array(record.boxes, np.float64).reshape(-1, 4)), xywh(objects.boxes)
    free, right, counts = ~objects.crowd, np.zeros(len(found), bool), np.ones(len(found), bool)
    crowd, order = objects.crowd.astype(np.uint8).tolist(), np.argsort(-scores, kind="stable")
    block = max(PAIRS // max(len(marked), 1), 1)
    for rows in (order[at : at + block] for at in range(0, len(order) if len(marked) else 0, block)):
        overlaps = np.where(labels[rows, None] == objects.labels, coco.iou(found[rows], marked, crowd), 0)
        for i, iou in zip(rows, overlaps, strict=True):
            best = int((iou * free).argmax())
            if free[best] and iou[best] >= OVERLAP:
                free[best], right[i] = False, True
            else:
                counts[i] = not (iou * objects.crowd >= OVERLAP).any()
    return _Judged(scores[counts], right[counts], int((~objects.crowd).sum()))


def _errors(truth: Objects, record: Detections, masks: bool) -> ImageErrors:
    """The errors of one image, of masks or boxes, among the `MAX_DETECTIONS` of each class that count."""
    scores, labels = np.array(record.scores, np.float64), np.array(record.labels, np.int64)
    order = np.argsort(-scores, kind="stable")
    kept = [of[:MAX_DETECTIONS] for label in np.unique(labels) if len(of := order[labels[order] == label])]
    rows = np.concatenate([np.zeros(0, np.int64), *kept])
    found: Any
    marked: Any
    if masks and isinstance(record, Instances):
        found, marked = [dict(record.masks[i]) for i in rows.tolist()], [dict(mask) for mask in truth.masks]
    else:
        found, marked = xywh(np.array(record.boxes, np.float64).reshape(-1, 4)[rows]), xywh(truth.boxes)
    shape = len(rows), len(truth.labels)
    crowd = truth.crowd.astype(np.uint8).tolist()
    overlaps = np.asarray(coco.iou(found, marked, crowd)) if all(shape) else np.zeros(shape)
    return find_errors(scores[rows], labels[rows], truth.labels, truth.crowd, overlaps)


def xywh(boxes: NDArray[Any]) -> Floats:
    """Boxes x1 y1 x2 y2 (n, 4) as COCO writes them."""
    boxes = boxes.astype(np.float64)
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)


def to_coco_results(image_id: int, record: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """A record as rows of COCO's results format."""
    boxes = xywh(np.array(record.boxes, np.float64).reshape(-1, 4)).tolist()
    rows: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, label, score in zip(boxes, record.labels, record.scores, strict=True)
    ]
    if isinstance(record, Instances):
        return [{**row, "segmentation": dict(mask)} for row, mask in zip(rows, record.masks, strict=True)]
    return rows


def read_coco_results(
    path: Path,
    sizes: Mapping[int, tuple[int, int]],
    category_ids: Sequence[int],
    classes: Sequence[str],
    names: Mapping[str, int] | None = None,
) -> dict[int, Detections]:
    """Records of the images of `sizes` (id to height and width) from a file in COCO's results format.

    Rows with a `file_name` are of the image that `names` gives for it, others of that of their id. Records have masks
    where every row has. Raises `BadData` for what is not that format, or of other images or classes.
    """
    name = str(path)
    rows = read_typed(path, name, list[CocoResult])
    for place, row in enumerate(rows):
        if names and row.file_name:
            if row.file_name not in names:
                raise BadData(
                    f"{name}: [{place}].file_name is {row.file_name!r}, which is not one of the {len(sizes)} images "
                    "measured, or may be several; write their paths, or remove file_name to use image_id"
                )
            row.image_id = names[row.file_name]
    masks = bool(rows) and all(row.segmentation is not None for row in rows)
    labels = {number: label for label, number in enumerate(category_ids)}
    _check_known(name, "image_id", [row.image_id for row in rows], sizes, f"the {len(sizes)} images measured")
    _check_known(name, "category_id", [row.category_id for row in rows], labels, listed([str(n) for n in labels]))
    of: dict[int, list[tuple[Any, ...]]] = {image_id: [] for image_id in sizes}
    for place, row in enumerate(rows):
        if not math.isfinite(row.score):
            raise BadData(f"{name}: [{place}].score is {row.score}; write {ALLOWED['score']}")
        shape = _read_shape(row, *sizes[row.image_id], f"{name}: [{place}]")
        of[row.image_id].append((row.score, labels[row.category_id], *shape))
    return {image_id: _record(*sizes[image_id], found, classes, masks) for image_id, found in of.items()}


def _check_known(name: str, field: str, ids: Sequence[int], known: Collection[int], allowed: str) -> None:
    """Raise `BadData` where `ids`, the values of a field in a results file, are not all `known`."""
    unknown = [place for place, number in enumerate(ids) if number not in known]
    if unknown:
        values = listed([str(number) for number in dict.fromkeys(ids[place] for place in unknown)])
        raise BadData(
            f"{name}: [{unknown[0]}].{field} is {ids[unknown[0]]}, which is not among {allowed}; {len(unknown)} of "
            f"{len(ids)} rows have such a {field} ({values}): give the results of these images and classes"
        )


def _read_shape(row: CocoResult, height: int, width: int, where: str) -> tuple[Box, Rle | None]:
    """The box of a row, and its mask if it has one."""
    mask, box = None, row.bbox
    if row.segmentation is not None:
        try:
            mask = rle.from_coco(row.segmentation, height, width)
        except ValueError as error:
            raise BadData(f"{where}.segmentation: {error}; correct or remove it") from None
        box = box if box is not None else np.asarray(coco.toBbox([mask])).reshape(4).tolist()
    if box is None:
        raise BadData(f"{where} has no bbox and no segmentation; write {ALLOWED['bbox']}")
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise BadData(f"{where}.bbox is {box}; write {ALLOWED['bbox']}")
    x, y, w, h = box
    return (x, y, x + w, y + h), mask


def _record(height: int, width: int, found: list[tuple[Any, ...]], classes: Sequence[str], masks: bool) -> Detections:
    found = sorted(found, key=lambda row: -row[0])
    scores, labels, boxes, shapes = zip(*found, strict=True) if found else ((), (), (), ())
    record = Detections(height, width, boxes, labels, tuple(classes[label] for label in labels), scores)
    return Instances(**vars(record), masks=shapes) if masks else record
