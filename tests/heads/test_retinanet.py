"""RetinaNet, against torchvision's head, losses and post-processing with the same weights.

Torchvision's differs, and is told here to do otherwise: its anchors are rounded to whole pixels, and their sizes too;
it finds 300 objects; a side may shrink without a limit. What does not show here: its strides are the image's size
divided by the map's, rounded down, so that at sizes that are no multiple of 128 its anchors lie elsewhere; an object
that no anchor touches makes every anchor that touches none a positive; P6 comes from P5 where the backbone's last map
has as many channels (see test_fpn).
"""

from itertools import product

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead

from detectors import CLASSES, DIM, PYRAMID, draw_maps, draw_target, lively_retinanet, silent_retinanet
from featherbone.heads.levels import Level
from featherbone.heads.retinanet import RetinaDecoder, RetinaNet
from featherbone.ops.boxes import WIDEST
from featherbone.tasks.dense import Pyramid
from registered import on_meta

HEIGHT, WIDTH = 256, 384
SIZES = torch.tensor([[HEIGHT, WIDTH]])
STRIDES = (8, 16, 32, 64, 128)
DECODER = RetinaDecoder(STRIDES)


class Unused(nn.Module):
    """Where torchvision expects a backbone."""

    out_channels = DIM


def theirs_of(head):
    """Torchvision's RetinaNet with the weights of ours, unrounded anchors and 100 detections."""
    copy = RetinaNetHead(DIM, 9, CLASSES)
    for tower, theirs, last in (
        (head.classes, copy.classification_head, "cls_logits"),
        (head.boxes, copy.regression_head, "bbox_reg"),
    ):
        for convolution, block in zip(tower[:-1:2], theirs.conv, strict=True):
            block[0].load_state_dict(convolution.state_dict())
        getattr(theirs, last).load_state_dict(tower[-1].state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "round", lambda x: x)
        sizes = tuple((x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)) for x in (32, 64, 128, 256, 512))
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    return detection.RetinaNet(Unused(), CLASSES, anchor_generator=anchors, head=copy, detections_per_img=100)


def test_losses_and_gradients_equal_torchvisions():
    head = lively_retinanet()
    theirs = theirs_of(head)
    maps = [x.requires_grad_() for x in draw_maps(3, HEIGHT, WIDTH)]
    targets = [draw_target(0, HEIGHT, WIDTH), draw_target(7, HEIGHT, WIDTH), draw_target(1, HEIGHT, WIDTH)]
    levels = head.fpn(maps)
    anchors = theirs.anchor_generator(ImageList(torch.zeros(3, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)] * 3), levels)
    expected = theirs.compute_loss(
        [{"boxes": t.boxes, "labels": t.labels} for t in targets], theirs.head(levels), anchors
    )
    losses = head.losses(head(maps, (HEIGHT, WIDTH)), targets)
    torch.testing.assert_close(losses["class"], expected["classification"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["box"], expected["bbox_regression"], rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(sum(losses.values()), maps, retain_graph=True)
    for x, y in zip(ours, torch.autograd.grad(sum(expected.values()), maps), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_detections_equal_torchvisions():
    head = lively_retinanet()
    theirs = theirs_of(head)
    maps = draw_maps(2, HEIGHT, WIDTH)
    raw, levels = head(maps, (HEIGHT, WIDTH)), head.fpn(maps)
    images = ImageList(torch.zeros(2, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)] * 2)
    counts = [9 * x.shape[2] * x.shape[3] for x in levels]
    outputs = {name: list(x.split(counts, 1)) for name, x in theirs.head(levels).items()}
    for shifts in outputs["bbox_regression"]:
        shifts[..., 2:].clamp_(min=-WIDEST)
    anchors = [list(x.split(counts)) for x in theirs.anchor_generator(images, levels)]
    expected = theirs.postprocess_detections(outputs, anchors, [(HEIGHT, WIDTH)] * 2)
    for found, other in zip(DECODER(raw, SIZES), expected, strict=True):
        assert len(found.boxes) == 100
        assert torch.equal(found.labels, other["labels"])
        torch.testing.assert_close(found.scores, other["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.boxes, other["boxes"], rtol=1e-5, atol=1e-4)


def test_a_channel_is_an_anchor_and_a_class():
    for level, (row, ratio), column, label in product((0, 1), enumerate((0.5, 1, 2)), range(3), (0, CLASSES - 1)):
        raw, stride, (y, x) = silent_retinanet(HEIGHT, WIDTH), 8 * 2**level, (9, 12)
        raw.logits[level][0, (3 * row + column) * CLASSES + label, y, x] = 2.0
        raw.deltas[level][0, (3 * row + column) * 4 + 2, y, x] = 0.1  # dw
        (found,) = DECODER(raw, SIZES)
        assert found.labels.tolist() == [label]
        torch.testing.assert_close(found.scores, torch.tensor([2.0]).sigmoid())
        size = 4 * stride * 2 ** (column / 3)
        half = torch.tensor([size / ratio**0.5 * torch.tensor(0.1).exp(), size * ratio**0.5]) / 2
        centre = torch.tensor([x * stride, y * stride])
        torch.testing.assert_close(found.boxes[0], torch.cat((centre - half, centre + half)))


def test_it_starts_from_the_prior_and_the_anchors():
    head = RetinaNet(PYRAMID, CLASSES, DIM)
    raw = head(draw_maps(1, HEIGHT, WIDTH), (HEIGHT, WIDTH))
    for logits, deltas in zip(*raw, strict=True):
        torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01), rtol=1e-3, atol=0)
        torch.testing.assert_close(deltas, torch.zeros_like(deltas), rtol=0, atol=1e-3)
    weights = torch.cat([convolution.weight.flatten() for convolution in head.classes[::2]])
    assert 0.0098 < weights.std() < 0.0102


def test_anchors_follow_the_strides_of_the_backbone():
    raw = silent_retinanet(HEIGHT, WIDTH)
    raw.logits[0][0, 4 * CLASSES, 9, 12] = 2.0  # the first square anchor
    (found,) = RetinaDecoder(RetinaNet([Level(6, 14)], CLASSES, DIM).strides)(raw, SIZES)  # strides 7, 14, 28 and on
    torch.testing.assert_close(
        found.boxes, torch.tensor([[12 * 7, 9 * 7, 12 * 7, 9 * 7]]) + torch.tensor([-1, -1, 1, 1]) * 14 * 2 ** (1 / 3)
    )


@pytest.mark.parametrize(("name", "millions"), [("lit_tiny", 29.62), ("lit_small", 38.14)])
def test_parameters_of_the_papers_detectors(name, millions):
    pyramid = Pyramid(on_meta(name))
    with torch.device("meta"):
        head = RetinaNet(pyramid.levels, num_classes=80)
    assert round(sum(x.numel() for part in (pyramid, head) for x in part.parameters()) / 1e6, 2) == millions
