import pytest
import torch
from torch.nn import functional as F

from featherbone.heads.levels import Level, Levels

PYRAMIDS = {
    "four": [(8, 4), (12, 8), (16, 16), (20, 32)],
    "coarse": [(12, 8), (16, 16), (20, 32)],
    "fine": [(8, 4)],
    "too coarse": [(20, 32), (24, 64)],
    "gap": [(8, 4), (20, 32)],
    "over the first": [(8, 4), (16, 16)],
    "plain": [(16, 16)],
    "patches of 14": [(16, 14)],
}


def make(pyramid):
    return [Level(*level) for level in PYRAMIDS[pyramid]]


def draw(levels, height, width):
    """Maps of an image of that size."""
    return [torch.randn(2, c, int(height / stride), int(width / stride)) for c, stride in levels]


@pytest.mark.parametrize("finer", [True, False])
@pytest.mark.parametrize(("first", "last"), [(2, 5), (3, 5), (3, 6), (5, 5)])
@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_maps_are_what_levels_say(pyramid, first, last, finer):
    height, width = (448, 224) if pyramid == "patches of 14" else (256, 128)
    levels = Levels(make(pyramid), first, last, finer)
    maps = levels(draw(make(pyramid), height, width))
    octaves = [level.octave for level in levels.levels]
    assert octaves == levels.octaves == list(range(octaves[0], last + 1))  # without gap
    assert octaves[0] == first if finer else octaves[0] >= first
    for (channels, stride), x in zip(levels.levels, maps, strict=True):
        assert x.shape == (2, channels, height / stride, width / stride)


def test_maps_of_the_backbone_pass_unchanged_and_others_are_dropped():
    maps = draw(make("four"), 64, 64)
    levels = Levels(make("four"), 3, 4)
    assert all(out is given for out, given in zip(levels(maps), maps[1:3], strict=True))
    assert not list(levels.parameters())


def test_the_deepest_map_of_an_octave_counts():
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 8, 8)]
    assert Levels([Level(4, 8), Level(6, 8)], 3, 3)(maps)[0] is maps[1]


def test_a_gap_is_filled_from_the_finer_side():
    levels = Levels(make("gap"), 2, 5)
    given = draw(make("gap"), 64, 64)
    maps = levels(given)
    for octave, before, after in (("3", 0, 1), ("4", 1, 2)):
        convolution = levels.coarser[octave]
        expected = F.conv2d(maps[before], convolution.weight, convolution.bias, stride=2, padding=1)
        torch.testing.assert_close(maps[after], expected)
    assert maps[3] is given[1]
    assert not levels.finer


def test_a_map_too_fine_to_be_asked_for_is_still_what_coarser_ones_are_made_from():
    levels = Levels(make("over the first"), 3, 4)
    assert levels.levels == [Level(8, 8), Level(16, 16)]
    assert list(levels.coarser) == ["3"] and not levels.finer


def test_a_finer_map_comes_from_the_next_coarser_one():
    levels = Levels(make("plain"), 2, 4)
    maps = levels(draw(make("plain"), 64, 32))
    for octave, before, after in (("3", 2, 1), ("2", 1, 0)):
        convolution = levels.finer[octave]
        expected = F.conv_transpose2d(maps[before], convolution.weight, convolution.bias, stride=2)
        torch.testing.assert_close(maps[after], expected)


def test_finer_ones_can_be_left_to_the_head():
    levels = Levels(make("plain"), 2, 5, finer=False)
    assert levels.levels == [Level(16, 16), Level(16, 32)]
    assert not levels.finer


def test_a_stride_that_is_no_power_of_two_keeps_its_pixels():
    assert [level.stride for level in Levels(make("patches of 14"), 2, 5).levels] == [3.5, 7, 14, 28]


def test_a_pyramid_that_is_too_coarse_is_refused_until_the_range_reaches_it():
    with pytest.raises(ValueError, match=r"strides \[64\] .* 2\^3 to 2\^5"):
        Levels([Level(8, 64)], 3, 5)
    assert Levels([Level(8, 64)], 3, 6).octaves == [3, 4, 5, 6]
