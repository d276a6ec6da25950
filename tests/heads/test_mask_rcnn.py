"""Mask R-CNN, against torchvision's stages, losses and post-processing with the same weights.

Torchvision's differs, and is told here to do otherwise: its anchors are rounded to whole pixels; its box losses are
smooth; RoIAlign and the masks cut for training are not aligned, nor those made of zeros and ones; it proposes 2,000
boxes in training; it drops boxes without area; background is its first class, with deltas and masks that are never
read. Both are to teach all anchors and proposals, not some drawn at random. What does not show here: ours reads the
2,000 surest pairs of proposal and class; losses of several images are divided by their samples together, in ours each
by its own.
"""

from collections import OrderedDict
from copy import deepcopy

import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
from torchvision.models.detection import roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, box_iou, poolers, roi_align

from detectors import Detector
from featherbone.deployment import use_form
from featherbone.heads import roi, rpn
from featherbone.heads.levels import Level
from featherbone.heads.mask_rcnn import MaskDecoder, MaskRCNN
from featherbone.heads.roi import MaskRaw
from featherbone.heads.rpn import is_used, sample
from featherbone.ops.boxes import Target
from featherbone.tasks.dense import Pyramid
from registered import on_meta, randomise

HEIGHT, WIDTH, DIM, CLASSES, EVERY = 256, 384, 16, 5, 10**6
SIZES, SQUARE = torch.tensor([[HEIGHT, WIDTH]]), torch.tensor([[64, 64]])
PYRAMID = [Level(6, 4), Level(6, 8), Level(10, 16), Level(12, 32)]
LOSSES = {"rpn_class", "rpn_box", "class", "box", "mask"}

made_sizes = pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")  # torchvision's


