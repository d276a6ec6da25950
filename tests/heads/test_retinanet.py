"""RetinaNet, against torchvision's head, losses and post-processing with the same weights.

Torchvision's differs, and is told here to do otherwise: its anchors are rounded to whole pixels, and their sizes too;
it finds 300 objects; it clips boxes to the image, which ours does not know, before NMS (here it gets the size that ours
clips to). What does not show here: its strides are the image's size divided by the map's, rounded down, so that at
sizes that are no multiple of 128 its anchors lie elsewhere; an object that no anchor touches makes every anchor that
touches none a positive; P6 comes from P5 where the backbone's last map has as many channels (see test_fpn).
"""

from itertools import product

import pytest
import timm
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead

from featherbone.heads.anchors import AnchorRaw
from featherbone.heads.levels import Level
from featherbone.heads.retinanet import RetinaDecoder, RetinaNet
from featherbone.ops.boxes import Target
from featherbone.tasks.dense import Pyramid
from registered import on_meta

HEIGHT, WIDTH, DIM, CLASSES = 256, 384, 16, 5
PYRAMID = [Level(6, 8), Level(10, 16), Level(12, 32)]
STRIDES = (8, 16, 32, 64, 128)
DECODER = RetinaDecoder(STRIDES)


def draw_maps(batch, height=HEIGHT, width=WIDTH):
    return [torch.randn(batch, c, -(-height // stride), -(-width // stride)) for c, stride in PYRAMID]


def draw_target(count):
    """Objects of all sizes, the first too small for any anchor to reach an IoU of 0.4."""
    corners = (torch.rand(count, 2, 2).sort(1).values * torch.tensor([WIDTH, HEIGHT])).flatten(1)
    corners[:1, 2:] = corners[:1, :2] + 5
    return Target(corners, torch.randint(CLASSES, (count,)))


def lively():
    """A head that finds a lot before it has learned anything."""
    torch.manual_seed(0)
    head = RetinaNet(PYRAMID, CLASSES, DIM)
    for tower in (head.classes, head.boxes):
        for convolution in tower[::2]:
            nn.init.normal_(convolution.weight, std=0.12)
            convolution.bias.data += torch.randn_like(convolution.bias) * 0.1
    head.classes[-1].bias.data += 1
    return head


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
    head = lively()
    theirs = theirs_of(head)
    maps = [x.requires_grad_() for x in draw_maps(3)]
    targets = [draw_target(0), draw_target(7), draw_target(1)]
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
    head = lively()
    theirs = theirs_of(head)
    maps = draw_maps(2)
    raw, levels = head(maps, (HEIGHT, WIDTH)), head.fpn(maps)
    images = ImageList(torch.zeros(2, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)] * 2)
    counts = [9 * x.shape[2] * x.shape[3] for x in levels]
    outputs = {name: list(x.split(counts, 1)) for name, x in theirs.head(levels).items()}
    anchors = [list(x.split(counts)) for x in theirs.anchor_generator(images, levels)]
    expected = theirs.postprocess_detections(outputs, anchors, [(HEIGHT + 8, WIDTH + 8)] * 2)
    for found, other in zip(DECODER(raw), expected, strict=True):
        assert len(found.boxes) == 100
        assert torch.equal(found.labels, other["labels"])
        torch.testing.assert_close(found.scores, other["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.boxes, other["boxes"], rtol=1e-5, atol=1e-4)


def silent(height=HEIGHT, width=WIDTH):
    """Raw maps of one image in which nothing is found, and whose boxes are the anchors."""
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64, 128)]
    return AnchorRaw(
        tuple(torch.full((1, 9 * CLASSES, *size), -20.0) for size in sizes),
        tuple(torch.zeros(1, 36, *size) for size in sizes),
    )


def test_a_channel_is_an_anchor_and_a_class():
    for level, (row, ratio), column, label in product((0, 1), enumerate((0.5, 1, 2)), range(3), (0, CLASSES - 1)):
        raw, stride, (y, x) = silent(), 8 * 2**level, (9, 12)
        raw.logits[level][0, (3 * row + column) * CLASSES + label, y, x] = 2.0
        raw.deltas[level][0, (3 * row + column) * 4 + 2, y, x] = 0.1  # dw
        (found,) = DECODER(raw)
        assert found.labels.tolist() == [label]
        torch.testing.assert_close(found.scores, torch.tensor([2.0]).sigmoid())
        size = 4 * stride * 2 ** (column / 3)
        half = torch.tensor([size / ratio**0.5 * torch.tensor(0.1).exp(), size * ratio**0.5]) / 2
        centre = torch.tensor([x * stride, y * stride])
        torch.testing.assert_close(found.boxes[0], torch.cat((centre - half, centre + half)))


def test_find_keeps_to_its_limits():
    raw = lively()(draw_maps(1), (HEIGHT, WIDTH))

    def scores(score=None, **options):
        (found,) = RetinaDecoder(STRIDES, **options)(raw, score)
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        return found.scores

    everything = scores(limit=10**6)
    assert len(everything) > 200 and everything.min() > 0.05
    assert torch.equal(scores(), everything[:100])
    assert torch.equal(scores(limit=7), everything[:7])
    limit = (everything[49] + everything[50]).item() / 2
    assert torch.equal(scores(limit), everything[:50]) and torch.equal(scores(score=limit), everything[:50])
    assert len(scores(limit=10**6, nms=0.1)) < len(everything) < len(scores(limit=10**6, nms=0.9))
    assert len(scores(0.0, limit=10**6, nms=1.0, candidates=5)) == 25


def test_nothing_is_found_where_nothing_is():
    (found,) = DECODER(silent())
    assert [x.shape for x in found[:3]] == [(0, 4), (0,), (0,)]
    assert found.labels.dtype == torch.int64


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 52), (40, 33)])
def test_a_batch_equals_its_images(height, width):
    head = lively()
    maps = draw_maps(3, height, width)
    targets = [draw_target(4), draw_target(0), draw_target(2)]
    raw = head(maps, (height, width))
    singles = [AnchorRaw(*(tuple(x[i : i + 1] for x in part) for part in raw)) for i in range(3)]
    for one, many in zip([DECODER(single)[0] for single in singles], DECODER(raw), strict=True):
        assert len(many.boxes)
        assert all(torch.equal(x, y) for x, y in zip(one[:3], many[:3], strict=True))
    each = [head.losses(single, [target]) for single, target in zip(singles, targets, strict=True)]
    for name, term in head.losses(raw, targets).items():
        torch.testing.assert_close(term, torch.stack([losses[name] for losses in each]).mean())


