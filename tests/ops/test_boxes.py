from math import exp, log

import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms, box_iou

from featherbone.ops.boxes import WIDEST, clip_boxes, decode_deltas, encode_deltas, keep_nms

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def boxes_of(*shape, side=100.0, dtype=torch.float64, seed=0):
    """Boxes (*shape, 4), a pixel and more wide and high, about the origin."""
    draw = torch.Generator().manual_seed(seed)
    first, sides = torch.rand(2, *shape, 2, generator=draw, dtype=dtype).unbind(0)
    first = (first - 0.5) * side
    return torch.cat((first, first + 1 + sides * side), -1)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_deltas_equal_their_plain_form(weights):
    boxes, anchors = boxes_of(20), boxes_of(20, seed=1)
    rows = []
    for (x1, y1, x2, y2), (ax1, ay1, ax2, ay2) in zip(boxes.tolist(), anchors.tolist(), strict=True):
        width, height = ax2 - ax1, ay2 - ay1
        dx, dy = ((x1 + x2) - (ax1 + ax2)) / 2 / width, ((y1 + y2) - (ay1 + ay2)) / 2 / height
        deltas = dx, dy, log((x2 - x1) / width), log((y2 - y1) / height)
        rows.append([weight * delta for weight, delta in zip(weights, deltas, strict=True)])
    torch.testing.assert_close(encode_deltas(boxes, anchors, weights), torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 7)])
def test_decoding_undoes_encoding(shape, weights):
    boxes, anchors = boxes_of(*shape, side=30.0), boxes_of(*shape, side=30.0, seed=1)
    torch.testing.assert_close(decode_deltas(encode_deltas(boxes, anchors, weights), anchors, weights), boxes)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_side_grows_and_shrinks_only_so_far(weights):
    anchor = torch.tensor([[0.0, 0, 4, 8]])
    far = torch.tensor([[0.0, 0, 50 * weights[2], 50 * weights[3]]])
    box = decode_deltas(far, anchor, weights)
    torch.testing.assert_close(box[:, 2:] - box[:, :2], exp(WIDEST) * torch.tensor([[4.0, 8]]))
    torch.testing.assert_close(box[:, 2:] + box[:, :2], torch.tensor([[4.0, 8]]))
    box = decode_deltas(-far, anchor, weights)
    torch.testing.assert_close(box[:, 2:] - box[:, :2], torch.tensor([[4.0, 8]]) / exp(WIDEST))


def test_boxes_are_clipped_to_height_and_width_of_their_images():
    boxes = torch.tensor([[-5.0, -6, 50, 60], [1, 2, 3, 4], [30, 70, 90, 95]]).expand(2, -1, -1)
    expected = [[[0, 0, 40, 60], [1, 2, 3, 4], [30, 70, 40, 80]], [[0, 0, 50, 3], [1, 2, 3, 3], [30, 3, 60, 3]]]
    sizes = torch.tensor([[80, 40], [3, 60]])
    assert torch.equal(clip_boxes(boxes, sizes), torch.tensor(expected, dtype=torch.float32))
    assert clip_boxes(boxes[:, :0], sizes).shape == (2, 0, 4)


def keep_plain(boxes, scores, threshold, groups):
    """The surest first, one by one."""
    overlap = box_iou(boxes, boxes)
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for i in scores.argsort(descending=True).tolist():
        kept[i] = not (kept & (groups == groups[i]) & (overlap[i] > threshold)).any()
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("num_groups", [1, 3, 80])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_nms_equals_its_plain_form(count, num_groups, threshold):
    boxes, draw = boxes_of(count), torch.Generator().manual_seed(2)
    scores = torch.rand(count, generator=draw, dtype=torch.float64)
    groups = torch.randint(num_groups, (count,), generator=draw)
    kept = keep_nms(boxes, scores, threshold, groups)
    assert kept.dtype == torch.bool
    assert torch.equal(kept, keep_plain(boxes, scores, threshold, groups))
    assert torch.equal(keep_nms(boxes, scores, threshold), keep_plain(boxes, scores, threshold, groups * 0))
    if count > 1:
        assert 0 < kept.sum() and keep_nms(boxes, scores, threshold).sum() < count
        assert torch.equal(kept.nonzero()[:, 0], batched_nms(boxes, scores, groups, threshold).sort().values)


def test_identical_boxes_of_two_groups_both_stay():
    boxes = torch.tensor([[-50.0, -50, -10, -10]]).expand(4, 4)
    scores = torch.tensor([0.2, 0.9, 0.3, 0.1])
    assert keep_nms(boxes, scores, 0.5, torch.tensor([0, 0, 1, 1])).tolist() == [False, True, True, False]


class Survivors(nn.Module):
    def forward(self, boxes, scores, groups):
        kept = keep_nms(boxes, scores, 0.5, groups)
        return scores.where(kept, 0).topk(4).values


@pytest.mark.filterwarnings("ignore:.create_unbacked_symint:FutureWarning")  # of torchvision
def test_what_follows_nms_exports():
    inputs = boxes_of(9, dtype=torch.float32), torch.rand(9), torch.randint(3, (9,))
    exported = torch.export.export(Survivors(), inputs).module()
    others = boxes_of(9, dtype=torch.float32, seed=5), torch.rand(9), torch.randint(3, (9,))
    assert torch.equal(exported(*others), Survivors()(*others))
