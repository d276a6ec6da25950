"""Assignment and losses of one-stage detectors, against slow plain forms."""

from itertools import product
from math import ceil, exp, floor, log

import pytest
import torch

from featherbone.heads.task_aligned import (
    EXPONENT,
    Assignment,
    Cells,
    assign,
    distribution_focal_loss,
    quality_focal_loss,
    weighted_mean,
)
from featherbone.ops.boxes import Target

CLASSES = 3
STRIDES = (8, 16)


def cells_of(height, width):
    """The cells of an image at two strides, float64."""
    maps = [torch.zeros(1, 1, ceil(height / stride), ceil(width / stride)) for stride in STRIDES]
    return Cells(*(x.double() for x in Cells.of(maps, STRIDES)))


def draw(count, height, width):
    """Scores and boxes of all cells, which contain their centres, those centres, and objects of all sizes.

    No centre is inside the box of the first object.
    """
    cells = cells_of(height, width)
    sides = torch.rand(len(cells.points), 4).double() * 5 + 0.1
    scores = torch.rand(len(cells.points), CLASSES).double()
    corners = torch.rand(count, 2, 2).double().sort(1).values * torch.tensor([width - 1.0, height - 1]).double()
    boxes = (corners + torch.tensor([[0.0, 0], [1, 1]]).double()).flatten(1)
    boxes[0] = cells.points[7].repeat(2) + torch.tensor([1.0, 1, 3, 3]).double()
    target = Target(boxes, torch.randint(CLASSES, (count,)))
    return scores, cells.boxes(sides, torch.arange(len(sides))), cells.points, target


def iou(a, b):
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def plain_assign(scores, boxes, points, target, top):
    """The object and the quality of each positive cell, computed one by one, and how often each rule applied."""
    wanted, labels, boxes = target.boxes.tolist(), target.labels.tolist(), boxes.tolist()
    applied = dict.fromkeys(("no centre inside", "more than chosen", "conflict", "second choice"), 0)

    def overlap(i, cell):
        return iou(wanted[i], boxes[cell])

    def alignment(i, cell):
        return scores[cell][labels[i]].item() * overlap(i, cell) ** EXPONENT

    claims, allowed = {}, []
    for i, (x1, y1, x2, y2) in enumerate(wanted):
        margins = [min(x - x1, y - y1, x2 - x, y2 - y) for x, y in points.tolist()]
        inside = [cell for cell, margin in enumerate(margins) if margin > 0]
        applied["no centre inside"] += not inside
        inside = inside or [margins.index(max(margins))]
        allowed.append(inside)
        applied["more than chosen"] += len(inside) > top
        for cell in sorted(inside, key=lambda cell: -alignment(i, cell))[:top]:
            claims.setdefault(cell, []).append(i)
    applied["conflict"] = sum(len(objects) > 1 for objects in claims.values())
    owners = {cell: max(claims[cell], key=lambda i: alignment(i, cell)) for cell in sorted(claims)}
    for i in sorted(set(range(len(wanted))) - set(owners.values())):
        if left := [cell for cell in allowed[i] if cell not in owners]:
            owners[max(left, key=lambda cell: alignment(i, cell))] = i
            applied["second choice"] += 1
    qualities = []
    for cell, i in sorted(owners.items()):
        own = [other for other, owner in owners.items() if owner == i]
        highest, reach = (max(measure(i, other) for other in own) for measure in (alignment, overlap))
        qualities.append(alignment(i, cell) / highest * reach)
    return owners, qualities, applied


@pytest.mark.parametrize("top", [1, 4, 10**6])
@pytest.mark.parametrize("size", [(96, 128), (50, 33)])
def test_assignment_equals_the_plain_one(size, top):
    torch.manual_seed(0)
    scores, boxes, points, target = draw(40, *size)
    assigned = assign(scores, boxes, points, target, top)
    owners, qualities, applied = plain_assign(scores, boxes, points, target, top)
    assert dict(zip(assigned.cells.tolist(), assigned.objects.tolist(), strict=True)) == owners
    torch.testing.assert_close(assigned.quality, torch.tensor(qualities).double())
    assert applied["no centre inside"] and applied["conflict"], applied
    assert applied["second choice"] or top > 1, applied
    assert bool(applied["more than chosen"]) == (top < 10**6)


def test_the_quality_of_an_objects_best_cell_is_its_highest_iou():
    torch.manual_seed(0)
    scores, boxes, points, target = draw(12, 96, 128)
    cells, objects, weight, quality = assign(scores, boxes, points, target, 9)
    assert quality.sum() > 1
    for i in objects.unique():
        own = objects == i
        overlaps = [iou(target.boxes[i].tolist(), box) for box in boxes[cells[own]].tolist()]
        assert quality[own].max().item() == pytest.approx(max(overlaps)) and weight[own].max() == 1
        torch.testing.assert_close(quality[own], weight[own] * max(overlaps))


