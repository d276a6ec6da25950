"""YOLOv3, against slow plain forms of its assignment, losses and boxes, and against the published sums."""

import json
from itertools import product
from math import ceil, exp, log

import pytest
import torch
from torch import nn

from detectors import CLASSES, DIM, PYRAMID, Detector, draw_maps, draw_target, lively_yolov3, silent_yolov3
from featherbone.benchmarking.models import count_macs
from featherbone.heads.anchors import IGNORED, NEGATIVE
from featherbone.heads.levels import Level
from featherbone.heads.yolov3 import ANCHORS, YoloDecoder, YoloRaw, YOLOv3, assign, cells_of, decode, encode, grid
from featherbone.ops.boxes import WIDEST, Target
from featherbone.tasks.dense import Pyramid
from featherbone.tasks.variant import parse_keywords
from registered import on_meta

HEIGHT, WIDTH = 192, 256
SIZES = torch.tensor([[HEIGHT, WIDTH]])
STRIDES = (8, 16, 32)
DECODER = YoloDecoder(STRIDES)
EQUAL = [(40, 40)] * 9


def iou(a, b):
    inner = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1)]
    common = inner[0] * inner[1]
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def plain_assign(boxes, sizes, shapes):
    """The expected assignment of each anchor, computed one by one, and how often each rule applied."""
    grid = []
    for level, (rows, columns) in enumerate(shapes):
        for row, column, (w, h) in product(range(rows), range(columns), sizes[3 * level : 3 * level + 3]):
            x, y = (column + 0.5) * STRIDES[level], (row + 0.5) * STRIDES[level]
            grid.append((level, row, column, (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
    claims = [[] for _ in grid]
    said = dict.fromkeys(("overlap", "best", "contest", "ignored"), 0)
    for index, box in enumerate(boxes):
        own = []
        for place, (level, row, column, anchor) in enumerate(grid):
            rows, columns = shapes[level]
            stride = STRIDES[level]
            inside = (
                row == min(int((box[1] + box[3]) / 2 / stride), rows - 1),
                column == min(int((box[0] + box[2]) / 2 / stride), columns - 1),
            )
            if all(inside):
                own.append((iou(box, anchor), place))
        best = max(own, key=lambda pair: pair[0])  # the first of equals
        for overlap, place in own:
            if overlap > 0.5 or (overlap, place) == best:
                claims[place].append((overlap, index))
                said["overlap" if overlap > 0.5 else "best"] += 1
    wanted = []
    for (_, _, _, anchor), claim in zip(grid, claims, strict=True):
        said["contest"] += len(claim) > 1
        if claim:
            wanted.append(max(claim, key=lambda pair: pair[0])[1])
        elif any(iou(box, anchor) > 0.5 for box in boxes):
            wanted.append(IGNORED)
            said["ignored"] += 1
        else:
            wanted.append(NEGATIVE)
    return wanted, said, grid


@pytest.mark.parametrize(("height", "width"), [(96, 128), (70, 45), (20, 20)])
@pytest.mark.parametrize("sizes", [ANCHORS[320], EQUAL], ids=["built in", "all equal"])
def test_assignment_equals_the_plain_one(height, width, sizes):
    torch.manual_seed(0)
    scale = torch.tensor([width, height], dtype=torch.float64)
    centres, sides = torch.rand(60, 2).double() * scale * 1.05, torch.rand(60, 2).double() * scale + 1
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), 1)  # some centres lie beyond the map
    boxes = torch.cat((boxes, boxes[:5], torch.tensor([[6.0, 4, 16, 19], [60, 0, 66, 7]])))  # some objects are alike
    shapes = [(ceil(height / stride), ceil(width / stride)) for stride in STRIDES]
    anchors, strides = grid(silent_yolov3(height, width), sizes, STRIDES)
    cells = cells_of(boxes, [(*shape, stride) for shape, stride in zip(shapes, STRIDES, strict=True)])
    wanted, said, places = plain_assign(boxes.tolist(), sizes, shapes)
    assert assign(boxes, anchors.double(), cells).tolist() == wanted
    assert anchors.tolist() == [list(anchor) for *_, anchor in places]
    assert strides.tolist() == [STRIDES[level] for level, *_ in places]
    assert all(said.values()) or (height, width) != (96, 128), said


def test_losses_equal_plain_sums():
    head = lively_yolov3()
    targets = [draw_target(0, HEIGHT, WIDTH), draw_target(9, HEIGHT, WIDTH), draw_target(30, HEIGHT, WIDTH)]
    raw = head(draw_maps(3, HEIGHT, WIDTH), (HEIGHT, WIDTH))
    sums = dict.fromkeys(("class", "object", "centre", "size"), 0.0)

    def entropy(logit, wanted):
        return wanted * log(1 + exp(-logit)) + (1 - wanted) * log(1 + exp(logit))

    shapes = [tuple(x.shape[2:]) for x in raw.maps]
    for image, target in enumerate(targets):
        boxes = target.boxes.double().tolist()
        wanted, _, grid = plain_assign(boxes, ANCHORS[320], shapes)
        order = {}
        for (level, row, column, anchor), index in zip(grid, wanted, strict=True):
            slot = order[level, row, column] = order.get((level, row, column), -1) + 1
            values = raw.maps[level][image, :, row, column].view(3, -1)[slot].tolist()
            if index != IGNORED:
                sums["object"] += entropy(values[4], float(index >= 0))
            if index >= 0:
                x1, y1, x2, y2 = boxes[index]
                sums["centre"] += 2 * entropy(values[0], (x1 + x2) / 2 / STRIDES[level] - column)
                sums["centre"] += 2 * entropy(values[1], (y1 + y2) / 2 / STRIDES[level] - row)
                sums["size"] += 2 * (values[2] - log((x2 - x1) / (anchor[2] - anchor[0]))) ** 2
                sums["size"] += 2 * (values[3] - log((y2 - y1) / (anchor[3] - anchor[1]))) ** 2
                for label, value in enumerate(values[5:]):
                    sums["class"] += entropy(value, float(label == target.labels[index]))
    losses = head.losses(raw, targets)
    assert list(losses) == list(sums)
    for name, term in losses.items():
        torch.testing.assert_close(term.item(), sums[name] / 3, rtol=1e-5, atol=0)


def test_decoding_inverts_encoding():
    torch.manual_seed(0)
    boxes = draw_target(200, HEIGHT, WIDTH).boxes.double()
    stride = torch.tensor(STRIDES, dtype=torch.float64)[torch.arange(200) % 3]
    middle = (((boxes[:, :2] + boxes[:, 2:]) / 2 / stride[:, None]).floor() + 0.5) * stride[:, None]
    sizes = torch.tensor(ANCHORS[320], dtype=torch.float64)[torch.arange(200) % 9]
    anchors = torch.cat((middle - sizes / 2, middle + sizes / 2), 1)
    shifts = encode(boxes, anchors, stride)
    assert 0 <= shifts[:, :2].min() < 0.1 and 0.9 < shifts[:, :2].max() <= 1
    torch.testing.assert_close(decode(shifts, anchors, stride), boxes)
    beyond = encode(boxes + 40, anchors, stride)  # cross-entropy has no least for other targets
    assert (beyond[:, :2] == 1).all()
    torch.testing.assert_close(beyond[:, 2:], shifts[:, 2:])


def test_what_the_losses_ask_for_is_found():
    head = YOLOv3(PYRAMID, CLASSES, DIM)
    target = Target(
        torch.tensor([[3.0, 5, 17, 16], [20, 30, 150, 170], [100, 20, 180, 60], [200, 100, 251, 190]]),
        torch.tensor([0, 4, 2, 2]),
    )
    raw = YoloRaw(tuple((x * 0).requires_grad_() for x in silent_yolov3(HEIGHT, WIDTH).maps))
    optimiser = torch.optim.Adam(raw.maps, lr=0.3)
    for _ in range(200):
        optimiser.zero_grad()
        sum(head.losses(raw, [target]).values()).backward()
        optimiser.step()
    (found,) = DECODER(raw, SIZES, 0.5)
    order = found.boxes[:, 0].argsort()
    assert found.labels[order].tolist() == [0, 4, 2, 2]
    torch.testing.assert_close(found.boxes[order], target.boxes, rtol=0, atol=0.1)


@pytest.mark.parametrize("given", [{}, {"anchor_size": 416}, {"anchors": [[5 + 7 * i, 90 - 9 * i] for i in range(9)]}])
def test_a_channel_is_an_anchor_and_an_answer(given):
    decoder = YoloDecoder(STRIDES, **given)
    sizes = sorted(given.get("anchors", ANCHORS[given.get("anchor_size", 320)]), key=lambda size: size[0] * size[1])
    for level, slot, label in product(range(3), range(3), (0, CLASSES - 1)):
        raw, stride, (row, column) = silent_yolov3(HEIGHT, WIDTH), STRIDES[level], (3, 2)
        values = raw.maps[level][0].view(3, -1, *raw.maps[level].shape[2:])[slot, :, row, column]
        values[:5] = torch.tensor([1.0, -1, 0.1, -0.2, 2])
        values[5 + label] = 3
        (found,) = decoder(raw, SIZES)
        w, h = sizes[3 * level + slot]
        x, y = (column + 1 / (1 + exp(-1))) * stride, (row + 1 / (1 + exp(1))) * stride
        w, h = w * exp(0.1), h * exp(-0.2)
        box = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
        limit = torch.tensor([WIDTH, HEIGHT] * 2)
        torch.testing.assert_close(found.boxes, box.clamp(min=0).minimum(limit))
        assert found.labels.tolist() == [label]
        torch.testing.assert_close(found.scores.item(), 1 / (1 + exp(-2)) / (1 + exp(-3)))


def test_anchors_come_as_a_command_line_and_a_card_give_them():
    pairs = [[float(w), float(h)] for w, h in ANCHORS[416]]
    typed = parse_keywords("anchors=" + json.dumps(pairs[::-1]).replace(" ", ""))["anchors"]
    for anchors in (typed, json.loads(json.dumps(typed)), tuple(map(tuple, pairs))):
        assert YOLOv3(PYRAMID, CLASSES, DIM, anchors).anchors == [tuple(pair) for pair in pairs]


@pytest.mark.parametrize(
    "anchors",
    ["fit", 3, [[10, 10]] * 8, [[10, 10]] * 8 + [[10, 0]], [[10, 10]] * 8 + [[10, float("inf")]], [[1, 2, 3]] * 9],
)
def test_other_anchors_are_refused(anchors):
    with pytest.raises(ValueError, match="nine pairs of width and height"):
        YOLOv3(PYRAMID, CLASSES, DIM, anchors)


def test_only_two_inputs_have_anchors_of_their_own():
    with pytest.raises(ValueError, match=r"inputs of 640, only of 320 and 416; give `anchors`"):
        YOLOv3(PYRAMID, CLASSES, DIM, anchor_size=640)


def test_nothing_is_looked_for_without_objectness():
    raw = silent_yolov3(HEIGHT, WIDTH)
    for column, objectness in enumerate((0.0049, 0.0051)):
        raw.maps[0][0, 4, 3, 10 * column] = log(objectness / (1 - objectness))
        raw.maps[0][0, 5, 3, 10 * column] = 20
    (found,) = DECODER(raw, SIZES, 0.001)
    torch.testing.assert_close(found.scores, torch.tensor([0.0051]), rtol=1e-4, atol=0)


def test_only_boxes_of_one_class_repeat_one_another():
    def found(*labels):
        raw = silent_yolov3(HEIGHT, WIDTH)
        for slot, label in enumerate(labels):
            values = raw.maps[1][0].view(3, -1, *raw.maps[1].shape[2:])[slot + 1, :, 6, 7]
            values[2:4] = torch.tensor([60.0, 60]).div(torch.tensor(ANCHORS[320][4 + slot])).log()  # the same box
            values[4], values[5 + label] = 20, 2 - slot
        return DECODER(raw, SIZES)[0].labels.tolist()

    assert found(3, 3) == [3] and found(3, 1) == [3, 1] and found(1, 3) == [1, 3]


def test_a_side_grows_no_further_than_the_widest():
    anchors = torch.tensor([[0.0, 0, 10, 20]])
    box = decode(torch.tensor([[0.5, 0.5, 200, WIDEST / 2]]), anchors, torch.tensor([8.0]))
    w, h = 10 * exp(WIDEST), 20 * exp(WIDEST / 2)
    torch.testing.assert_close(box, torch.tensor([[5 - w / 2, 10 - h / 2, 5 + w / 2, 10 + h / 2]]))


def test_it_starts_from_the_prior_and_the_anchors():
    for x in YOLOv3(PYRAMID, CLASSES, DIM)(draw_maps(2, HEIGHT, WIDTH), (HEIGHT, WIDTH)).maps:
        values = x.view(2, 3, -1, *x.shape[2:])
        assert values[:, :, :4].mean().abs() < 0.05
        torch.testing.assert_close(values[:, :, 4:].sigmoid().mean().item(), 0.01, rtol=0.05, atol=0)


def test_anchors_follow_the_strides_of_the_backbone():
    raw = silent_yolov3(HEIGHT, WIDTH)
    raw.maps[0][0, 4:6, 9, 12] = 20  # the smallest anchor, on the finest map
    (found,) = YoloDecoder(YOLOv3([Level(6, 14)], CLASSES, DIM).strides)(raw, SIZES)  # strides 7, 14, 28
    half = torch.tensor(ANCHORS[320][0]) / 2
    centre = torch.tensor([12.5 * 7, 9.5 * 7])
    torch.testing.assert_close(found.boxes[0], torch.cat((centre - half, centre + half)))


def test_a_level_sees_itself_and_all_coarser_ones():
    head = lively_yolov3()
    maps = [x.requires_grad_() for x in draw_maps(1, HEIGHT, WIDTH)]
    for i, x in enumerate(head(maps, (HEIGHT, WIDTH)).maps):
        reached = torch.autograd.grad(x.square().sum(), maps, retain_graph=True, allow_unused=True)
        assert [grad is not None and bool(grad.abs().sum() > 0) for grad in reached] == [j >= i for j in range(3)]


def test_sums_of_the_neck_and_heads():
    with torch.device("meta"):
        head = YOLOv3([Level(96, 8), Level(128, 16), Level(160, 32)], num_classes=80)
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_507_677

    class OnImage(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head

        def forward(self, images):
            maps = [images.new_empty(1, c, 320 // s, 320 // s) for c, s in ((96, 8), (128, 16), (160, 32))]
            return self.head(maps, images.shape[2:])

    assert count_macs(OnImage(), 320, 320) == pytest.approx(1.044e9, rel=1e-3)


def test_sums_of_the_papers_detector():
    pyramid = Pyramid(on_meta("xformer_small"))
    with torch.device("meta"):
        model = Detector(pyramid, YOLOv3(pyramid.levels, num_classes=80))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3) == 6.304
    assert round(count_macs(model, 320, 320) / 1e9, 1) == 3.8
