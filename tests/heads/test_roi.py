import math

import pytest
import torch
from torchvision.ops import roi_align

from featherbone.exporters.concerns import operators
from featherbone.heads.levels import Level
from featherbone.heads.roi import align, align_all, crop_masks
from featherbone.ops.boxes import Target

LEVELS = [Level(3, 4), Level(3, 8), Level(3, 16), Level(3, 32)]
SIZE = 640


def draw_maps(batch, levels=LEVELS):
    return [torch.randn(batch, 3, round(SIZE / stride), round(SIZE / stride)) for _, stride in levels]


def draw_boxes(count):
    """Boxes of all levels, the first at the limits between them, and an empty one."""
    corners = torch.rand(count, 2) * 200
    sides = torch.cat((torch.tensor([56.0, 112, 224, 448]), 2 ** (torch.rand(count - 4) * 5 + 4)))
    boxes = torch.cat((corners, corners + sides[:, None]), 1)
    boxes[:4] = boxes[:4].round()
    return torch.cat((boxes, boxes.new_zeros(1, 4)))


def slow(maps, levels, boxes, cells):
    parts = []
    for image, rows in enumerate(boxes):
        for box in rows:
            side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            octave = math.floor(4 + math.log2(side / 224)) if side else -math.inf
            index = min(range(4), key=lambda i: abs(levels[i].octave - max(min(octave, 9), -9)))
            roi = torch.cat((torch.tensor([image]), box))[None]
            parts.append(roi_align(maps[index], roi, cells, 1 / levels[index].stride, 0, True))
    return torch.cat(parts)


@pytest.mark.parametrize("scale", [1, 14 / 16])
@pytest.mark.parametrize("form", [align, align_all])
def test_each_box_is_read_from_the_level_of_its_size(form, scale):
    torch.manual_seed(0)
    levels = [Level(channels, stride * scale) for channels, stride in LEVELS]
    maps, boxes = draw_maps(2, levels), [draw_boxes(40), draw_boxes(7)]
    expected = slow(maps, levels, boxes, 7)
    assert expected.flatten(1).any(1).sum() == 47  # all but the empty ones
    torch.testing.assert_close(form(maps, levels, boxes, 7), expected)


def test_gradients_of_both_forms_are_equal():
    maps, boxes = [x.requires_grad_() for x in draw_maps(2)], [draw_boxes(20), draw_boxes(5)]
    grads = []
    for form in (align, align_all):
        grads.append(torch.autograd.grad(form(maps, LEVELS, boxes, 7).square().sum(), maps))
    for ours, other in zip(*grads, strict=True):
        assert ours.any()
        torch.testing.assert_close(ours, other)


def test_no_boxes_are_nothing():
    maps = [x.requires_grad_() for x in draw_maps(2)]
    pooled = align(maps, LEVELS, [torch.zeros(0, 4)] * 2, 7)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()


def test_half_precision_keeps_the_boxes():
    maps, boxes = draw_maps(1), [draw_boxes(20) + 0.3]
    pooled = align([x.bfloat16() for x in maps], LEVELS, boxes, 7)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), align(maps, LEVELS, boxes, 7), rtol=1e-2, atol=2e-2)


def test_cropped_masks_are_the_masks_in_the_boxes():
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 10:30, 20:40] = True
    masks[1, ::2] = True
    target = Target(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), masks)
    boxes = torch.tensor([[20.0, 10, 40, 30], [10, 0, 30, 40], [0, 0, 28, 28], [50, 50, 60, 60]])
    whole, part, rows, none = crop_masks(target, torch.tensor([0, 0, 1, 0]), boxes, 28)
    assert whole.all() and not none.any()
    assert torch.equal(rows, masks[1, :28, :28].float())  # a cell for each pixel
    expected = torch.zeros(28, 28)
    expected[7:21, 14:] = 1  # the pixels' centres between 10 / 40 and 30 / 40, and from 1 / 2 on
    assert torch.equal(part, expected)
    assert crop_masks(target, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 28).shape == (0, 28, 28)
    with pytest.raises(ValueError, match="no masks"):
        crop_masks(target._replace(masks=None), torch.tensor([0]), boxes[:1], 28)


def test_an_export_holds_no_zeros_the_size_of_all_boxes():
    """Runtimes make a constant of them, which doubled OpenVINO's files."""

    class Net(torch.nn.Module):
        def forward(self, maps, boxes):
            return align_all(maps, LEVELS, [boxes], 7)

    maps = [torch.randn(1, level.channels, 256 // level.stride, 256 // level.stride) for level in LEVELS]
    program = torch.export.export(Net(), (maps, torch.tensor([[8.0, 8, 120, 90], [0, 0, 30, 30]])), strict=False)
    assert not [name for name in operators(program) if "zeros" in name or "full" in name]
