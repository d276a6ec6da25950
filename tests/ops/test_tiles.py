"""Tiles cover the image, and an object found several times is kept once, whole where anyone saw it whole."""

from itertools import pairwise

import numpy as np
import pytest

from featherbone.ops.tiles import cut_windows, merge_tiles

HEIGHT, WIDTH = 100, 180
TILES = [*cut_windows(HEIGHT, WIDTH, (100, 100), 0.2), (0, 0, WIDTH, HEIGHT)]  # left, right, whole image
LEFT, RIGHT, WHOLE = 0, 1, 2


def kept(*found, **options):
    """Indices kept of (box, score, source), all of one class."""
    boxes, scores, sources = zip(*found, strict=True)
    return list(merge_tiles(boxes, scores, [3] * len(found), sources, TILES, HEIGHT, WIDTH, **options))


@pytest.mark.parametrize("seed", range(40))
def test_tiles_cover_every_pixel(seed):
    random = np.random.default_rng(seed)
    height, width, size = (int(n) for n in random.integers(1, 120, 3))
    overlap = float(random.choice([0, 0.1, 0.25, 0.5, 0.9]))
    tiles = cut_windows(height, width, (size, size), overlap)
    covered = np.zeros((height, width), int)
    for x1, y1, x2, y2 in tiles:
        assert (x2 - x1, y2 - y1) == (min(size, width), min(size, height))
        assert x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
        covered[y1:y2, x1:x2] += 1
    assert covered.all()
    assert len(set(tiles)) == len(tiles)
    for starts in (sorted({tile[0] for tile in tiles}), sorted({tile[1] for tile in tiles})):
        assert all(low + size - high >= round(size * overlap) or high == low + 1 for low, high in pairwise(starts))


def test_tiles_by_hand():
    assert TILES == [(0, 0, 100, 100), (80, 0, 180, 100), (0, 0, 180, 100)]
    assert cut_windows(30, 40, (64, 64), 0.2) == [(0, 0, 40, 30)]  # smaller than a tile
    assert cut_windows(64, 64, (64, 64), 0.5) == [(0, 0, 64, 64)]
    assert cut_windows(10, 25, (10, 10), 0) == [
        (0, 0, 10, 10),
        (10, 0, 20, 10),
        (15, 0, 25, 10),
    ]  # the last: inward
    with pytest.raises(ValueError, match="at least 1 pixel"):
        cut_windows(10, 10, (0, 0), 0.2)
    with pytest.raises(ValueError, match=r"0 to 0\.9"):
        cut_windows(10, 10, (5, 5), 1.0)


def test_seen_whole_twice_stays_once():
    assert kept(((83, 20, 96, 60), 0.8, LEFT), ((84, 21, 96, 61), 0.9, RIGHT)) == [1]


def test_whole_beats_cut_whatever_the_scores():
    part, whole = ((84, 20, 100, 60), 0.99, LEFT), ((84, 20, 130, 60), 0.3, RIGHT)
    assert kept(part, whole) == [1]
    part = ((70, 20, 100, 60), 0.99, LEFT)  # with IoU above 0.5
    assert kept(part, ((70, 20, 110, 60), 0.3, WHOLE)) == [1]


def test_cut_twice_is_replaced_by_the_whole_image():
    left, right, whole = (
        ((40, 20, 100, 60), 0.9, LEFT),
        ((80, 20, 150, 60), 0.8, RIGHT),
        ((40, 20, 150, 60), 0.4, WHOLE),
    )
    assert kept(left, right, whole) == [2]
    assert kept(left, right) == [0, 1]  # nobody saw it whole: its pieces stay


def test_the_images_own_border_cuts_nothing():
    small, large = ((0, 20, 20, 40), 0.5, LEFT), ((0, 10, 60, 90), 0.9, WHOLE)
    assert kept(small, large) == [1, 0]


