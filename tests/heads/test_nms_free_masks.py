"""Prototype masks and the panoptic head on them, against slow plain forms of their parts."""

from itertools import product
from math import ceil, floor

import pytest
import torch
from torch.nn import functional as F

from detectors import CLASSES, DIM, draw_maps
from featherbone.heads.levels import Level
from featherbone.heads.nms_free import CellRaw, NMSFreeDecoder, TrainingRaw, mean_distances
from featherbone.heads.nms_free_masks import (
    GRID,
    NUM_PROTOTYPES,
    PrototypeDecoder,
    PrototypeMasks,
    PrototypePanoptic,
    PrototypeRaw,
    mask_logits,
)
from featherbone.heads.pixels import PixelLoss
from featherbone.heads.roi import crop_masks
from featherbone.ops.boxes import Target
from featherbone.ops.label_maps import PanopticTarget
from registered import randomise

HEIGHT, WIDTH = 96, 128
SIZES = torch.tensor([[HEIGHT, WIDTH]])
STRIDES = (8, 16, 32)
FOUR = [Level(4, 4), Level(6, 8), Level(10, 16), Level(12, 32)]
PYRAMIDS = {"four": FOUR, "without stride 4": FOUR[1:], "one": [Level(6, 16)], "patches of 14": [Level(6, 14)]}
STUFF = 2


def small(pyramid=FOUR, head=PrototypeMasks, classes=(CLASSES,)):
    torch.manual_seed(0)
    return randomise(head(pyramid, *classes, dim=DIM, num_convs=1, mask_dim=8))


def lively():
    """A head in evaluation that finds a lot before it has learned anything."""
    head = small().eval()
    head.classes.predict.bias.data += 4.6
    head.slope.data.fill_(0.5)
    return head


def draw_target(count, height=HEIGHT, width=WIDTH):
    """Objects of which each covers about half of its box."""
    corners = (torch.rand(count, 2, 2).sort(1).values * torch.tensor([width - 4, height - 4])).flatten(1)
    boxes = corners + torch.tensor([0, 0, 4, 4])
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    if count:
        masks = F.interpolate(torch.randn(1, count, 12, 12), (height, width), mode="bicubic")[0] > 0
    return Target(boxes, torch.randint(CLASSES, (count,)), masks)


def panoptic_target(count):
    stuff = torch.randint(1 + STUFF, (HEIGHT, WIDTH))
    stuff[80:] = 255
    return PanopticTarget(draw_target(count), stuff)


def tensors_of(raw):
    """All tensors of nested raw tensors."""
    return [raw] if isinstance(raw, torch.Tensor) else [x for part in raw for x in tensors_of(part)]


def image_of(raw, i):
    """The raw tensors of one image."""
    if isinstance(raw, torch.Tensor):
        return raw[i : i + 1]
    parts = [image_of(part, i) for part in raw]
    return type(raw)(*parts) if hasattr(raw, "_fields") else tuple(parts)


def plain_logits(coefficients, prototypes, boxes, stride):
    """The same, cell by cell."""
    maps = torch.einsum("np,phw->nhw", coefficients, prototypes).tolist()
    height, width = prototypes.shape[1:]
    masks = torch.empty(len(boxes), GRID, GRID).double()
    for n, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for j, i in product(range(GRID), range(GRID)):
            u = min(max((x1 + (i + 0.5) * (x2 - x1) / GRID) / stride - 0.5, 0), width - 1)
            v = min(max((y1 + (j + 0.5) * (y2 - y1) / GRID) / stride - 0.5, 0), height - 1)
            column, row = floor(u), floor(v)
            right, below = min(column + 1, width - 1), min(row + 1, height - 1)
            a, b = u - column, v - row
            upper = (1 - a) * maps[n][row][column] + a * maps[n][row][right]
            lower = (1 - a) * maps[n][below][column] + a * maps[n][below][right]
            masks[n, j, i] = (1 - b) * upper + b * lower
    return masks


@pytest.mark.parametrize("stride", [4, 3.5])
def test_masks_are_read_bilinearly_on_a_grid_over_the_box(stride):
    torch.manual_seed(0)
    prototypes, coefficients = torch.randn(5, 7, 9).double(), torch.randn(3, 5).double()
    boxes = torch.tensor([[3.0, 2, 30, 21], [-4, 10, 50, 40], [11, 12, 13, 12.5]]).double()  # the second is too large
    found = mask_logits(coefficients, prototypes, boxes, stride)
    torch.testing.assert_close(found, plain_logits(coefficients, prototypes, boxes, stride))