def test_equal_objects_have_different_cells():
    """Neither is trained as background."""
    torch.manual_seed(0)
    scores, boxes, points, _ = draw(1, 96, 128)
    target = Target(torch.tensor([[10.0, 20, 90, 70]] * 3).double(), torch.tensor([1] * 3))
    cells, objects, *_ = assign(scores, boxes, points, target, 1)
    assert sorted(objects.tolist()) == [0, 1, 2] and len(cells.unique()) == 3
    best = assign(scores, boxes, points, Target(target.boxes[:1], target.labels[:1]), 3).cells
    assert torch.equal(cells, best)


def test_cells_that_all_tie_are_assigned_once():
    """Before training all scores may be equal."""
    _, _, points, target = draw(6, 96, 128)
    boxes = torch.cat((points, points), 1) + torch.tensor([-6.0, -6, 6, 6]).double()
    cells, objects, _, quality = assign(torch.full((len(points), CLASSES), 0.01).double(), boxes, points, target, 3)
    assert len(cells) == len(cells.unique()) and quality.isfinite().all() and (quality <= 1).all()
    assert (objects.bincount(minlength=6) <= 3).all()


def test_a_small_box_without_a_centre_inside_takes_the_nearest_cell():
    cells = cells_of(64, 64)
    target = Target(torch.tensor([[33.0, 17, 35, 19]]).double(), torch.tensor([1]))  # nearest centre: 36, 20
    scores = torch.full((len(cells.points), CLASSES), 0.5).double()
    boxes = cells.boxes(torch.ones(len(scores), 4).double(), torch.arange(len(scores)))
    chosen, objects, _, quality = assign(scores, boxes, cells.points, target, 13)
    assert cells.points[chosen].tolist() == [[36, 20]] and objects.tolist() == [0]
    assert quality.item() == pytest.approx(4 / 256)


def test_nothing_is_assigned_without_objects():
    scores, boxes, points, _ = draw(1, 96, 128)
    target = Target(torch.zeros(0, 4).double(), torch.zeros(0, dtype=torch.int64))
    assigned = assign(scores, boxes, points, target, 13)
    assert [len(x) for x in assigned] == [0, 0, 0, 0]
    assert quality_focal_loss(scores, target.labels, assigned) > 0


def test_cells_are_the_centres_of_all_levels():
    cells = cells_of(50, 33)
    expected = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for stride in STRIDES
        for row, column in product(range(ceil(50 / stride)), range(ceil(33 / stride)))
    ]
    assert [(*point, stride) for point, stride in zip(cells.points.tolist(), cells.strides.tolist(), strict=True)] == (
        expected
    )


def test_distances_invert_boxes():
    torch.manual_seed(0)
    cells = cells_of(96, 128)
    chosen = torch.randint(len(cells.points), (3, 20))
    distances = torch.randn(3, 20, 4).double() * 4
    boxes = cells.boxes(distances, chosen)
    torch.testing.assert_close(cells.distances(boxes, chosen), distances)
    (x, y), stride = cells.points[chosen[1, 2]], cells.strides[chosen[1, 2]]
    left, top, right, bottom = distances[1, 2] * stride
    torch.testing.assert_close(boxes[1, 2], torch.stack((x - left, y - top, x + right, y + bottom)))


def test_quality_focal_loss_is_the_formula():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, CLASSES).double(), torch.tensor([2, 0])
    quality = torch.tensor([0.3, 1, 0]).double()
    assigned = Assignment(torch.tensor([1, 4, 5]), torch.tensor([1, 0, 1]), torch.ones(3), quality)
    wanted = {(1, 0): 0.3, (4, 2): 1.0}
    total = 0.0
    for cell, label in product(range(7), range(CLASSES)):
        score, quality = 1 / (1 + exp(-logits[cell, label])), wanted.get((cell, label), 0.0)
        entropy = -(quality * log(score) + (1 - quality) * log(1 - score))
        total += abs(quality - score) ** 2 * entropy
    assert quality_focal_loss(logits, labels, assigned).item() == pytest.approx(total / 1.3)


def test_a_weighted_mean_of_little_weight_is_small():
    losses = torch.tensor([1.0, 3])
    assert weighted_mean(losses, torch.tensor([1.0, 1])) == 2 and weighted_mean(losses, torch.tensor([0.1, 0])) == 0.1


def test_distribution_focal_loss_is_the_formula():
    torch.manual_seed(0)
    bins = torch.randn(2, 4, 8).double()
    values = torch.tensor([[0.0, 0.25, 3, 6.5], [6.999, -2, 7, 40]]).double()
    losses = distribution_focal_loss(bins, values)
    for place in product(range(2), range(4)):
        value = min(max(values[place].item(), 0), 7 - 1e-3)
        shares = bins[place].softmax(0).log()
        lower = floor(value)
        expected = -((lower + 1 - value) * shares[lower] + (value - lower) * shares[lower + 1])
        assert losses[place].item() == pytest.approx(expected.item())


def test_the_distribution_with_the_smallest_loss_has_the_value_as_its_mean():
    bins = torch.full((8,), -50.0).double()
    bins[2], bins[3] = log(0.3), log(0.7)
    bins.requires_grad_()
    distribution_focal_loss(bins, torch.tensor(2.7).double()).backward()
    torch.testing.assert_close(bins.grad, torch.zeros(8).double(), atol=1e-6, rtol=0)