def test_neighbours_in_one_tile_stay():
    assert kept(((10, 20, 40, 60), 0.9, LEFT), ((28, 20, 58, 60), 0.8, LEFT)) == [0, 1]
    cut, around = ((90, 30, 100, 50), 0.8, LEFT), ((50, 10, 97, 90), 0.9, LEFT)
    assert kept(cut, around) == [1, 0]  # seen beside each other, they are two


def test_small_before_large_stays():
    small, large = ((30, 30, 45, 50), 0.6, LEFT), ((10, 10, 90, 90), 0.9, WHOLE)
    assert kept(small, large) == [1, 0]


def test_classes_do_not_meet():
    boxes, sources = [(84, 20, 96, 60)] * 2, [LEFT, RIGHT]
    assert list(merge_tiles(boxes, [0.5, 0.6], [0, 1], sources, TILES, HEIGHT, WIDTH)) == [1, 0]
    assert list(merge_tiles(boxes, [0.5, 0.6], [0, 0], sources, TILES, HEIGHT, WIDTH)) == [1]


def test_limits_are_limits():
    part, whole = ((70, 20, 100, 60), 0.99, LEFT), ((76, 20, 166, 60), 0.3, RIGHT)  # 0.8 of the part is inside
    whole = (whole[0], whole[1], WHOLE)
    assert kept(part, whole) == [1]
    assert kept(part, whole, inside=0.81) == [0, 1]
    near = ((70, 20, 97, 60), 0.99, LEFT)  # three pixels off the border
    assert kept(near, whole) == [0, 1] and kept(near, whole, margin=3) == [1]
    twins = ((10, 10, 20, 20), 0.9, LEFT), ((10, 10, 20, 16), 0.8, WHOLE)  # IoU 0.6
    assert kept(*twins) == [0] and kept(*twins, iou=0.61) == [0, 1]


def slow(boxes, scores, labels, sources, tiles, height, width):
    """The rule, one pair at a time."""

    def cut(i):
        (x1, y1, x2, y2), (left, top, right, bottom) = boxes[i], tiles[sources[i]]
        sides = (x1 - left, left > 0), (y1 - top, top > 0), (right - x2, right < width), (bottom - y2, bottom < height)
        return any(gap <= 2 and inner for gap, inner in sides)

    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    def loses(i, j):
        low, high = np.maximum(boxes[i][:2], boxes[j][:2]), np.minimum(boxes[i][2:], boxes[j][2:])
        shared = area((*low, *high))
        same = shared > 0.5 * (area(boxes[i]) + area(boxes[j]) - shared)
        return same or (cut(i) and sources[i] != sources[j] and shared > 0.7 * area(boxes[i]))

    chosen = []
    for i in sorted(range(len(boxes)), key=lambda i: (cut(i), -scores[i])):
        if not any(labels[i] == labels[j] and loses(i, j) for j in chosen):
            chosen.append(i)
    return sorted(chosen, key=lambda i: -scores[i])


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_rule_pair_by_pair(seed):
    random = np.random.default_rng(seed)
    tiles = [*cut_windows(100, 150, (60, 60), 0.25), (0, 0, 150, 100)]
    sources = random.integers(0, len(tiles), 120)
    corners = np.array(tiles, float)[sources]
    ends = np.sort(random.random((120, 2, 2)) * 1.3 - 0.15, 2).clip(0, 1)  # many touch their tile's border
    sides = corners[:, 2:] - corners[:, :2]
    boxes = np.hstack((corners[:, :2] + ends[:, :, 0] * sides, corners[:, :2] + ends[:, :, 1] * sides))
    scores, labels = random.random(120), random.integers(0, 2, 120)
    answer = merge_tiles(boxes, scores, labels, sources, tiles, 100, 150)
    assert list(answer) == slow(boxes, scores, labels, sources, tiles, 100, 150)
    assert 5 < len(answer) < 115


def test_nothing_found():
    assert merge_tiles([], [], [], [], TILES, HEIGHT, WIDTH).shape == (0,)
