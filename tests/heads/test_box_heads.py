"""What the one-stage detectors have in common: limits, batches, precision and export."""

from typing import NamedTuple

import pytest
import timm
import torch

from detectors import (
    CLASSES,
    DIM,
    Detector,
    draw_maps,
    draw_target,
    lively_nms_free,
    lively_retinanet,
    lively_yolov3,
    silent_nms_free,
    silent_retinanet,
    silent_yolov3,
)
from featherbone.heads.nms_free import NMSFree, NMSFreeDecoder
from featherbone.heads.retinanet import RetinaDecoder, RetinaNet
from featherbone.heads.yolov3 import YoloDecoder, YOLOv3
from featherbone.tasks.dense import Pyramid


class Case(NamedTuple):
    head: type
    decoder: type
    strides: tuple
    lively: object
    silent: object
    size: tuple
    small: dict
    """Arguments of a small head."""
    background: set
    """Losses of images without objects."""
    has_nms: bool = True


CASES = {
    "retinanet": Case(
        RetinaNet,
        RetinaDecoder,
        (8, 16, 32, 64, 128),
        lively_retinanet,
        silent_retinanet,
        (256, 384),
        {"num_convs": 1},
        {"class"},
    ),
    "yolov3": Case(YOLOv3, YoloDecoder, (8, 16, 32), lively_yolov3, silent_yolov3, (192, 256), {}, {"object"}),
    "nms_free": Case(
        NMSFree,
        NMSFreeDecoder,
        (8, 16, 32),
        lively_nms_free,
        silent_nms_free,
        (192, 256),
        {"num_convs": 1},
        {"class", "many"},
        has_nms=False,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def converted(raw, change):
    """Raw maps with each tensor changed."""
    return type(raw)(*(tuple(map(change, part)) for part in raw))


def single(raw, i):
    return converted(raw, lambda x: x[i : i + 1])


def same_objects(one, other):
    return all(torch.equal(x, y) for x, y in zip(one[:3], other[:3], strict=True))


def same(one, other):
    """Equal scores; the rounding of a sigmoid depends on the length of the tensor."""
    torch.testing.assert_close(one, other, rtol=3e-7, atol=0)


@torch.inference_mode()
def test_find_keeps_to_its_limits(case):
    raw = case.lively()(draw_maps(1, *case.size), case.size)

    def scores(score=None, **options):
        (found,) = case.decoder(case.strides, **options)(raw, torch.tensor([case.size]), score)
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        return found.scores

    everything = scores(limit=10**6)
    assert len(everything) > 200 and everything.min() > 0.05
    same(scores(), everything[:100])
    same(scores(limit=7), everything[:7])
    middle = float(everything[60])
    above = everything[everything > middle]
    assert 0 < len(above) < 100
    same(scores(middle), above)
    same(scores(score=middle), above)
    if not case.has_nms:
        return
    assert len(scores(limit=10**6, nms=0.1)) < len(everything) < len(scores(limit=10**6, nms=0.9))
    assert len(scores(0, limit=10**6, nms=1.0, candidates=5)) == 5 * len(case.strides)


def test_nothing_is_found_where_nothing_is(case):
    (found,) = case.decoder(case.strides)(case.silent(*case.size), torch.tensor([case.size]))
    assert [x.shape for x in found[:3]] == [(0, 4), (0,), (0,)]
    assert found.labels.dtype == torch.int64


@pytest.mark.parametrize("size", [(64, 64), (100, 52), (40, 33)])
def test_a_batch_equals_its_images(case, size):
    head, decoder = case.lively(), case.decoder(case.strides)
    maps, targets = draw_maps(3, *size), [draw_target(count, *case.size) for count in (4, 0, 2)]
    raw, sizes = head(maps, size), torch.tensor([size])
    for i, many in enumerate(decoder(raw, sizes)):
        one = head([x[i : i + 1] for x in maps], size)
        for parts in zip(one, single(raw, i), strict=True):
            for x, y in zip(*parts, strict=True):
                torch.testing.assert_close(x, y)
        assert len(many.boxes) and same_objects(decoder(single(raw, i), sizes)[0], many)
    each = [head.losses(single(raw, i), [target]) for i, target in enumerate(targets)]
    for name, term in head.losses(raw, targets).items():
        torch.testing.assert_close(term, torch.stack([losses[name] for losses in each]).mean())


def test_images_without_objects_reach_every_weight(case):
    head = case.lively().train()
    losses = head.losses(head(draw_maps(2, 64, 64), (64, 64)), [draw_target(0, *case.size)] * 2)
    positive = {name for name, term in losses.items() if term > 0}
    assert positive == case.background
    assert all(term == 0 for name, term in losses.items() if name not in positive)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_half_precision_is_computed_in_full(case):
    head, decoder = case.lively(), case.decoder(case.strides)
    half = converted(head(draw_maps(1, *case.size), case.size), lambda x: x.bfloat16())
    full = converted(half, lambda x: x.float())
    target = draw_target(5, *case.size)
    for x, y in zip(head.losses(half, [target]).values(), head.losses(full, [target]).values(), strict=True):
        assert x.dtype == torch.float32 and torch.equal(x, y)
    assert same_objects(*(decoder(raw, torch.tensor([case.size]))[0] for raw in (half, full)))


def test_export_equals_the_model(case):
    pyramid = Pyramid(timm.create_model("mobilenetv3_small_050"))
    model = Detector(pyramid, case.head(pyramid.levels, CLASSES, DIM, **case.small)).eval()
    images = torch.randn(2, 3, 72, 64)
    exported = torch.export.export(model, (images,)).module()
    raw, expected = exported(images + 1), model(images + 1)
    assert isinstance(raw, case.decoder.raw)
    for parts in zip(raw, expected, strict=True):
        for x, y in zip(*parts, strict=True):
            assert x.ndim <= 5
            torch.testing.assert_close(x, y)
