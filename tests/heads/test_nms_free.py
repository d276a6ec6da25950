"""The detector without NMS, against slow plain forms of its parts."""

from itertools import product
from math import ceil, exp

import pytest
import torch

from detectors import CLASSES, DIM, PYRAMID, draw_maps, draw_target, lively_nms_free, silent_nms_free
from featherbone.heads.levels import Level
from featherbone.heads.nms_free import (
    NUM_BINS,
    PRIOR,
    START,
    CellRaw,
    NMSFree,
    NMSFreeDecoder,
    TrainingRaw,
    mean_distances,
    neighbours,
)
from featherbone.heads.nms_free_masks import PrototypeDecoder
from featherbone.ops.boxes import Target

HEIGHT, WIDTH = 192, 256
SIZES = torch.tensor([[HEIGHT, WIDTH]])
STRIDES = (8, 16, 32)
PYRAMIDS = {
    "four": [Level(4, 4), *PYRAMID],
    "three": PYRAMID,
    "one": [Level(6, 16)],
    "patches of 14": [Level(6, 14)],
}
TARGET = Target(
    torch.tensor([[3.0, 5, 17, 16], [20, 30, 150, 170], [30, 40, 160, 180], [200, 100, 251, 190]]),
    torch.tensor([0, 4, 4, 2]),
)
"""Objects of several sizes, of which two of one class have an IoU of 0.75."""


def values_of(raw):
    return [x for part in raw for x in part]


def untrained(**options):
    torch.manual_seed(0)
    return NMSFree(PYRAMID, CLASSES, DIM, **options)


def plain_neighbours(maps):
    """The same, cell by cell."""
    found = []
    for level, x in enumerate(maps):
        _, _, rows, columns = x.shape
        out = torch.empty_like(x)
        for r, c in product(range(rows), range(columns)):
            near = [x[..., max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2]]
            if level:  # the four cells of the finer level, and their neighbours
                finer = maps[level - 1]
                near.append(finer[..., max(2 * r - 1, 0) : 2 * r + 3, max(2 * c - 1, 0) : 2 * c + 3])
            if level + 1 < len(maps):
                coarser = maps[level + 1]
                i, j = r * coarser.shape[2] // rows, c * coarser.shape[3] // columns
                near.append(coarser[..., i : i + 1, j : j + 1])
            out[..., r, c] = torch.stack([part.amax((2, 3)) for part in near]).amax(0)
        found.append(out)
    return found


@pytest.mark.parametrize(
    "shapes", [[(8, 12), (4, 6), (2, 3)], [(13, 7), (7, 4), (4, 2)], [(5, 5), (3, 3), (2, 2)], [(6, 4)]]
)
def test_neighbours_are_those_of_three_levels(shapes):
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, *shape) for shape in shapes]
    for mine, expected in zip(neighbours(maps), plain_neighbours(maps), strict=True):
        assert torch.equal(mine, expected)


def test_an_untrained_selection_keeps_the_highest_of_its_neighbours_and_lowers_the_rest():
    head = untrained()
    torch.nn.init.zeros_(head.selection.predict.weight)
    torch.manual_seed(1)
    maps = [torch.randn(1, CLASSES, *x.shape[2:]) for x in silent_nms_free(HEIGHT, WIDTH).logits]
    levels = head.neck(draw_maps(1, HEIGHT, WIDTH))
    for x, highest, out in zip(maps, plain_neighbours(maps), head.select(maps, levels), strict=True):
        kept = x == highest
        assert 0 < kept.sum() < kept.numel() / 4
        assert torch.equal(out[kept], x[kept]) and (out[~kept] < x[~kept]).all()


def test_means_are_those_of_the_distributions():
    torch.manual_seed(0)
    bins = torch.randn(2, 4 * NUM_BINS, 3, 5) * 3
    means = mean_distances(bins)
    assert means.shape == (2, 4, 3, 5)
    for place in product(range(2), range(4), range(3), range(5)):
        b, side, row, column = place
        logits = bins[b, side * NUM_BINS : (side + 1) * NUM_BINS, row, column].double().tolist()
        weights = [exp(x) for x in logits]
        expected = sum(i * weight for i, weight in enumerate(weights)) / sum(weights)
        assert means[place].item() == pytest.approx(expected, rel=1e-5)


def test_an_untrained_head_finds_almost_nothing_and_boxes_of_five_strides():
    head = untrained().eval()
    raw = head(draw_maps(2, HEIGHT, WIDTH), SIZES)
    assert all((x.sigmoid() < 3 * PRIOR).all() for x in raw.logits)
    torch.testing.assert_close(
        torch.cat([x.flatten() for x in raw.distances]).mean(), torch.tensor(START), rtol=0.1, atol=0
    )
    assert not len(NMSFreeDecoder(STRIDES)(raw, SIZES.expand(2, -1))[0].boxes)