@torch.inference_mode()
def test_the_masks_of_objects_are_those_of_their_cells():
    """Objects are those of the detector, and the decoder's formulas are those that it describes."""
    raw = lively()(draw_maps(2, HEIGHT, WIDTH, FOUR), SIZES)
    sizes = torch.tensor([[HEIGHT, WIDTH], [60, 100]])
    found = PrototypeDecoder(STRIDES, limit=6)(raw, sizes)
    expected = NMSFreeDecoder(STRIDES, limit=6)(raw.cells, sizes)
    coefficients = torch.cat([x.flatten(2) for x in raw.coefficients], 2)
    scores = torch.cat([x.flatten(2) for x in raw.cells.logits], 2).sigmoid()
    for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        assert len(mine.boxes) == 6 and mine.masks.shape == (6, GRID, GRID)
        assert all(torch.equal(x, y) for x, y in zip(mine[:3], theirs[:3], strict=True))
        cells = [
            (scores[i, label] - score).abs().argmin() for label, score in zip(mine.labels, mine.scores, strict=True)
        ]
        logits = plain_logits(coefficients[i][:, cells].T.double(), raw.prototypes[i].double(), mine.boxes.double(), 4)
        torch.testing.assert_close(mine.masks.double(), logits.sigmoid(), atol=1e-4, rtol=0)
        assert (mine.masks.amax((1, 2)) - mine.masks.amin((1, 2))).min() > 0.05


