"""Intervals over seeds and images: cases whose answer is known, and how often they contain the truth."""

import numpy as np
import pytest

import interval_coverage
from featherbone.metrics.classification import ClassCounts
from featherbone.metrics.intervals import NUM_SETS, Estimate, Part, estimate, interval_of, replicate

QUANTILE = 2.7764
"""Of Student's t distribution with 4 degrees of freedom, at 97.5%."""


def counts(right):
    right = np.array(right, int)
    labels = np.stack((np.zeros_like(right), 1 - right), 1)
    return ClassCounts(np.arange(len(right)), right.astype(float), labels, np.array(2))


def test_one_part_is_student_s_interval():
    found = Estimate(0.5, 0.0, (), Part(0.02, 4))
    assert found.half_width() == pytest.approx(0.02 * QUANTILE, rel=0.03)
    both = Estimate(0.5, 0.0, (Part(0.02, 4),), Part(0.03, 1000))
    apart = np.hypot(0.02 * QUANTILE, 0.03 * 1.96)
    assert both.half_width() == pytest.approx(apart, rel=0.05) and both.errors() is not both.errors()
    np.testing.assert_array_equal(both.errors(), both.errors())


def test_one_seed_has_the_error_of_a_share_of_images():
    right = np.arange(200) < 150
    [found] = replicate([[counts(right)]])
    one = estimate(found)
    assert one.value == 0.75 and one.seeds == () and abs(one.bias) < 1e-12
    assert one.images.error == pytest.approx(np.sqrt(0.75 * 0.25 / 199), rel=0.1) and one.images.freedom == 199
    assert interval_of(counts(right)) == one.interval()
    low, high = one.interval()
    p, bound = 0.75, one.half_width() ** 2
    for end in (low, high):  # the ends solve (p - x)^2 = h^2 x (1 - x) / (p (1 - p))
        assert (end - p) ** 2 == pytest.approx(bound * end * (1 - end) / (p * (1 - p)))


def test_the_error_of_seeds_that_agree_on_every_image_is_that_of_the_images():
    right = np.random.default_rng(0).random(100) < 0.7
    one, three = replicate([[counts(right)], [counts(right)] * 3])
    assert estimate(three).images.error == pytest.approx(estimate(one).images.error)
    assert estimate(three).seeds == (Part(0.0, 2),)


def test_the_error_of_seeds_that_meet_images_by_chance_is_counted_once():
    """Each seed is right on each image by chance: the variance of the mean is p (1 - p) / (S N), not twice that."""
    draw, errors = np.random.default_rng(0), []
    for _ in range(20):
        [found] = replicate([[counts(draw.random(100) < 0.5) for _ in range(10)]])
        one = estimate(found)
        errors.append(one.images.error**2 + sum(part.error**2 for part in one.seeds))
    assert 0.8 < np.mean(errors) / (0.25 / 1000) < 1.6


def test_models_that_are_right_on_the_same_images_differ_by_less_than_either_varies():
    draw = np.random.default_rng(1)
    right = draw.random(300) < 0.6
    better = right | (draw.random(300) < 0.1)
    first, second = replicate([[counts(better)], [counts(right)]])
    apart = estimate(first, second)
    assert apart.value == pytest.approx(better.mean() - right.mean())
    assert apart.images.error < 0.6 * estimate(second).images.error
    assert estimate(second, first).value == -apart.value
    assert estimate(first, first).images.error == 1 / 300  # not 0: they may differ on the next image


def test_what_a_seed_does_to_both_models_cancels_in_paired_differences():
    draw = np.random.default_rng(2)
    shared = [draw.random(400) < chance for chance in (0.4, 0.6, 0.8)]
    models = [[counts(right | (draw.random(400) < more)) for right in shared] for more in (0.1, 0.0)]
    first, second = replicate(models)
    paired, apart = estimate(first, second, paired=True), estimate(first, second)
    assert paired.value == pytest.approx(apart.value) and len(paired.seeds) == 1 and len(apart.seeds) == 2
    assert paired.half_width() < 0.2 * apart.half_width()


@pytest.mark.parametrize("right", [[1] * 20, [0] * 20])
def test_a_perfect_score_on_few_images_is_not_certain(right):
    low, high = interval_of(counts(right))
    assert high - low == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-3)
    assert low == pytest.approx(0) or high == pytest.approx(1)


def test_one_image_has_no_interval():
    assert interval_of(counts([1])) is None and interval_of(counts([])) is None


def test_images_that_not_all_models_have_are_left_out():
    whole = counts([1, 0, 1, 1, 0, 1])
    part = ClassCounts(whole.indices[1:], whole.scores[1:], whole.labels[1:], whole.num_classes)
    one, other = replicate([[whole], [part]])
    assert one.num_images == 5 and estimate(one, other).value == 0
    np.testing.assert_array_equal(one.sets, replicate([[part]])[0].sets)


def test_values_of_classes_are_estimated_like_the_metric():
    [found] = replicate([[counts([1, 0, 1, 1])] * 2], classes=True)
    assert found.whole.shape == (2, 2) and found.sets.shape == (2, NUM_SETS, 2)
    assert found.whole[0, 0] == 0.75 and np.isnan(found.whole[0, 1])  # no image is of the second class


@pytest.mark.parametrize("metric", interval_coverage.POPULATIONS)
def test_intervals_contain_the_truth(metric):
    """The short form of benchmarks/interval_coverage.py: 95% of 80 intervals, within three standard errors."""
    population, repeats = interval_coverage.POPULATIONS[metric], 20 if metric == "AP" else 80
    truth = interval_coverage.true_value(population, sets=20 if metric == "AP" else 60, num_images=2000)
    found = interval_coverage.cover(population, truth, seeds=4, num_images=60, repeats=repeats)
    assert found["covered"] >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / repeats)
    assert found["false alarms"] <= 0.05 + 3 * np.sqrt(0.95 * 0.05 / repeats)
