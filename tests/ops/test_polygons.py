"""Polygons along pixels cover exactly the mask they were traced from."""

import numpy as np
import pytest

from featherbone.ops.polygons import trace


def fill(rings, height, width):
    """Pixels whose centres rings surround an odd number of times."""
    inside = np.zeros((height, width), bool)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
            assert (x1 == x2) != (y1 == y2), "sides run along the axes"
            if x1 == x2:
                inside[min(y1, y2) : max(y1, y2), :x1] ^= True
    return inside


def regions(mask):
    """How many regions of pixels that share a side there are."""
    mask, count = mask.copy(), 0
    while mask.any():
        count += 1
        edge = [tuple(np.argwhere(mask)[0])]
        while edge:
            y, x = edge.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]:
                mask[y, x] = False
                edge += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return count


def test_masks_come_back():
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = rng.random(rng.integers(1, 12, 2)) < rng.random()
        found = list(trace(mask))
        filled = [fill(rings, *mask.shape) for rings, _ in found]
        assert [int(part.sum()) for part in filled] == [area for _, area in found]
        np.testing.assert_array_equal(np.sum([np.zeros(mask.shape, int), *filled], 0), mask)
        assert len(found) == regions(mask)


def test_a_ring_with_an_island():
    mask = np.ones((5, 5), bool)
    mask[1:4, 1:4] = False
    mask[2, 2] = True
    (outer, whole), (island, one) = sorted(trace(mask), key=lambda found: -found[1])
    assert (whole, one) == (16, 1) and len(outer) == 2 and len(island) == 1
    assert sorted(outer[0]) == [(0, 0), (0, 5), (5, 0), (5, 5)] and sorted(outer[1]) == [(1, 1), (1, 4), (4, 1), (4, 4)]


@pytest.mark.parametrize("mask", [np.zeros((3, 4), bool), np.zeros((0, 4), bool)])
def test_nothing_has_no_polygons(mask):
    assert not list(trace(mask))
