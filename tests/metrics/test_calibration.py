import numpy as np
import pytest

from featherbone.metrics.calibration import NUM_BINS, bin_confidences, calibration_error


def test_by_hand():
    """Two bins: confidence 0.95 with half of four right, and 0.3 with all of one right."""
    bins = bin_confidences([0.95, 0.95, 0.95, 0.95, 0.3], np.array([1, 1, 0, 0, 1], bool))
    assert bins[14] == (4, pytest.approx(0.95), 0.5) and bins[4] == (1, 0.3, 1.0) and len(bins) == NUM_BINS
    assert calibration_error(bins) == pytest.approx((4 * 0.45 + 0.7) / 5)


def test_edges_belong_to_the_lower_bin_and_nothing_has_no_error():
    bins = bin_confidences([0.0, 1 / 15, 1.0], np.ones(3, bool))
    assert [count for count, *_ in bins] == [2, *[0] * 13, 1]
    assert calibration_error(bin_confidences([], np.zeros(0, bool))) is None


def test_a_calibrated_model_has_none():
    generator = np.random.default_rng(0)
    sure = generator.random(200_000)
    assert calibration_error(bin_confidences(sure, generator.random(200_000) < sure)) < 0.01
    assert calibration_error(bin_confidences(sure, generator.random(200_000) < sure / 2)) == pytest.approx(
        0.25, abs=0.01
    )