def test_images_without_objects_reach_every_weight():
    head = lively()
    losses = head.losses(head(draw_maps(2, 64, 64), (64, 64)), [draw_target(0)] * 2)
    assert losses["box"] == 0 < losses["class"]
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_half_precision_is_computed_in_full():
    head = lively()
    half = AnchorRaw(*(tuple(x.bfloat16() for x in part) for part in head(draw_maps(1), (HEIGHT, WIDTH))))
    full = AnchorRaw(*(tuple(x.float() for x in part) for part in half))
    target = draw_target(5)
    for x, y in zip(head.losses(half, [target]).values(), head.losses(full, [target]).values(), strict=True):
        assert x.dtype == torch.float32 and torch.equal(x, y)
    assert all(torch.equal(x, y) for x, y in zip(DECODER(half)[0][:3], DECODER(full)[0][:3], strict=True))


def test_it_starts_from_the_prior_and_the_anchors():
    head = RetinaNet(PYRAMID, CLASSES, DIM)
    raw = head(draw_maps(1), (HEIGHT, WIDTH))
    for logits, deltas in zip(*raw, strict=True):
        torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01), rtol=1e-3, atol=0)
        torch.testing.assert_close(deltas, torch.zeros_like(deltas), rtol=0, atol=1e-3)
    weights = torch.cat([convolution.weight.flatten() for convolution in head.classes[::2]])
    assert 0.0098 < weights.std() < 0.0102


def test_anchors_follow_the_strides_of_the_backbone():
    raw = silent()
    raw.logits[0][0, 4 * CLASSES, 9, 12] = 2.0  # the first square anchor
    (found,) = RetinaDecoder(RetinaNet([Level(6, 14)], CLASSES, DIM).strides)(raw)  # strides 7, 14, 28 and on
    torch.testing.assert_close(
        found.boxes, torch.tensor([[12 * 7, 9 * 7, 12 * 7, 9 * 7]]) + torch.tensor([-1, -1, 1, 1]) * 14 * 2 ** (1 / 3)
    )


@pytest.mark.parametrize(("name", "millions"), [("lit_tiny", 29.62), ("lit_small", 38.14)])
def test_parameters_of_the_papers_detectors(name, millions):
    pyramid = Pyramid(on_meta(name))
    with torch.device("meta"):
        head = RetinaNet(pyramid.levels, num_classes=80)
    assert round(sum(x.numel() for part in (pyramid, head) for x in part.parameters()) / 1e6, 2) == millions


class Detector(nn.Module):
    def __init__(self, pyramid, head):
        super().__init__()
        self.pyramid, self.head = pyramid, head

    def forward(self, images):
        return self.head(self.pyramid(images), images.shape[2:])


def test_export_equals_the_model():
    pyramid = Pyramid(timm.create_model("mobilenetv3_small_050"))
    model = Detector(pyramid, RetinaNet(pyramid.levels, CLASSES, DIM, num_convs=1)).eval()
    images = torch.randn(2, 3, 72, 64)
    exported = torch.export.export(model, (images,)).module()
    raw, expected = exported(images + 1), model(images + 1)
    assert isinstance(raw, AnchorRaw)
    for parts in zip(raw, expected, strict=True):
        for x, y in zip(*parts, strict=True):
            torch.testing.assert_close(x, y)


def test_it_learns_the_objects_of_an_image():
    torch.manual_seed(0)
    boxes = torch.tensor([[10.0, 12, 50, 60], [70, 20, 120, 50], [30, 80, 100, 125]])
    labels = torch.tensor([0, 1, 2])
    image = torch.zeros(1, 3, 128, 128)
    for (x1, y1, x2, y2), label in zip(boxes.int().tolist(), labels, strict=True):
        image[0, label, y1:y2, x1:x2] = 1
    stem = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.ReLU())
    stages = nn.ModuleList(nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()) for _ in range(2))
    head = RetinaNet([Level(32, 8), Level(32, 16), Level(32, 32)], num_classes=3, dim=32, num_convs=2)
    optimiser = torch.optim.Adam([*stem.parameters(), *stages.parameters(), *head.parameters()], lr=4e-3)

    def raw():
        maps = [stem(image)]
        for stage in stages:
            maps.append(stage(maps[-1]))
        return head(maps, (128, 128))

    curve = []
    for _ in range(150):
        optimiser.zero_grad()
        losses = head.losses(raw(), [Target(boxes, labels)])
        sum(losses.values()).backward()
        optimiser.step()
        curve.append([term.item() for term in losses.values()])
    with torch.inference_mode():
        (found,) = DECODER(raw())
    print(curve[::15], curve[-1], found.boxes[:3], found.scores[:5])
    assert curve[-1][0] < curve[0][0] / 10 and curve[-1][1] < curve[0][1] / 4
    order = found.labels[:3].argsort()
    assert found.labels[:3][order].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.boxes[:3][order], boxes, rtol=0, atol=4)
