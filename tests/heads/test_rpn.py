import pytest
import torch

from featherbone.heads.anchors import IGNORED, NEGATIVE, AnchorRaw
from featherbone.heads.levels import Level
from featherbone.heads.rpn import RPN, is_used, sample

LEVELS = [Level(8, stride) for stride in (4, 8, 16, 32, 64)]


def silent(size=64):
    """Raw maps of one image that propose anchors, all alike."""
    cells = [-(-size // round(level.stride)) for level in LEVELS]
    return AnchorRaw(tuple(torch.zeros(1, 3, n, n) for n in cells), tuple(torch.zeros(1, 12, n, n) for n in cells))


@pytest.mark.parametrize(
    ("positives", "negatives", "drawn"),
    [(30, 100, (8, 24)), (3, 100, (3, 29)), (0, 100, (0, 32)), (30, 5, (8, 5)), (30, 0, (8, 0)), (0, 0, (0, 0))],
)
def test_samples_are_drawn_from_their_kind(positives, negatives, drawn):
    kinds = [torch.arange(positives), torch.full((negatives,), NEGATIVE), torch.full((50,), IGNORED)]
    matched = torch.cat(kinds)[torch.randperm(positives + negatives + 50)]
    positive, negative = sample(matched, 32, 0.25)
    assert (len(positive), len(negative)) == drawn
    assert (matched[positive] >= 0).all() and (matched[negative] == NEGATIVE).all()
    assert len(positive.unique()) == drawn[0] and len(negative.unique()) == drawn[1]


def test_every_anchor_is_drawn_as_often():
    torch.manual_seed(0)
    matched = torch.full((40,), NEGATIVE)
    counts = sum(torch.bincount(sample(matched, 10, 0.5)[1], minlength=40) for _ in range(2000))
    assert counts.min() > 400 and counts.max() < 600  # 500, and five standard deviations


@pytest.mark.parametrize(("level", "stride"), list(enumerate((4, 8, 16, 32, 64))))
def test_proposals_are_anchors_moved(level, stride):
    for row, ratio in enumerate((0.5, 1, 2)):
        raw = silent(128)
        raw.logits[level][0, row, 1, 0] = 9.0
        raw.deltas[level][0, 4 * row, 1, 0] = 0.1  # dx
        best = RPN(LEVELS).propose(raw, torch.tensor([[1000, 1000]]))[0, 0]
        w, h = 8 * stride / ratio**0.5, 8 * stride * ratio**0.5
        expected = torch.tensor([0.1 * w - w / 2, stride - h / 2, 0.1 * w + w / 2, stride + h / 2])
        torch.testing.assert_close(best, expected.clamp(min=0))


def test_proposals_are_within_the_image_and_filled_up():
    torch.manual_seed(0)
    raw = AnchorRaw(*(tuple(torch.randn_like(x) for x in part) for part in silent()))
    (boxes,) = RPN(LEVELS, limit=3000).eval().propose(raw, torch.tensor([[64, 50]]))
    count = int(is_used(boxes).sum())
    assert boxes.shape == (3000, 4) and 100 < count < 2000
    assert (boxes[:count, 2:] >= boxes[:count, :2]).all() and (boxes[count:] == -1).all()
    assert boxes[:count].min() == 0 and boxes[:, [0, 2]].max() == 50 and boxes[:, [1, 3]].max() == 64
    (fewer,) = RPN(LEVELS, limit=50).eval().propose(raw, torch.tensor([[64, 50]]))
    assert torch.equal(fewer, boxes[:50])


def test_training_reads_more_anchors():
    torch.manual_seed(0)
    raw = AnchorRaw(*(tuple(torch.randn_like(x) for x in part) for part in silent()))
    rpn = RPN(LEVELS, candidates=(60, 40), nms=1.0, limit=1000)
    counts = [int(is_used(rpn.train(mode).propose(raw, torch.tensor([[999, 999]]))).sum()) for mode in (True, False)]
    cells = [3 * x.shape[2] ** 2 for x in raw.logits]
    inside = [sum(min(n, limit) for n in cells) for limit in (60, 40)]
    assert all(0.5 * limit < count <= limit for count, limit in zip(counts, inside, strict=True))
    assert counts[0] > counts[1]
