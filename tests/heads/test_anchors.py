from itertools import product

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from featherbone.heads.anchors import IGNORED, NEGATIVE, base_anchors, grid_anchors, match


def boxes_of(count, side, seed=0):
    """Boxes (n, 4) of every size within `side` pixels."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=draw, dtype=torch.float64).sort(1).values * side
    return corners.flatten(1)


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def match_plain(objects, anchors, positive, negative, best):
    """Anchor by anchor."""
    table = [[iou(box, anchor) for box in objects.tolist()] for anchor in anchors.tolist()]
    tops = [max(column) for column in zip(*table, strict=True)]
    matched = []
    for row in table:
        nearest = max(range(len(row)), key=row.__getitem__)
        is_best = any(value > 0 and value == top for value, top in zip(row, tops, strict=True))
        if row[nearest] >= positive or (best and is_best):
            matched.append(nearest)
        else:
            matched.append(NEGATIVE if row[nearest] < negative else IGNORED)
    return torch.tensor(matched)


def test_base_anchors_have_their_area_and_ratio_with_ratios_outside():
    sizes, ratios = (32, 40.3, 7), (0.5, 1, 2)
    anchors = base_anchors(sizes, ratios)
    width, height = (anchors[:, 2:] - anchors[:, :2]).T
    expected = torch.tensor([(ratio, size) for ratio in ratios for size in sizes])
    torch.testing.assert_close(torch.stack((height / width, (height * width) ** 0.5), 1), expected)
    torch.testing.assert_close(anchors[:, :2], -anchors[:, 2:])


def test_grid_goes_row_by_row_from_the_corner():
    base = base_anchors((3, 5), (1, 2, 3))
    rows = [base + torch.tensor([x, y, x, y]) * 3.5 for y, x in product(range(2), range(3))]
    torch.testing.assert_close(grid_anchors(base, 2, 3, 3.5), torch.cat(rows))


def test_equals_torchvision_without_its_rounding(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "round", lambda x: x)
    sizes, ratios, strides = ((32, 40.3), (64, 80.6)), (0.5, 1.0, 2.0), (8, 16)
    maps = [torch.zeros(1, 1, 128 // stride, 64 // stride) for stride in strides]
    theirs = AnchorGenerator(sizes, (ratios,) * 2)(ImageList(torch.zeros(1, 3, 128, 64), [(128, 64)]), maps)
    ours = [grid_anchors(base_anchors(s, ratios), 128 // t, 64 // t, t) for s, t in zip(sizes, strides, strict=True)]
    torch.testing.assert_close(torch.cat(ours), theirs[0])


@pytest.mark.parametrize("best", [True, False])
@pytest.mark.parametrize(("positive", "negative"), [(0.5, 0.4), (0.7, 0.3), (0.5, 0.5)])
@pytest.mark.parametrize("count", [1, 9])
def test_match_equals_its_plain_form(count, positive, negative, best):
    objects = boxes_of(count, 100)
    anchors = grid_anchors(base_anchors((20, 40), (0.5, 1, 2)), 8, 8, 12).double()
    matched = match(objects, anchors, positive, negative, best)
    assert torch.equal(matched, match_plain(objects, anchors, positive, negative, best))
    assert {NEGATIVE, IGNORED} <= set(matched.tolist()) or positive == negative


def test_thresholds_are_in_the_upper_side():
    objects = torch.tensor([[0.0, 0, 10, 10]])
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [0, 0, 10, 2.5], [0, 0, 10, 2.4]])
    assert match(objects, anchors, 0.5, 0.25).tolist() == [0, 0, IGNORED, IGNORED, NEGATIVE]


def test_an_object_that_no_anchor_suits_takes_its_best_ones():
    objects = torch.tensor([[0.0, 0, 100, 100], [40, 40, 42, 42]])
    anchors = torch.tensor([[0.0, 0, 100, 100], [38, 38, 44, 44], [38, 38, 44, 44], [60, 60, 66, 66]])
    assert match(objects, anchors, 0.5, 0.4).tolist() == [0, 1, 1, NEGATIVE]  # equals share it
    assert match(objects, anchors, 0.5, 0.4, best=False).tolist() == [0, NEGATIVE, NEGATIVE, NEGATIVE]


def test_an_object_beyond_all_anchors_takes_none():
    objects = torch.tensor([[500.0, 500, 510, 510]])
    anchors = grid_anchors(base_anchors((8,), (1,)), 4, 4, 8)
    assert match(objects, anchors, 0.5, 0.4).tolist() == [NEGATIVE] * 16


def test_without_objects_all_anchors_are_negative():
    anchors = grid_anchors(base_anchors((8,), (1,)), 4, 4, 8)
    matched = match(torch.zeros(0, 4), anchors, 0.5, 0.4)
    assert matched.dtype == torch.int64 and matched.tolist() == [NEGATIVE] * 16
