"""mIoU and boundary IoU: maps whose answers are counted by hand, and slow plain forms."""

import numpy as np
import pytest

from featherbone.metrics.semantic import NEAR, SemanticMetrics, near_border
from featherbone.results import SemanticMap


def measure(*pairs, classes=3):
    metrics = SemanticMetrics(classes)
    own = [
        metrics.update(i, np.array(t, np.uint8), SemanticMap(np.array(s, np.uint8), ()))
        for i, (t, s) in enumerate(pairs)
    ]
    return metrics.compute(), own


def test_counts_by_hand():
    """Class 0: 3 of 4 right, 1 too many; class 1: 1 of 2 right; 2 is not in the truth, but said once."""
    result, own = measure(([[0, 0, 0, 0, 1, 1, 255]], [[0, 0, 0, 2, 0, 1, 1]]))
    assert result["per_class"] == [pytest.approx(3 / 5), pytest.approx(1 / 2), None]
    assert result["mIoU"] == pytest.approx((3 / 5 + 1 / 2) / 2)
    assert result["pixel_accuracy"] == pytest.approx(4 / 6) == own[0]
    assert result["mean_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert result["pixels"] == [4, 2, 0]


def test_the_mean_is_over_the_set_not_over_images():
    """One image in which class 1 is a single missed pixel: the mean of images would be 0.25 lower."""
    whole = ([[1, 1, 1, 1]], [[1, 1, 1, 1]])
    missed = ([[0, 0, 0, 1]], [[0, 0, 0, 0]])
    result, own = measure(whole, missed, classes=2)
    assert result["per_class"] == [pytest.approx(3 / 4), pytest.approx(4 / 5)]
    assert own == [1, pytest.approx(3 / 4)]


def test_nothing_said_is_a_mistake():
    result, _ = measure(([[0, 0]], [[0, 255]]))
    assert result["per_class"][0] == pytest.approx(1 / 2)


def test_parts_add_up():
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 3, (2, 20, 30)).astype(np.uint8) for _ in range(4)]
    whole, first, second = (SemanticMetrics(3) for _ in range(3))
    for i, (truth, said) in enumerate(pairs):
        record = SemanticMap(said, ())
        whole.update(i, truth, record)
        (first, second)[i % 2].update(i, truth, record)
    first.synchronise(lambda mine: [*mine, second])
    assert first.compute() == whole.compute()


def plain_border(labels):
    """Pixels that erosion of their class by a square takes away; outside of the image is no class."""
    height, width = labels.shape
    reach = max(round(NEAR * np.hypot(height, width)), 1)
    padded = np.full((height + 2 * reach, width + 2 * reach), -1)
    padded[reach:-reach, reach:-reach] = labels
    window = 2 * reach + 1
    return np.array(
        [[(padded[y : y + window, x : x + window] != labels[y, x]).any() for x in range(width)] for y in range(height)]
    )


@pytest.mark.parametrize("shape", [(40, 60), (7, 5), (1, 1), (3, 90)])
def test_borders_are_what_erosion_takes(shape):
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 3, (4, 6)).astype(np.uint8)
    labels = coarse[np.arange(shape[0]) * 4 // shape[0]][:, np.arange(shape[1]) * 6 // shape[1]]
    np.testing.assert_array_equal(near_border(labels), plain_border(labels))


def test_boundary_iou_counts_border_pixels_alone():
    """Two squares, one said a pixel too far to the right; the slow form class by class (arXiv 2103.16562)."""
    truth, said = np.zeros((2, 60, 60), np.uint8)
    truth[20:40, 20:40] = 1
    said[20:40, 22:42] = 1
    result, _ = measure((truth, said), classes=2)
    for k in (0, 1):
        one, other = ((labels == k) & plain_border(labels) for labels in (truth, said))
        assert result["boundary_per_class"][k] == pytest.approx((one & other).sum() / (one | other).sum())
    assert result["boundary_per_class"][1] < result["per_class"][1]


def test_maps_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="bring it to the image's size"):
        measure(([[0, 0]], [[0]]))
