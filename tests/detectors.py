"""Detectors on drawn maps, for tests of their heads: maps, objects, and heads that find a lot or nothing."""

from math import ceil

import torch
from torch import nn

from featherbone.data.frames import inner_sizes
from featherbone.heads.anchors import AnchorRaw
from featherbone.heads.levels import Level
from featherbone.heads.nms_free import CellRaw, NMSFree
from featherbone.heads.retinanet import RetinaNet
from featherbone.heads.yolov3 import YoloRaw, YOLOv3
from featherbone.ops.boxes import Target
from registered import randomise

DIM, CLASSES = 16, 5
PYRAMID = [Level(6, 8), Level(10, 16), Level(12, 32)]


class Detector(nn.Module):
    """A head on a pyramid."""

    def __init__(self, pyramid, head):
        super().__init__()
        self.pyramid, self.head = pyramid, head

    def forward(self, images):
        return self.head(self.pyramid(images), inner_sizes(images))


def draw_maps(batch, height, width, pyramid=PYRAMID):
    return [torch.randn(batch, c, ceil(height / stride), ceil(width / stride)) for c, stride in pyramid]


def draw_target(count, height, width, smallest=5):
    """Objects of all sizes, the first so small that no anchor of RetinaNet reaches an IoU of 0.4."""
    corners = (torch.rand(count, 2, 2).sort(1).values * torch.tensor([width, height])).flatten(1)
    boxes = corners + torch.tensor([0, 0, 3, 3])
    boxes[:1, 2:] = boxes[:1, :2] + smallest
    return Target(boxes, torch.randint(CLASSES, (count,)))


def lively_retinanet():
    """A head that finds a lot before it has learned anything."""
    torch.manual_seed(0)
    head = RetinaNet(PYRAMID, CLASSES, DIM)
    for tower in (head.classes, head.boxes):
        for convolution in tower[::2]:
            nn.init.normal_(convolution.weight, std=0.12)
            convolution.bias.data += torch.randn_like(convolution.bias) * 0.1
    head.classes[-1].bias.data += 1
    return head


def silent_retinanet(height, width):
    """Raw maps of one image in which nothing is found, and whose boxes are the anchors."""
    sizes = [(ceil(height / stride), ceil(width / stride)) for stride in (8, 16, 32, 64, 128)]
    return AnchorRaw(
        tuple(torch.full((1, 9 * CLASSES, *size), -20.0) for size in sizes),
        tuple(torch.zeros(1, 36, *size) for size in sizes),
    )


def lively_yolov3():
    """The same, in evaluation."""
    torch.manual_seed(0)
    head = randomise(YOLOv3(PYRAMID, CLASSES, DIM)).eval()
    for convolutions in head.heads:
        convolutions[-1].bias.data.view(3, -1)[:, 4:] += 4.6
    return head


def silent_yolov3(height, width):
    """The same; the anchors are in the middle of their cells."""
    maps = [torch.zeros(1, 3, 5 + CLASSES, ceil(height / stride), ceil(width / stride)) for stride in (8, 16, 32)]
    for x in maps:
        x[:, :, 4:] = -20
    return YoloRaw(tuple(x.flatten(1, 2) for x in maps))


def lively_nms_free():
    """The same; the selection changes little, so that neighbours have scores, too."""
    torch.manual_seed(0)
    head = randomise(NMSFree(PYRAMID, CLASSES, DIM)).eval()
    head.classes.predict.bias.data += 4.6
    head.slope.data.fill_(0.5)
    return head


def silent_nms_free(height, width):
    """The same; the boxes have sides of two strides."""
    sizes = [(ceil(height / stride), ceil(width / stride)) for stride in (8, 16, 32)]
    return CellRaw(
        tuple(torch.full((1, CLASSES, *size), -20.0) for size in sizes),
        tuple(torch.ones(1, 4, *size) for size in sizes),
    )
