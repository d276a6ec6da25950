"""Panoptic FPN is Mask R-CNN and a semantic branch on one FPN."""

import pytest
import torch

from featherbone.heads.levels import Level
from featherbone.heads.panoptic_fpn import LightPanopticFPN, PanopticFPN
from featherbone.heads.pixels import PixelLoss
from featherbone.ops.boxes import Target
from featherbone.ops.label_maps import PanopticTarget
from registered import randomise

PYRAMID = [Level(6, 4), Level(8, 8), Level(10, 16), Level(12, 32)]
SIZE = (96, 128)


def built(**more):
    torch.manual_seed(0)
    return randomise(PanopticFPN(PYRAMID, 3, 2, 16, fc_dim=24, branch_dim=8, proposals=50, **more))


def draw():
    torch.manual_seed(1)
    return [torch.randn(2, c, SIZE[0] // round(s), SIZE[1] // round(s)) for c, s in PYRAMID]


def targets():
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[:, 10:50, 20:70] = True
    stuff = torch.ones(SIZE, dtype=torch.int64)
    stuff[masks[0]] = 0
    stuff[80:] = 255
    things = Target(torch.tensor([[20.0, 10, 70, 50]]), torch.tensor([1]), masks)
    return [PanopticTarget(things, stuff)] * 2


def test_losses_are_those_of_both():
    head = built(stuff_weight=0.25).train()
    raw = head(draw(), torch.tensor([SIZE]))
    torch.manual_seed(2)
    terms = head.losses(raw, targets())
    torch.manual_seed(2)
    own = head.things.losses(raw.things, [target.things for target in targets()])
    assert terms.keys() == own.keys() | {"stuff"} and all(terms[name] == own[name] for name in own)
    expected = 0.25 * PixelLoss()(raw.stuff, [target.stuff for target in targets()])["pixel"]
    assert terms["stuff"].item() == pytest.approx(expected.item())
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_what_is_found_is_mask_rcnns():
    head, maps = built().eval(), draw()
    with torch.no_grad():
        raw = head(maps, torch.tensor([SIZE]))
        alone = head.things(maps, torch.tensor([SIZE]))
    assert raw.stuff.shape == (2, 3, SIZE[0] // 4, SIZE[1] // 4)
    for one, other in zip(raw.things, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_the_light_version_is_narrow():
    head = LightPanopticFPN(PYRAMID, 80, 53)
    assert head.things.fpn.levels[0].channels == 96 and head.stuff.classify.weight.shape == (54, 48, 1, 1)
    norms = [m for m in head.stuff.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {12} and len(norms) == 1 + 1 + 2 + 3
    full = PanopticFPN(PYRAMID, 80, 53)
    assert full.stuff.paths[0][0][1].num_groups == 32