@pytest.mark.parametrize("size", [(64, 64), (100, 52), (33, 70)])
@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_maps_of_any_pyramid_and_size(pyramid, size):
    head = NMSFree(PYRAMIDS[pyramid], CLASSES, DIM, num_convs=1)
    maps, target = draw_maps(2, *size, PYRAMIDS[pyramid]), draw_target(3, *size)
    assert head.strides == ((7, 14, 28) if pyramid == "patches of 14" else STRIDES)
    losses = head.losses(head(maps, size), [target] * 2)
    assert losses.keys() == {"class", "many", "box", "bins"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    with torch.inference_mode():
        raw = head.eval()(maps, size)
    assert isinstance(raw, CellRaw)
    if pyramid in ("four", "three"):
        shapes = [(ceil(size[0] / stride), ceil(size[1] / stride)) for stride in STRIDES]
        assert [x.shape for x in raw.logits] == [(2, CLASSES, *shape) for shape in shapes]
        assert [x.shape for x in raw.distances] == [(2, 4, *shape) for shape in shapes]
    for found in NMSFreeDecoder(head.strides)(raw, torch.tensor([size] * 2), 0.0):
        assert len(found.boxes) == min(100, sum(x[0].numel() for x in raw.logits))
        assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor(size[::-1] * 2)).all()


def test_training_and_evaluation_predict_the_same_with_the_same_norms():
    head = lively_nms_free()
    maps = draw_maps(1, HEIGHT, WIDTH)
    with torch.inference_mode():
        raw = head(maps, SIZES)
        head.training = True  # the norms stay in evaluation
        training = head(maps, SIZES)
    assert isinstance(training, TrainingRaw)
    for x, y in zip(raw.logits, training.logits, strict=True):
        torch.testing.assert_close(x, y)
    for x, bins in zip(raw.distances, training.bins, strict=True):
        torch.testing.assert_close(x, mean_distances(bins))


def test_the_selection_trains_nothing_but_itself():
    head = lively_nms_free().train()
    target = draw_target(6, HEIGHT, WIDTH)

    def trained(*names):
        head.zero_grad()
        losses = head.losses(head(draw_maps(2, HEIGHT, WIDTH), SIZES), [target] * 2)
        sum(losses[name] for name in names).backward()
        return {name.split(".")[0] for name, p in head.named_parameters() if p.grad is not None and p.grad.any()}

    assert trained("class") == {"selection", "slope"}
    assert trained("many", "box", "bins") == {"neck", "classes", "boxes"}


def test_a_channel_is_a_class_and_a_cell_a_box():
    for level, label in product(range(3), (0, CLASSES - 1)):
        raw, stride, (row, column) = silent_nms_free(HEIGHT, WIDTH), STRIDES[level], (3, 2)
        raw.logits[level][0, label, row, column] = 2
        raw.distances[level][0, :, row, column] = torch.tensor([1.5, 0.5, 0.25, 9])
        (found,) = NMSFreeDecoder(STRIDES)(raw, SIZES)
        x, y = (column + 0.5) * stride, (row + 0.5) * stride
        box = torch.tensor([[x - 1.5 * stride, y - 0.5 * stride, x + 0.25 * stride, y + 9 * stride]])
        limit = torch.tensor([WIDTH, HEIGHT] * 2)
        torch.testing.assert_close(found.boxes, box.clamp(min=0).minimum(limit))
        assert found.labels.tolist() == [label]
        assert found.scores.item() == pytest.approx(1 / (1 + exp(-2)))


def raw_to_train():
    """Raw tensors of one image, as they are at the beginning of training."""
    logits, _ = silent_nms_free(HEIGHT, WIDTH)
    slope = torch.arange(NUM_BINS) * -0.3
    bins = [slope.repeat(4)[:, None, None].expand(-1, *x.shape[2:])[None].clone() for x in logits]
    return TrainingRaw(
        *(
            tuple(x.requires_grad_() for x in maps)
            for maps in ([x + 16 for x in logits], [x + 16 for x in logits], bins)
        )
    )


def test_what_the_losses_ask_for_is_found_once():
    """Also two objects of a class whose boxes NMS would join."""
    head, raw = untrained(), raw_to_train()
    optimiser = torch.optim.Adam(values_of(raw), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        sum(head.losses(raw, [TARGET]).values()).backward()
        optimiser.step()
    found_raw = CellRaw(raw.logits, tuple(mean_distances(x) for x in raw.bins))
    (found,) = NMSFreeDecoder(STRIDES)(found_raw, SIZES, 0.5)
    order = found.boxes[:, 0].argsort()
    assert found.labels[order].tolist() == TARGET.labels.tolist()
    torch.testing.assert_close(found.boxes[order], TARGET.boxes, rtol=0, atol=1)
    (many,) = NMSFreeDecoder(STRIDES)(found_raw._replace(logits=raw.many), SIZES, 0.5)
    assert len(many.boxes) > 2 * len(found.boxes), "the losses before the selection ask for many cells per object"


def test_losses_of_evaluation_are_small_where_the_objects_are_found():
    """The validation loss is that of the scores after the selection and of their boxes."""
    head, raw = untrained(), silent_nms_free(HEIGHT, WIDTH)
    target = Target(torch.tensor([[40.0, 24, 56, 72]]), torch.tensor([3]))
    before = head.losses(raw, [target])
    raw.logits[0][0, 3, 5, 5] = 10  # centre 44, 44
    raw.distances[0][0, :, 5, 5] = torch.tensor([0.5, 2.5, 1.5, 3.5])
    after = head.losses(raw, [target])
    assert after.keys() == before.keys() == {"class", "box"}
    assert all(after[name] < 1e-3 < 0.1 < before[name] for name in after), (before, after)


@pytest.mark.parametrize("decoder", [NMSFreeDecoder, PrototypeDecoder])
def test_strides_of_other_levels_are_refused(decoder):
    with pytest.raises(ValueError, match="2 strides for 3 levels; give those of the network's maps"):
        decoder((8, 16))
