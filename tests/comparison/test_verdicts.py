"""Differences of two models in words."""

import numpy as np
import pytest
from scipy import stats

from featherbone.comparison.verdicts import holm, judge
from featherbone.metrics.intervals import Estimate, Part


def verdict(value, error, margin=0.01, seeds=((0.005, 4), (0.005, 4)), images=200):
    parts = tuple(Part(*part) for part in seeds)
    [pair] = judge([("a", "b")], [Estimate(value, 0.0, parts, Part(error, images - 1))], margin)
    return pair


@pytest.mark.parametrize(
    ("value", "error", "margin", "words"),
    [
        (0.1, 0.01, 0.01, "a is better than b"),
        (-0.1, 0.01, 0.01, "a is worse than b"),
        (0.001, 0.002, 0.03, "a and b are equivalent within 0.03"),
        (0.02, 0.02, 0.01, "not enough data to tell a from b"),
    ],
)
def test_verdicts(value, error, margin, words):
    pair = verdict(value, error, margin)
    assert pair.sentence(margin).startswith(words)
    low, high = pair.interval
    assert (low > 0 or high < 0) == (pair.p < 0.05) and low < value < high
    assert (pair.wins > 0.5) == (value > 0)


def test_a_certain_winner_wins_and_equal_models_win_half():
    assert verdict(0.3, 0.01).wins > 0.99 and verdict(0.0, 0.01).wins == pytest.approx(0.5, abs=0.01)
    assert verdict(0.0, 0.01).p == 1


def test_what_is_needed_would_tell():
    """With that many seeds, or images, the difference is found in four of five repetitions."""
    draw = np.random.default_rng(0)

    def found(seeds, of_seed, error):
        """How often a t test of paired seeds finds a difference of 0.04."""
        apart = 0.04 + draw.normal(0, of_seed, (4000, seeds)) + draw.normal(0, error, (4000, 1))
        half = stats.t.ppf(0.975, seeds - 1) * np.hypot(apart.std(1, ddof=1) / seeds**0.5, error)
        return (np.abs(apart.mean(1)) > half).mean()

    pair = verdict(0.04, 0.005, seeds=((0.02, 2),), images=500)
    assert pair.verdict == "not enough data to tell" and pair.images_needed is None  # the seeds are too far apart
    assert f"about {pair.seeds_needed} seeds would tell" in pair.sentence(0.01)
    assert found(pair.seeds_needed, 0.02 * 3**0.5, 0.005) == pytest.approx(0.8, abs=0.08)
    pair = verdict(0.04, 0.03, seeds=(), images=100)
    assert pair.seeds_needed is None and pair.images_needed == pytest.approx(100 * (2.8 * 0.03 / 0.04) ** 2, rel=0.05)
    pair = verdict(0.001, 0.5, margin=0.001)
    assert pair.seeds_needed is None and "images" in pair.sentence(0.001)


def test_more_pairs_need_more_seeds():
    one = Estimate(0.04, 0.0, (Part(0.02, 2),), Part(0.005, 499))
    needed = [judge([("a", "b")] * count, [one] * count, 0.01)[0].seeds_needed for count in (1, 10)]
    assert 3 < needed[0] < needed[1]


def test_holm_s_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([]) == []
