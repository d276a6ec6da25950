"""Masks over boxes land where `grid_sample` on the whole image puts them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from featherbone.ops import rle
from featherbone.ops.paste import paste_masks


def plain(probabilities, boxes, height, width):
    """The whole image's probabilities (n, height, width) in float64."""
    x1, y1, x2, y2 = boxes.double()[:, :, None].unbind(1)
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), -1)
    return F.grid_sample(probabilities.double()[:, None], grid, align_corners=False)[:, 0]


def pasted(*arguments, **options):
    return np.stack([rle.decode(mask) for mask in paste_masks(*arguments, **options)])


@pytest.mark.parametrize(("cells", "height", "width"), [(28, 61, 83), (7, 40, 9), (1, 17, 30), (14, 1, 1)])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.05])
def test_equals_grid_sample(cells, height, width, threshold):
    torch.manual_seed(0)
    sides = torch.tensor((width, height))
    corners = torch.rand(40, 2) * sides * 1.4 - (sides / 2).clamp(max=5)  # many reach out, some are outside
    boxes = torch.cat((corners, corners + torch.rand(40, 2).square() * sides * 1.5 + 0.05), 1)
    probabilities = torch.rand(40, cells, cells)
    expected = plain(probabilities, boxes, height, width) >= threshold
    assert expected.any() and not expected.all()
    assert (pasted(probabilities, boxes, height, width, threshold) == expected.numpy()).all()


def test_run_lengths_are_those_of_the_mask():
    """Also where runs go on from column to column, or begin or end the image: the text is what COCO's coder writes."""
    torch.manual_seed(1)
    boxes = torch.tensor([[0, 0, 9, 7], [-3, -4, 12, 11], [4, 0, 9, 7], [2, -9, 5, 40], [0, 0, 1, 1], [8, 6, 9, 7.0]])
    for probabilities in (torch.ones(6, 4, 4), torch.rand(6, 4, 4)):
        for mask in paste_masks(probabilities, boxes, 7, 9):
            assert mask == rle.encode(rle.decode(mask))
    full = paste_masks(torch.ones(6, 4, 4), boxes, 7, 9)
    assert rle.decode(full[0]).all() and rle.decode(full[1]).all()
    assert list(rle.areas(full)) == [63, 63, 35, 21, 1, 1]


def test_boxes_without_pixels_cover_nothing():
    boxes = [[3, 3, 3, 8], [8, 8, 3, 3], [-20, 2, -4, 8], [2, 50, 8, 60], [4.6, 4.6, 5.4, 5.4]]
    masks = paste_masks(torch.ones(5, 28, 28), torch.tensor(boxes), 10, 10)
    assert list(rle.areas(masks)) == [0] * 5  # the last one holds no pixel's centre
    assert rle.areas(paste_masks(torch.ones(1, 28, 28), torch.tensor([[4.4, 4.4, 4.6, 4.6]]), 10, 10)) == 1
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 10, 10) == []


def test_a_small_object_in_a_vast_image_is_cheap():
    mask = paste_masks(torch.ones(1, 28, 28), torch.tensor([[50_000, 50_000, 50_010, 50_020.0]]), 60_000, 60_000)
    assert list(rle.areas(mask)) == [200]  # 3.6 gigapixels are never made


def test_near_torchvision():
    """It enlarges boxes to whole pixels and by one, so outlines move by up to two pixels; the inside is the same.

    Boxes keep off the image's border, where it rounds towards zero and loses a column.
    """
    torch.manual_seed(2)
    smooth = F.interpolate(torch.rand(20, 1, 4, 4), size=28, mode="bicubic").clamp(0, 1)
    corners = torch.rand(20, 2) * 60 + 3
    boxes = torch.cat((corners, corners + 20 + torch.rand(20, 2) * 60), 1)
    ours = torch.from_numpy(pasted(smooth[:, 0], boxes, 120, 130))
    theirs = (paste_masks_in_image(smooth, boxes, (120, 130)) >= 0.5)[:, 0]
    grown = F.max_pool2d(ours.float()[:, None], 5, 1, 2)[:, 0] > 0
    core = F.max_pool2d(1 - ours.float()[:, None], 5, 1, 2)[:, 0] == 0
    assert not (theirs & ~grown).any() and not (core & ~theirs).any()
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.9


def test_bad_input_says_what_to_do():
    box = torch.tensor([[0, 0, 5, 5.0]])
    with pytest.raises(ValueError, match="above 0"):
        paste_masks(torch.ones(1, 4, 4), box, 9, 9, threshold=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        paste_masks(torch.ones(1, 4, 4), box * float("nan"), 9, 9)
