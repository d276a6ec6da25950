"""How often the intervals of `featherbone.metrics.intervals` contain the truth, where it is known.

Models are drawn, not trained: an image is easier or harder for all of them, a seed is better or worse on all images,
and both meet by chance. The truth is the metric of new seeds on very many images. A pair are two models of the same
ability that saw the same images: the share of their differences whose interval does not contain 0 is the rate of false
alarms.

python benchmarks/interval_coverage.py --seeds 3 5 10 --images 20 100 500 --repeats 1000
"""

import argparse
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featherbone.metrics.classification import ClassCounts
from featherbone.metrics.counts import ImageCounts
from featherbone.metrics.detection import ObjectCounts
from featherbone.metrics.intervals import estimate, replicate
from featherbone.metrics.panoptic import SegmentCounts
from featherbone.metrics.semantic import PixelCounts

Floats = NDArray[np.float64]
K = 5
SPREAD = np.linspace(0.6, -0.6, K)
"""Abilities of classes, in logits."""


def probability(logits: Floats) -> Floats:
    """Of a success."""
    return 1 / (1 + np.exp(-logits))


class Population(ABC):
    """Images, and models of one ability."""

    seed_spread: ClassVar[float] = 0.15
    """Standard deviation of the ability of seeds, in logits."""

    def __init__(self, draw: np.random.Generator, num_images: int) -> None:
        self.draw, self.n = draw, num_images
        self.ease = draw.normal(0, 0.8, num_images)

    def seed(self) -> ImageCounts:
        """The counts of a new seed."""
        return self.count(self.draw.normal(0, self.seed_spread))

    @abstractmethod
    def count(self, ability: float) -> ImageCounts:
        """The counts of a seed of that ability."""

    @property
    def common(self) -> dict[str, Any]:
        """Fields of all counts."""
        return {"indices": np.arange(self.n), "scores": np.zeros(self.n)}


class Top1(Population):
    """Two in three images are right."""

    level: ClassVar[float] = 0.9

    def count(self, ability: float) -> ClassCounts:
        right = self.draw.random(self.n) < probability(
            self.level + ability + 1.3 * self.ease + self.draw.normal(0, 0.8, self.n)
        )
        return ClassCounts(
            **self.common, labels=np.stack((np.zeros(self.n), ~right), 1).astype(int), num_classes=np.array(2)
        )


class Top1High(Top1):
    """Nineteen in twenty are right."""

    level = 3.6


class MeanIoU(Population):
    """Five classes, the last one in three of ten images."""

    def __init__(self, draw: np.random.Generator, num_images: int) -> None:
        super().__init__(draw, num_images)
        shares = draw.dirichlet((4, 2, 1, 0.5, 0.3), num_images) * (
            draw.random((num_images, K)) < (1, 0.9, 0.6, 0.5, 0.3)
        )
        self.true = (shares * 10_000).round()

    def count(self, ability: float) -> PixelCounts:
        of_class = self.draw.normal(0, 0.1, K)
        logits = 1 + SPREAD + ability + of_class + self.ease[:, None] + self.draw.normal(0, 0.5, (self.n, K))
        correct = (self.true * probability(logits)).round()
        wrong = (self.true - correct).sum(1, keepdims=True) * self.draw.dirichlet(np.ones(K), self.n)
        return PixelCounts(**self.common, pixels=np.stack((correct, self.true, correct + wrong), 1).astype(np.int64))


class PQ(Population):
    """One segment of each class in an image, on average."""

    def __init__(self, draw: np.random.Generator, num_images: int) -> None:
        super().__init__(draw, num_images)
        self.true = draw.poisson((1.5, 1, 0.8, 0.6, 0.4), (num_images, K))

    def count(self, ability: float) -> SegmentCounts:
        logits = 0.8 + SPREAD + ability + self.ease[:, None] + self.draw.normal(0, 0.3, (self.n, K))
        found = self.draw.binomial(self.true, probability(logits))
        false = self.draw.poisson(0.5 * (1 - probability(logits)))
        iou = found * (0.8 + self.draw.normal(0, 0.08, found.shape) / np.sqrt(np.maximum(found, 1))).clip(0.5, 1)
        return SegmentCounts(
            **self.common, segments=np.stack((iou, found, false, self.true - found), 1).astype(np.float64)
        )