def test_nothing_is_found_where_nothing_is():
    shapes = [(HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
    cells = CellRaw(
        *(tuple(torch.full((1, c, *shape), x) for shape in shapes) for c, x in ((CLASSES, -20.0), (4, 1.0)))
    )
    coefficients = tuple(torch.zeros(1, NUM_PROTOTYPES, *shape) for shape in shapes)
    raw = PrototypeRaw(cells, coefficients, torch.zeros(1, NUM_PROTOTYPES, HEIGHT // 4, WIDTH // 4))
    (found,) = PrototypeDecoder(STRIDES)(raw, SIZES)
    assert [x.shape for x in found] == [(0, 4), (0,), (0,), (0, GRID, GRID)]


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("size", [(64, 64), (100, 52)])
@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_maps_of_any_pyramid_and_size(pyramid, size, count):
    """All weights are trained, also by images without objects."""
    levels = PYRAMIDS[pyramid]
    head, maps = small(levels), draw_maps(2, *size, levels)
    losses = head.losses(head(maps, size), [draw_target(count, *size), draw_target(0, *size)])
    assert losses.keys() == {"class", "many", "box", "bins", "mask"}
    assert all(term.isfinite() for term in losses.values()) and bool(losses["mask"] > 0) == bool(count)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    with torch.inference_mode():
        raw = head.eval()(maps, size)
        (found, _) = PrototypeDecoder(head.strides)(raw, torch.tensor([size] * 2), 0.0)
    shape = [2 * side for side in raw.cells.logits[0].shape[2:]]
    assert raw.prototypes.shape == (2, NUM_PROTOTYPES, *shape) and found.masks.isfinite().all()
    if len(levels) > 1:
        assert shape == [2 * ceil(side / 8) for side in size]


def test_a_batch_equals_its_images():
    head, decoder = lively(), PrototypeDecoder(STRIDES, limit=10)
    maps, targets = draw_maps(3, HEIGHT, WIDTH, FOUR), [draw_target(count) for count in (4, 0, 2)]
    raw = head(maps, SIZES)
    for i, many in enumerate(decoder(raw, SIZES.expand(3, -1))):
        one = head([x[i : i + 1] for x in maps], SIZES)
        for x, y in zip(tensors_of(one), tensors_of(image_of(raw, i)), strict=True):
            torch.testing.assert_close(x, y)
        for x, y in zip(decoder(image_of(raw, i), SIZES)[0], many, strict=True):
            torch.testing.assert_close(x, y)
    each = [head.losses(image_of(raw, i), [target]) for i, target in enumerate(targets)]
    for name, term in head.losses(raw, targets).items():
        torch.testing.assert_close(term, torch.stack([losses[name] for losses in each]).mean())


def test_targets_without_masks_are_refused():
    head = small()
    raw = head(draw_maps(1, HEIGHT, WIDTH, FOUR), SIZES)
    with pytest.raises(ValueError, match="a target has no masks"):
        head.losses(raw, [draw_target(3)._replace(masks=None)])


def test_half_precision_has_losses_in_full():
    head, target = lively(), draw_target(5)
    raw = head(draw_maps(1, HEIGHT, WIDTH, FOUR), SIZES)

    def cast(raw, kind):
        if isinstance(raw, torch.Tensor):
            return raw.to(kind)
        parts = [cast(part, kind) for part in raw]
        return type(raw)(*parts) if hasattr(raw, "_fields") else tuple(parts)

    half = cast(raw, torch.bfloat16)
    full = cast(half, torch.float32)
    for x, y in zip(head.losses(half, [target]).values(), head.losses(full, [target]).values(), strict=True):
        assert x.dtype == torch.float32 and torch.equal(x, y)
    for x, y in zip(*(PrototypeDecoder(STRIDES)(raw, SIZES)[0] for raw in (half, full)), strict=True):
        assert torch.equal(x, y)


def test_what_the_losses_ask_for_is_found():
    """Masks of a disc and of two corners of a box, from free raw tensors."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    disc = (rows - 40) ** 2 + (columns - 36) ** 2 < 24**2
    corners = (rows >= 20) & (rows < 84) & (columns >= 70) & (columns < 118) & ((rows < 52) == (columns < 94))
    boxes = torch.tensor([[12.0, 16, 60, 64], [70, 20, 118, 84]])
    target = Target(boxes, torch.tensor([1, 3]), torch.stack((disc, corners)))
    torch.manual_seed(0)
    head = small()
    shapes = [(HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
    logits, many, bins, coefficients = (
        tuple((torch.randn(1, c, *shape) * 0.3 + shift).requires_grad_() for shape in shapes)
        for c, shift in ((CLASSES, -4), (CLASSES, -4), (64, 0), (NUM_PROTOTYPES, 0))
    )
    prototypes = (torch.randn(1, NUM_PROTOTYPES, HEIGHT // 4, WIDTH // 4) * 0.3).requires_grad_()
    raw = PrototypeRaw(TrainingRaw(logits, many, bins), coefficients, prototypes)
    optimiser = torch.optim.Adam(tensors_of(raw), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        sum(head.losses(raw, [target]).values()).backward()
        optimiser.step()
    trained = raw._replace(cells=CellRaw(logits, tuple(mean_distances(x) for x in bins)))
    (found,) = PrototypeDecoder(STRIDES)(trained, SIZES, 0.3)
    order = found.boxes[:, 0].argsort()
    assert found.labels[order].tolist() == [1, 3]
    torch.testing.assert_close(found.boxes[order], boxes, rtol=0, atol=2)
    expected = crop_masks(target, torch.arange(2), boxes, GRID) > 0.5
    masks = found.masks[order] > 0.5
    iou = (masks & expected).sum((1, 2)) / (masks | expected).sum((1, 2))
    assert (iou > 0.9).all(), iou


def test_the_panoptic_head_is_prototype_masks_and_stuff():
    head = small(head=PrototypePanoptic, classes=(CLASSES, STUFF))
    maps, targets = draw_maps(2, HEIGHT, WIDTH, FOUR), [panoptic_target(3), panoptic_target(0)]
    raw = head(maps, SIZES)
    terms = head.losses(raw, targets)
    things = head.things.losses(raw.things, [target.things for target in targets])
    assert terms.keys() == things.keys() | {"stuff"} and all(terms[name] == things[name] for name in things)
    assert terms["stuff"] == PixelLoss()(raw.stuff, [target.stuff for target in targets])["pixel"] > 0
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    with torch.no_grad():
        raw, alone = head.eval()(maps, SIZES), head.things(maps, SIZES)
    assert raw.stuff.shape == (2, 1 + STUFF, HEIGHT // 4, WIDTH // 4) and head.strides == STRIDES
    for one, other in zip(tensors_of(raw.things), tensors_of(alone), strict=True):
        torch.testing.assert_close(one, other)


def test_images_without_things_train_every_weight_of_the_panoptic_head():
    head = small(head=PrototypePanoptic, classes=(CLASSES, STUFF))
    losses = head.losses(head(draw_maps(2, HEIGHT, WIDTH, FOUR), SIZES), [panoptic_target(0)] * 2)
    assert losses["mask"] == losses["box"] == 0 < losses["stuff"]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
