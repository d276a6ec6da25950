"""FPN, against torchvision's with the same weights.

Theirs takes P6 from P5 instead of the backbone's last map where that has as many channels as P5; here it never has.
"""

from collections import OrderedDict

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from featherbone.heads.fpn import FPN
from featherbone.heads.levels import Level

DIM = 8
PYRAMID = [Level(4, 4), Level(6, 8), Level(10, 16), Level(12, 32)]
EVEN = [(32, 16), (16, 8), (8, 4), (4, 2)]
ODD = [(25, 19), (13, 10), (7, 5), (4, 3)]


def theirs_of(fpn, extra):
    """Torchvision's FPN with the weights of ours."""
    channels = [lateral.in_channels for lateral in fpn.laterals]
    theirs = FeaturePyramidNetwork(channels, DIM, extra)
    for blocks, convolutions in ((theirs.inner_blocks, fpn.laterals), (theirs.layer_blocks, fpn.outputs)):
        for block, convolution in zip(blocks, convolutions, strict=True):
            block[0].load_state_dict(convolution.state_dict())
    for name, convolution in zip(("p6", "p7"), fpn.coarser, strict=False):
        getattr(extra, name).load_state_dict(convolution.state_dict())
    return theirs


def shaken(fpn):
    """With biases that are not zero."""
    for parameter in fpn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return fpn


def draw(levels, sizes):
    return [torch.randn(2, level.channels, *size) for level, size in zip(levels, sizes, strict=True)]


@pytest.mark.parametrize("sizes", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize(
    ("first", "extra", "kind", "theirs"),
    [(2, 1, "pool", LastLevelMaxPool), (3, 2, "conv", lambda: LastLevelP6P7(12, DIM)), (2, 0, "pool", lambda: None)],
    ids=["pool", "conv", "none"],
)
def test_equals_torchvision(first, extra, kind, theirs, sizes):
    fpn = shaken(FPN(PYRAMID, DIM, first, extra=extra, kind=kind))
    maps = draw(PYRAMID, sizes)
    expected = theirs_of(fpn, theirs())(OrderedDict((str(i), x) for i, x in enumerate(maps[first - 2 :])))
    out = fpn(maps)
    assert len(out) == len(fpn.levels) == len(expected)
    for x, y in zip(out, expected.values(), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(("extra", "kind"), [(0, "pool"), (1, "pool"), (3, "conv")])
@pytest.mark.parametrize(
    "pyramid", [PYRAMID, PYRAMID[1:], PYRAMID[:1], [Level(6, 16)], [Level(6, 14)]], ids=lambda x: str(x[0].stride)
)
@pytest.mark.parametrize("first", [2, 3])
def test_maps_are_what_levels_say(first, pyramid, extra, kind):
    height, width = (896, 448) if pyramid[0].stride == 14 else (512, 256)
    fpn = FPN(pyramid, DIM, first, extra=extra, kind=kind)
    assert [level.octave for level in fpn.levels] == list(range(first, 6 + extra))
    out = fpn(draw(pyramid, [(height // level.stride, width // level.stride) for level in pyramid]))
    for (channels, stride), x in zip(fpn.levels, out, strict=True):
        assert x.shape == (2, channels, -(-height // stride), -(-width // stride))


def test_a_finer_level_than_the_backbones_comes_from_the_finest_merged_lateral():
    fpn = shaken(FPN(PYRAMID[1:], DIM, 2))
    coarse = shaken(FPN(PYRAMID[1:], DIM, 3))
    coarse.laterals.load_state_dict(fpn.laterals.state_dict())
    coarse.outputs.load_state_dict(fpn.outputs[1:].state_dict())
    maps = draw(PYRAMID[1:], ODD[1:])
    out = fpn(maps)
    for x, y in zip(out[1:], coarse(maps), strict=True):
        torch.testing.assert_close(x, y)  # nothing else changes
    coarse.outputs[0].load_state_dict({"weight": _identity(), "bias": torch.zeros(DIM)})
    finest = coarse(maps)[0]
    raised = F.conv_transpose2d(finest, fpn.finer[0].weight, fpn.finer[0].bias, stride=2)
    torch.testing.assert_close(out[0], fpn.outputs[0](raised))


def _identity():
    """Weights of a 3x3 convolution that changes nothing."""
    weight = torch.zeros(DIM, DIM, 3, 3)
    weight[range(DIM), range(DIM), 1, 1] = 1
    return weight