class AP(Population):
    """Two classes, 2.5 objects an image; a detection's score follows its chance of being right."""

    def __init__(self, draw: np.random.Generator, num_images: int) -> None:
        super().__init__(draw, num_images)
        self.objects = draw.poisson((1.7, 0.8), (num_images, 2))

    def count(self, ability: float) -> ObjectCounts:
        draw = self.draw
        owners, labels = (np.repeat(values.ravel(), self.objects.ravel()) for values in np.indices(self.objects.shape))
        chance = probability(0.9 + ability + self.ease[owners] + draw.normal(0, 0.6, len(owners)))
        false = draw.poisson(0.8 * np.exp(-0.5 * self.ease))
        scores = np.concatenate(
            (2 * chance - 0.5 + draw.normal(0, 0.8, len(owners)), draw.normal(-0.8, 0.9, false.sum()))
        )
        overlap = np.concatenate(
            (
                np.where(draw.random(len(owners)) < chance, 0.5 + 0.5 * draw.beta(2, 1.5, len(owners)), 0),
                np.zeros(false.sum()),
            )
        )
        order = np.argsort(-scores, kind="stable")
        right = overlap[order] > np.linspace(0.5, 0.95, 10)[:, None]
        return ObjectCounts(
            **self.common,
            owners=np.concatenate((owners, np.repeat(np.arange(self.n), false)))[order],
            labels=np.concatenate((labels, draw.integers(0, 2, false.sum())))[order],
            right=right,
            counted=np.ones_like(right),
            objects=self.objects,
        )


POPULATIONS: dict[str, type[Population]] = {"top1": Top1, "top1 high": Top1High, "mIoU": MeanIoU, "PQ": PQ, "AP": AP}


def true_value(population: type[Population], sets: int = 100, num_images: int = 4000) -> float:
    """The metric of new seeds on new images, each set with three seeds."""
    draw, values = np.random.default_rng(1), []
    for _ in range(sets):
        images = population(draw, num_images)
        values += [float(images.seed().metric(np.ones((1, num_images)))[0]) for _ in range(3)]
    return float(np.mean(values))


def cover(
    population: type[Population], truth: float, seeds: int, num_images: int, repeats: int, seed: int = 0
) -> dict[str, float]:
    """Shares of intervals that contain the truth, of single models and of pairs, and their mean widths."""
    inside, wide, alarms = [], [], []
    for repeat in range(repeats):
        images = population(np.random.default_rng((seed, repeat)), num_images)
        models = [[images.seed() for _ in range(seeds)] for _ in range(2)]
        first, second = replicate(models)
        low, high = estimate(first).interval()
        inside.append(low <= truth <= high)
        wide.append(high - low)
        difference = estimate(first, second, paired=True)
        alarms.append(abs(difference.centre) > difference.half_width())
    return {"covered": float(np.mean(inside)), "width": float(np.mean(wide)), "false alarms": float(np.mean(alarms))}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure what the arguments ask for, print and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", nargs="+", default=list(POPULATIONS), choices=list(POPULATIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 5, 10])
    parser.add_argument("--images", nargs="+", type=int, default=[20, 100, 500])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("coverage.json"))
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name in given.metrics:
        truth = true_value(POPULATIONS[name])
        for seeds in given.seeds:
            for num_images in given.images:
                start = time.process_time()
                found = cover(POPULATIONS[name], truth, seeds, num_images, given.repeats)
                rows.append({"metric": name, "truth": truth, "seeds": seeds, "images": num_images, **found})
                print({**rows[-1], "CPU seconds": round(time.process_time() - start)}, flush=True)
                given.out.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
