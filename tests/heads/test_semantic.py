"""SegFormer's head and Semantic FPN, against plain slow forms of their papers' figures."""

import pytest
import torch
from torch.nn import functional as F

from featherbone.heads.levels import Level
from featherbone.heads.segformer import SegFormer
from featherbone.heads.semantic_fpn import SemanticBranch, SemanticFPN
from registered import randomise

K = 5
PYRAMID = [Level(6, 4), Level(8, 8), Level(10, 16), Level(12, 32)]
PYRAMIDS = {"four": PYRAMID, "coarse": PYRAMID[1:], "plain": [Level(8, 16)], "odd": [Level(8, 14)]}
HEADS = {"segformer": lambda p: SegFormer(p, K, 16), "semantic_fpn": lambda p: SemanticFPN(p, K, 16, 8)}


def draw(pyramid, height, width, batch=2):
    torch.manual_seed(0)
    return [torch.randn(batch, c, -(-height // round(s)), -(-width // round(s))) for c, s in pyramid]


def double(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def resize(x, to):
    return F.interpolate(x, size=to.shape[-2:], mode="bilinear", align_corners=False)


def test_segformer_is_its_formula():
    head, maps = randomise(SegFormer(PYRAMID, K, 16)).eval(), draw(PYRAMID, 70, 90)
    same = [resize(linear(x), maps[0]) for linear, x in zip(head.projections, maps, strict=True)]
    mixed = torch.cat([same[3], same[2], same[1], same[0]], 1)  # the paper's order: coarsest first
    norm = head.mix[1]
    mixed = F.batch_norm(
        F.conv2d(mixed, head.mix[0].weight), norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    torch.testing.assert_close(head(maps, (70, 90)), head.classify(mixed.relu()))


def test_semantic_fpn_is_its_formula():
    head, maps = randomise(SemanticFPN(PYRAMID, K, 16, 8)).eval(), draw(PYRAMID, 70, 90)
    levels = head.fpn(maps)
    step = head.branch.paths
    one = step[0][0](levels[0])
    two = resize(double(step[1][0](levels[1])), levels[0])
    three = resize(double(step[2][1](double(step[2][0](levels[2])))), levels[0])
    four = double(step[3][1](double(step[3][0](levels[3]))))
    four = resize(double(step[3][2](four)), levels[0])
    torch.testing.assert_close(head(maps, (70, 90)), head.branch.classify(one + two + three + four))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_any_pyramid_gives_logits_at_about_stride_four(head, pyramid):
    levels = PYRAMIDS[pyramid]
    net, maps = HEADS[head](levels).eval(), draw(levels, 96, 64)
    out = net(maps, (96, 64))
    stride = levels[0].stride / 2 ** (levels[0].octave - 2)
    rows = maps[0].shape[2] * round(levels[0].stride / stride)
    assert out.shape[:2] == (2, K) and out.shape[2] == rows


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_equals_its_images(head):
    net, maps = randomise(HEADS[head](PYRAMID)).eval(), draw(PYRAMID, 64, 96)
    singles = [net([x[i : i + 1] for x in maps], (64, 96)) for i in range(2)]
    torch.testing.assert_close(net(maps, (64, 96)), torch.cat(singles))


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_learns(head):
    net, maps = HEADS[head](PYRAMID), draw(PYRAMID, 64, 64)
    net(maps, (64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_groups_need_a_width_they_divide():
    with pytest.raises(ValueError, match="not a multiple of 4"):
        SemanticBranch(PYRAMID, K, 6, "group")
