"""How much a metric varies with the images it was measured on and with the seed of training.

The error of a mean over S seeds on N images is a sum of two independent parts, each with Student's t distribution: one
of the seeds, whose variance is that of the S values, and one of the images, whose variance is that of the mean over
sets of N images drawn with replacement (the bootstrap), less the part that differs from seed to seed, which the first
contains. The bias of the metric on few images is estimated from halves of the images. An interval of a metric in [0, 1]
is Wilson's, with the number of images that has this error. How often such intervals contain the truth is measured by
`benchmarks/interval_coverage.py`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import sqrt

import numpy as np

from featherbone.metrics.counts import Floats, ImageCounts, Ints

CONFIDENCE = 0.95
NUM_SETS, NUM_HALVES = 500, 100
"""Sets of images with replacement, and halves of the images without."""
NUM_DRAWS = 100_000
"""Draws of an error's distribution."""
BLOCK = 50
"""Sets that are measured at a time."""
Z = 1.96


@dataclass(frozen=True)
class Replicates:
    """Values of S seeds on all N images, on sets of images and on halves, with or without a last axis of classes."""

    whole: Floats
    """(S, ...)"""
    sets: Floats
    """(S, NUM_SETS, ...)"""
    halves: Floats
    """(S, NUM_HALVES, ...)"""
    num_images: int
    bias_rate: float

    def less(self, other: "Replicates") -> "Replicates":
        """The differences, seed by seed."""
        return replace(
            self, whole=self.whole - other.whole, sets=self.sets - other.sets, halves=self.halves - other.halves
        )

    def select(self, label: int) -> "Replicates":
        """Those of one class."""
        of_class = {name: getattr(self, name)[..., label] for name in ("whole", "sets", "halves")}
        return replace(self, **of_class)


@dataclass(frozen=True)
class Part:
    """A part of the error of a mean: standard error, and degrees of freedom with which it is known."""

    error: float
    freedom: int


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or a difference of two, and its errors."""

    value: float
    bias: float
    """What the value is too large by, because there are few images."""
    seeds: tuple[Part, ...]
    """Error of the mean over seeds, of each model or of paired differences; none where there is a single seed."""
    images: Part

    @property
    def centre(self) -> float:
        """The value without its bias."""
        return self.value - self.bias

    def errors(self) -> Floats:
        """Draws of the error's distribution; equal calls give equal draws."""
        draws = np.random.default_rng(0)
        parts = [part.error * draws.standard_t(part.freedom, NUM_DRAWS) for part in (*self.seeds, self.images)]
        return np.sum(parts, 0)

    def half_width(self, confidence: float = CONFIDENCE) -> float:
        """Half the width of a symmetric interval."""
        return float(np.quantile(np.abs(self.errors()), confidence))

    def interval(self) -> tuple[float, float]:
        """The 95% interval of a metric in [0, 1], by Wilson's formula."""
        half, p = self.half_width(), min(max(self.centre, 0.0), 1.0)
        n = p * (1 - p) / half**2 if half > 0 and 0 < p < 1 else (self.images.freedom + 1) / Z**2
        middle, reach = (p + 0.5 / n) / (1 + 1 / n), sqrt(p * (1 - p) / n + 0.25 / n**2) / (1 + 1 / n)
        return max(middle - reach, 0.0), min(middle + reach, 1.0)


def sets_of_images(num_images: int) -> Iterator[tuple[str, Floats]]:
    """Weights (B, N) of all images, of sets drawn with replacement, and of halves; the same in every call."""
    draws = np.random.default_rng(0)
    yield "whole", np.ones((1, num_images))
    for _ in range(NUM_SETS // BLOCK):
        yield (
            "sets",
            np.stack(
                [np.bincount(draws.integers(num_images, size=num_images), minlength=num_images) for _ in range(BLOCK)]
            ).astype(np.float64),
        )
    for _ in range(NUM_HALVES // BLOCK):
        half = np.stack([draws.permutation(num_images) < num_images // 2 for _ in range(BLOCK // 2)])
        yield "halves", np.concatenate((half, ~half)).astype(np.float64)


def replicate(models: Sequence[Sequence[ImageCounts]], classes: bool = False) -> list[Replicates]:
    """The replicates of models, each with the counts of its seeds, on the same sets of the images that all have.

    Of the headline metric, or of that of each class.
    """
    indices, found = common_indices(models), []
    for model in models:
        seeds = [_values(one, indices, classes) for one in model]
        whole, sets, halves = (np.stack([values[name] for values in seeds]) for name in ("whole", "sets", "halves"))
        found.append(Replicates(whole[:, 0], sets, halves, len(indices), model[0].bias_rate))
    return found


def _values(one: ImageCounts, indices: Ints, classes: bool) -> dict[str, Floats]:
    """The metric of one seed, or that of each class, on each kind of `sets_of_images` of the images `indices`."""
    found = defaultdict[str, list[Floats]](list)
    for name, weights in sets_of_images(len(indices)):
        own = np.zeros((len(weights), len(one.indices)))
        own[:, one.indices.searchsorted(indices)] = weights
        found[name].append(one.per_class(own) if classes else one.metric(own))
    return {name: np.concatenate(blocks) for name, blocks in found.items()}


def common_indices(models: Sequence[Sequence[ImageCounts]]) -> Ints:
    """The images that all seeds of all models were measured on, in order."""
    return reduce(np.intersect1d, (one.indices for model in models for one in model))


def estimate(one: Replicates, other: Replicates | None = None, paired: bool = False) -> Estimate:
    """The mean of a model, or its difference to that of another on the same images.

    With `paired`, both have the same seeds in the same order, and variation that a seed causes in both cancels; else
    their seeds are independent. With one seed in either, the error is that of the images only.
    """
    terms = [(1.0, one)]
    if other is not None:
        terms = [(1.0, one.less(other))] if paired else [(1.0, one), (-1.0, other)]
    n = one.num_images
    value = sum(sign * float(model.whole.mean()) for sign, model in terms)
    grow = n / (n - 1)  # the bootstrap draws from n images as if they were all
    of_images = grow * float(_var(np.asarray(sum(sign * _mean(model.sets, 0) for sign, model in terms)), 0))
    bias = 0.0
    for sign, model in terms:
        bias += sign * float(_mean(model.halves) - model.whole.mean()) / (2**model.bias_rate - 1)
    seeds = []
    if all(len(model.whole) > 1 for _, model in terms):
        for _, model in terms:
            count = len(model.whole)
            seeds.append(Part(sqrt(float(model.whole.var(ddof=1)) / count), count - 1))
            spread = float(_mean(_var(model.sets, 1))) - float(_var(_mean(model.sets, 0), 0))
            of_images -= max(grow * spread / (count - 1), 0.0)  # differs from seed to seed: in the seeds' part
    least = 0.0 if other is None else 1 / n  # models that agree on n images may differ on the next one
    return Estimate(value, bias, tuple(seeds), Part(max(sqrt(max(of_images, 0.0)), least), n - 1))


def interval_of(counts: ImageCounts) -> tuple[float, float] | None:
    """The 95% interval of one model's headline metric over images; None with fewer than two, or without a value."""
    if len(counts.indices) < 2:
        return None
    [found] = replicate([[counts]])
    return None if np.isnan(found.whole).any() else estimate(found).interval()


def _mean(values: Floats, axis: int | None = None) -> Floats:
    return np.ma.masked_invalid(values).mean(axis)


def _var(values: Floats, axis: int) -> Floats:
    return np.ma.masked_invalid(values).var(axis, ddof=1)