def draw_maps(batch, height=HEIGHT, width=WIDTH):
    return [torch.randn(batch, c, -(-height // stride), -(-width // stride)) for c, stride in PYRAMID]


def has_area(boxes):
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def draw_target(count, height=HEIGHT, width=WIDTH):
    """Objects of all sizes, of which each covers about half of its box."""
    corners = (torch.rand(count, 2, 2).sort(1).values * torch.tensor([width - 4, height - 4])).flatten(1)
    boxes = corners + torch.tensor([0, 0, 4, 4])
    noise = F.interpolate(torch.randn(1, count, 12, 12), (height, width), mode="bicubic")[0] if count else None
    masks = torch.zeros(count, height, width, dtype=torch.bool) if noise is None else noise > 0
    return Target(boxes, torch.randint(CLASSES, (count,)), masks)


def lively(**options):
    """A head that finds a lot before it has learned anything."""
    torch.manual_seed(0)
    head = MaskRCNN(PYRAMID, CLASSES, DIM, rpn_dim=20, fc_dim=24, mask_dim=12, **options)
    head.rpn.samples = head.rois.samples = EVERY
    randomise(head)
    for layer, factor in ((head.rpn.boxes, 0.3), (head.rois.box.boxes, 2), (head.rois.box.classes, 2)):
        layer.weight.data *= factor
    return head


class Unused(nn.Module):
    """Where torchvision expects a backbone."""

    out_channels = DIM


def background_first(layer, values=1, empty=0):
    """The layer's state with what belongs to background moved, or put, before that of the classes."""
    state = {}
    for name, x in layer.state_dict().items():
        classes, rest = x[: CLASSES * values], x[CLASSES * values :]
        state[name] = torch.cat((rest, torch.zeros_like(x[:empty]), classes))
    return state


@pytest.fixture
def theirs_of(monkeypatch):
    """Makes torchvision's Mask R-CNN with the weights of ours, and with its options."""

    def make(head):
        monkeypatch.setattr(F, "smooth_l1_loss", lambda x, y, beta, reduction: F.l1_loss(x, y, reduction=reduction))
        monkeypatch.setattr(poolers, "roi_align", lambda *args, **kwargs: roi_align(*args, **kwargs, aligned=True))
        monkeypatch.setattr(
            roi_heads, "roi_align", lambda *args: (roi_align(*args, sampling_ratio=0, aligned=True) >= 0.5).float()
        )
        monkeypatch.setattr(roi_heads.box_ops, "remove_small_boxes", lambda boxes, min_size: torch.arange(len(boxes)))
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "round", lambda x: x)
            anchors = AnchorGenerator(tuple((8 * stride,) for stride in (4, 8, 16, 32, 64)), ((0.5, 1, 2),) * 5)
        theirs = TheirMaskRCNN(
            Unused(),
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(DIM, 3),
            rpn_post_nms_top_n_train=1000,
            rpn_batch_size_per_image=EVERY,
            box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 0),
            box_head=TwoMLPHead(DIM * 49, 24),
            box_predictor=FastRCNNPredictor(24, CLASSES + 1),
            box_batch_size_per_image=EVERY,
            mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 0),
            mask_head=MaskRCNNHeads(DIM, (12,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(12, 12, CLASSES + 1),
        )
        rpn, rois = theirs.rpn.head, theirs.roi_heads
        rpn.conv[0][0] = head.rpn.shared
        rpn.cls_logits, rpn.bbox_pred = head.rpn.classes, head.rpn.boxes
        rois.box_head.fc6, rois.box_head.fc7 = head.rois.box.first, head.rois.box.second
        rois.box_predictor.cls_score.load_state_dict(background_first(head.rois.box.classes))
        rois.box_predictor.bbox_pred.load_state_dict(background_first(head.rois.box.boxes, 4, empty=4))
        for block, convolution in zip(rois.mask_head, head.rois.mask.convolutions, strict=True):
            block[0] = convolution
        rois.mask_predictor.conv5_mask = head.rois.mask.finer
        rois.mask_predictor.mask_fcn_logits.load_state_dict(background_first(head.rois.mask.classes, empty=1))
        return theirs.train(head.training)

    return make


def run_theirs(theirs, head, maps, target=None):
    """The output of torchvision's two stages for one image: proposals, and detections or losses."""
    levels = OrderedDict((str(i), x) for i, x in enumerate(head.fpn(maps)))
    images = ImageList(torch.zeros(1, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)])
    wanted = target and [{"boxes": target.boxes, "labels": target.labels + 1, "masks": target.masks}]
    proposals, losses = theirs.rpn(images, levels, wanted)
    found, more = theirs.roi_heads(levels, proposals, images.image_sizes, wanted)
    return proposals[0], losses | more if target else found[0]


@pytest.mark.parametrize("count", [7, 1, 0])
def test_losses_and_gradients_equal_torchvisions(theirs_of, count):
    head = lively()
    theirs = theirs_of(head)
    maps, target = [x.requires_grad_() for x in draw_maps(1)], draw_target(count)
    proposals, expected = run_theirs(theirs, head, maps, target)
    raw = head(maps, SIZES)
    assert not raw.proposals.requires_grad
    boxes = raw.proposals[0][is_used(raw.proposals[0])]
    assert len(boxes) > 500
    assert len(boxes) == len(proposals)
    boxes = boxes[has_area(boxes)]
    assert box_iou(boxes, proposals).max(1).values.min() > 0.9999  # in any order, as scores tie
    losses = head.losses(raw, [target])
    assert losses.keys() == LOSSES
    names = ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")
    for name, other in zip(("rpn_class", "rpn_box", "class", "box", "mask"), names, strict=True):
        assert (losses[name] > 0) == (count > 0 or "class" in name)
        torch.testing.assert_close(losses[name], expected[f"loss_{other}"], rtol=1e-4, atol=1e-6)
    ours = torch.autograd.grad(sum(losses.values()), maps, retain_graph=True)
    for x, y in zip(ours, torch.autograd.grad(sum(expected.values()), maps), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_detections_equal_torchvisions(theirs_of):
    head = lively().eval()
    theirs = theirs_of(head)
    for maps in (draw_maps(1), draw_maps(1)):
        _, expected = run_theirs(theirs, head, maps)
        (found,) = MaskDecoder()(head(maps, SIZES), SIZES)
        assert len(found.boxes) == 100
        assert torch.equal(found.labels + 1, expected["labels"])
        torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.boxes, expected["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.masks, expected["masks"][:, 0], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_what_is_found_keeps_to_its_limits():
    maps = draw_maps(1)

    def found(score=None, **options):
        head = lively(**options).eval()
        raw = head(maps, SIZES)
        return raw, MaskDecoder()(raw, SIZES, score)[0]

    raw, everything = found(0.0, limit=2000)
    count = len(everything.boxes)
    assert raw.masks.shape == (1, 2000, 28, 28) and 100 < count < 2000
    assert torch.equal(everything.scores, everything.scores.sort(descending=True).values)
    assert (everything.boxes[:, 2:] >= everything.boxes[:, :2]).all() and everything.labels.dtype == torch.int64
    assert 0 < everything.masks.min() and everything.masks.max() < 1
    assert not raw.boxes[0, count:].any() and not raw.scores[0, count:].any()
    for x, y in zip(found(0.0)[1], everything, strict=True):
        torch.testing.assert_close(x, y[:100])
    above = everything.scores[everything.scores > 0.7]
    assert 0 < len(above) < 100
    torch.testing.assert_close(found(0.7)[1].scores, above)
    torch.testing.assert_close(found(score=0.7)[1].scores, above)
    assert len(found(0.0, limit=2000, nms=0.3)[1].boxes) < count
    assert len(found(0.0, limit=2000, proposals=10)[1].boxes) <= 10 * CLASSES


@torch.inference_mode()
def test_nothing_is_found_where_nothing_is():
    head = lively().eval()
    head.rois.box.classes.bias[-1] = 100  # background
    (found,) = MaskDecoder()(head(draw_maps(1, 64, 64), SQUARE), SQUARE)
    assert [x.shape for x in found] == [(0, 4), (0,), (0,), (0, 28, 28)]


@pytest.mark.parametrize(("height", "width"), [(128, 160), (100, 52), (40, 33)])
def test_a_batch_equals_its_images(height, width):
    head = lively()
    maps, size = draw_maps(3, height, width), torch.tensor([[height, width]])
    targets = [draw_target(count, height, width) for count in (4, 0, 2)]
    singles = [[x[i : i + 1] for x in maps] for i in range(3)]
    each = [head.losses(head(single, size), [target]) for single, target in zip(singles, targets, strict=True)]
    for name, term in head.losses(head(maps, size), targets).items():
        torch.testing.assert_close(term, torch.stack([losses[name] for losses in each]).mean())
    with torch.inference_mode():
        head.eval()
        for one, many in zip(
            [MaskDecoder()(head(x, size), size)[0] for x in singles], MaskDecoder()(head(maps, size), size), strict=True
        ):
            assert len(many.boxes)
            for x, y in zip(one, many, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_images_without_objects_reach_every_weight():
    head = lively()
    losses = head.losses(head(draw_maps(2, 64, 64), SQUARE), [draw_target(0, 64, 64)] * 2)
    assert losses["rpn_box"] == losses["box"] == losses["mask"] == 0
    assert losses["rpn_class"] > 0 and losses["class"] > 0
    sum(losses.values()).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in head.parameters())


def test_an_image_in_which_nothing_is_proposed_still_teaches():
    head = lively()
    raw = head(draw_maps(2, 64, 64), SQUARE)
    raw = raw._replace(proposals=torch.full_like(raw.proposals, -1))
    losses = head.losses(raw, [draw_target(0, 64, 64), draw_target(3, 64, 64)])
    assert all(term.isfinite() and term > 0 for term in losses.values())


def test_unused_proposals_count_for_nothing():
    head, target = lively(), draw_target(3)
    raw = head(draw_maps(1), SIZES)
    few = raw.proposals[:, :40]
    many = torch.cat((few.new_full((1, 500, 4), -1), few), 1)
    for x, y in zip(*(head.losses(raw._replace(proposals=x), [target]).values() for x in (few, many)), strict=True):
        torch.testing.assert_close(x, y)
    head.rois.candidates = 100
    with torch.inference_mode():
        one, other = (head.rois(raw.maps[:-1], x, SIZES) for x in (few, many))
    assert (one.scores > 0).sum() > 20
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_boxes_beside_the_image_are_found_empty():
    head = lively().eval()
    maps = draw_maps(1, 64, 64)
    assert has_area(MaskDecoder()(head(maps, SQUARE), SQUARE, 0.0)[0].boxes).all()
    head.rois.box.boxes.bias[::4] = 1e4  # dx
    assert not has_area(MaskDecoder()(head(maps, SQUARE), SQUARE, 0.0)[0].boxes).any()


def test_samples_are_drawn_at_random_and_the_seed_repeats_them():
    head = lively()
    head.rpn.samples, head.rois.samples = 32, 16
    raw, targets = head(draw_maps(1), SIZES), [draw_target(7)]

    def losses(seed):
        torch.manual_seed(seed)
        return torch.stack(list(head.losses(raw, targets).values()))

    assert torch.equal(losses(0), losses(0))
    assert (losses(0) != losses(1)).all()


def test_as_many_are_drawn_as_the_paper_says(monkeypatch):
    asked = []
    for module in (rpn, roi):
        monkeypatch.setattr(module, "sample", lambda *args: asked.append(args[1:]) or sample(*args))
    head = MaskRCNN(PYRAMID, CLASSES, DIM, fc_dim=8)
    head.losses(head(draw_maps(2, 64, 64), SQUARE), [draw_target(2, 64, 64)] * 2)
    assert asked == [(256, 0.5)] * 2 + [(512, 0.25)] * 2


def test_half_precision_has_losses_in_full():
    head = lively()
    maps, targets = draw_maps(1), [draw_target(5)]
    full = head(maps, SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        raw = head(maps, SIZES)
        assert raw.maps[0].dtype == torch.bfloat16 and raw.proposals.dtype == torch.float32
        losses = head.losses(raw._replace(proposals=full.proposals), targets)
    for name, term in head.losses(full, targets).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], term, rtol=0.05, atol=0)
    with torch.inference_mode():
        (found,) = MaskDecoder()(lively().bfloat16().eval()([x.bfloat16() for x in maps], SIZES), SIZES)
    assert len(found.boxes) == 100
    assert all(x.dtype == torch.float32 for x in (found.boxes, found.scores, found.masks))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("lit_tiny", 39.54),
        ("lit_small", 47.48),
        ("lightvit_tiny", 28.05),
        ("lightvit_small", 37.76),
        ("lightvit_base", 53.65),
    ],
)
def test_parameters_of_the_papers_detectors(name, millions):
    pyramid = Pyramid(on_meta(name))
    with torch.device("meta"):
        head = MaskRCNN(pyramid.levels, num_classes=80)
    assert round(sum(x.numel() for part in (pyramid, head) for x in part.parameters()) / 1e6, 2) == millions


