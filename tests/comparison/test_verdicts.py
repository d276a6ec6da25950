"""Differences of two models in words."""

import pytest

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
    """The difference becomes 2.8 standard errors with that many seeds, or images."""
    pair = verdict(0.04, 0.008, seeds=((0.02, 2), (0.02, 2)), images=500)
    assert pair.verdict == "not enough data to tell"
    variance = 2 * 0.02**2 * 3 / pair.seeds_needed + 0.008**2
    assert 0.04 / variance**0.5 == pytest.approx(2.8, rel=0.1) and pair.seeds_needed > 3
    assert pair.images_needed is None  # the seeds alone are too far apart
    assert f"about {pair.seeds_needed} seeds would tell" in pair.sentence(0.01)
    pair = verdict(0.04, 0.03, seeds=(), images=100)
    assert pair.seeds_needed is None and 0.04 / (0.03**2 * 100 / pair.images_needed) ** 0.5 == pytest.approx(
        2.8, rel=0.05
    )
    pair = verdict(0.001, 0.5, margin=0.001)
    assert pair.seeds_needed is None and "images" in pair.sentence(0.001)


def test_holm_s_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([]) == []