@made_sizes
@pytest.mark.parametrize(("name", "billions"), [("lightvit_tiny", 186.7), ("lightvit_base", 240.4)])
def test_multiply_adds_of_the_papers_detectors(name, billions):
    """Without attention products, on 1280x800 pixels, of 1,000 proposals and 100 masks."""
    pyramid = Pyramid(timm.create_model(name))
    model = Detector(pyramid, MaskRCNN(pyramid.levels, num_classes=80)).eval()
    use_form(model, "compiled")
    counter = FlopCounterMode(display=False)
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True), counter, torch.no_grad():
        model(torch.zeros(1, 3, 800, 1280))
    counts = counter.get_flop_counts()["Global"]
    products = sum(
        count
        for operation, count in counts.items()
        if any(name in str(operation) for name in ("bmm", "scaled_dot_product"))
    )
    assert (counter.get_total_flops() - products) / 2e9 == pytest.approx(billions, rel=0.01)


@made_sizes
def test_masks_are_computed_only_above_the_score_and_boxes_only_where_there_are_proposals(monkeypatch):
    torch.manual_seed(0)
    pyramid = Pyramid(timm.create_model("mobilenetv3_small_050"))
    head = MaskRCNN(pyramid.levels, CLASSES, DIM, rpn_dim=8, fc_dim=16, mask_dim=8, proposals=50, limit=20)
    model = randomise(Detector(pyramid, head)).eval()
    images, rows = torch.randn(2, 3, 200, 264), []
    for part in (head.rois.box, head.rois.mask):
        part.register_forward_hook(lambda part, given, found: rows.append(len(given[0])))
    with torch.inference_mode():
        every = model(images)
        score = every.scores.median().item()
        some = head(pyramid(images), torch.tensor([[200, 264]] * 2), score)
    shown = every.scores > score
    assert rows[1] == (every.scores > 0).sum() and rows[3] == shown.sum() == 20
    assert rows[0] == rows[2] <= 100
    torch.testing.assert_close(some[:3], every[:3])
    torch.testing.assert_close(some.masks, every.masks * shown[..., None, None])


@made_sizes
def test_export_equals_the_model():
    torch.manual_seed(0)
    pyramid = Pyramid(timm.create_model("mobilenetv3_small_050"))
    head = MaskRCNN(pyramid.levels, CLASSES, DIM, rpn_dim=8, fc_dim=16, mask_dim=8, proposals=50, limit=20)
    model = randomise(Detector(pyramid, head)).eval()
    images = torch.randn(2, 3, 200, 264)
    graph = deepcopy(model)
    use_form(graph, "compiled")
    program = torch.export.export(graph, (images,), strict=False)
    with torch.inference_mode():
        raw, expected = program.module()(images + 1), model(images + 1)
    assert isinstance(raw, MaskRaw) and (expected.scores > 0.05).sum() > 10
    for x, y in zip(raw, expected, strict=True):
        torch.testing.assert_close(x, y)
    outputs = [x for node in program.graph.nodes for x in [node.meta.get("val")] if isinstance(x, torch.Tensor)]
    assert max(x.ndim for x in outputs) <= 5
    (output,) = program.graph.find_nodes(op="output")
    assert all(type(length) is int for node in output.args[0] for length in node.meta["val"].shape)
