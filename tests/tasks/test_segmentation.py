"""From raw tensors to maps in an image's own pixels, and more than one look at an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from featherbone.data.frames import fit
from featherbone.data.transforms import Preprocessing
from featherbone.deployment import use_form
from featherbone.errors import BadOption
from featherbone.heads.mask_rcnn import MaskDecoder
from featherbone.heads.panoptic_fpn import PanopticRaw
from featherbone.heads.roi import MaskRaw
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.inference import Inference, average_views
from featherbone.tasks.panoptic import PanopticDecoder
from featherbone.tasks.run import build_task
from featherbone.tasks.task import KINDS

CLASSES = ("sky", "road", "car")
CPU = torch.device("cpu")
COLOURS = torch.tensor([[0.1, 0.1, 0.9], [0.5, 0.5, 0.5], [0.9, 0.1, 0.1]])
SIZE = Preprocessing(32, 48, 1.0, "bilinear", (0.0,) * 3, (1.0,) * 3, "fit")


class ByColour(nn.Module):
    """Stands in for a network: logits at stride 4 by the distance to each class's colour."""

    classes = CLASSES
    seen: list[tuple[int, ...]]

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        small = F.avg_pool2d(images, 4)
        return -30 * (small[:, None] - COLOURS[None, :, :, None, None]).abs().sum(2)


@pytest.fixture
def net():
    task = ByColour()
    task.seen = []
    return task


def scene(height, width):
    """Sky above, road below, a car in the middle, a little to the left; and its map."""
    labels = np.zeros((height, width), np.uint8)
    labels[height // 2 :] = 1
    labels[height // 3 : -height // 4, width // 4 : width // 2] = 2
    return Image.fromarray((COLOURS.numpy()[labels] * 255).astype(np.uint8)), labels


LOOKS = [
    Inference(),
    Inference(slide=True),
    Inference(mirror=True),
    Inference(scales=(0.75, 1.0, 1.5)),
    Inference(slide=True, scales=(1.0, 1.5), mirror=True),
]


@pytest.mark.parametrize("views", LOOKS, ids=str)
@pytest.mark.parametrize("size", [(64, 96), (90, 61), (44, 100), (16, 24)])
def test_every_way_to_look_finds_what_is_there(net, views, size):
    image, labels = scene(*size)
    record = average_views(net, SIZE, image, views, CPU)
    assert record.labels.shape == labels.shape and record.classes == CLASSES
    scale = max(max(size[0] / 32, size[1] / 48) if not views.slide else 1, 1)
    rim = sum((labels != np.roll(labels, 1, axis)).sum() for axis in (0, 1)) * 4 * scale + 4
    assert (record.labels != labels).sum() <= rim  # what is wrong lies at borders
    assert (record.labels == labels).mean() > 0.75


def test_windows_have_the_inputs_size(net):
    average_views(net, SIZE, scene(64, 200)[0], Inference(slide=True), CPU)
    assert len(net.seen) == 3 and set(net.seen) == {(1, 3, 32, 48)}  # 100 x 32 in steps of 32


@pytest.mark.parametrize("slide", [False, True])
def test_a_mirrored_look_is_turned_back(net, slide):
    """What sees alike from either side says the same with a mirrored look as without."""
    image, _ = scene(32, 48)
    plain, mirrored = (
        average_views(net, SIZE, image, Inference(slide=slide, mirror=m), CPU).labels for m in (False, True)
    )
    assert (plain == mirrored).mean() > 0.999 and (plain != plain[:, ::-1]).any()


def test_scales_are_of_the_input(net):
    average_views(net, SIZE, scene(64, 96)[0], Inference(scales=(1.0, 2.0), mirror=True), CPU)
    assert net.seen == [(1, 3, 32, 48)] * 2 + [(1, 3, 64, 96)] * 2


def test_one_plain_look_is_decode():
    head = KINDS["semantic"].find_head(None)[1]
    preprocessing = dense_preprocessing("mobilenetv3_small_050", head, 64)
    torch.manual_seed(0)
    card = Card("semantic", "mobilenetv3_small_050", CLASSES, preprocessing, head_args={"dim": 16})
    task = build_task(card).eval()
    image, _ = scene(90, 61)
    with torch.no_grad():
        raw = task(preprocessing.transform()(image)[None])
    decoded = task.decoder(raw, [preprocessing.frame(90, 61)])[0]
    tested = average_views(task, preprocessing, image, Inference(), CPU)
    assert (decoded.labels == tested.labels).mean() > 0.999  # softmax may turn a tie


@pytest.mark.parametrize("scales", [(), (0.0,), (100.0,)])
def test_scales_without_sense_are_refused(scales):
    with pytest.raises(BadOption, match="give factors"):
        Inference(scales=scales)


def panoptic(boxes, scores, labels, stuff):
    """A decoder of classes grass, cat, dog, sky, of which two are things; and raw tensors at 16 x 16, stride 4."""
    decoder = PanopticDecoder(("grass", "cat", "dog", "sky"), (1, 2), MaskDecoder())
    masks = torch.ones(1, len(boxes), 28, 28)
    about = (torch.tensor([boxes], dtype=torch.float), torch.tensor([scores]), torch.tensor([labels]), masks)
    return decoder, PanopticRaw(MaskRaw(*about), F.one_hot(torch.tensor(stuff), 3).movedim(-1, 0)[None].float() * 9)


def test_things_lie_on_stuff():
    """A cat on grass under a sky, in an image twice the size of the input."""
    stuff = [[2, 2, 2, 2], [2, 2, 2, 2], [1, 0, 0, 1], [1, 1, 1, 1]]
    decoder, raw = panoptic([[4, 6, 12, 12], [0, 0, 4, 4]], [0.9, 0.3], [0, 1], stuff)
    (record,) = decoder(raw, [fit(32, 32, 16, 16)])
    assert [(s.name, s.thing) for s in record.segments] == [("cat", True), ("grass", False), ("sky", False)]
    cat = record.segments[0]
    assert cat.box == (8, 12, 24, 24) and cat.area == 16 * 12 and cat.score == pytest.approx(0.9)
    assert record.ids.shape == (32, 32) and set(np.unique(record.ids)) == {1, 2, 3}
    values = record.to_json()
    assert values["segments"][0]["name"] == "cat" and values["segments"][1]["score"] is None
    (more,) = decoder(raw, [fit(32, 32, 16, 16)], score=0.2)
    assert [s.name for s in more.segments][:2] == ["cat", "dog"]


def test_one_thing_is_not_two():
    """Boxes of two classes that overlap by more than half are one thing, the surer."""
    stuff = [[0] * 4] * 4
    decoder, raw = panoptic([[2, 2, 12, 12], [2, 2, 12, 13]], [0.7, 0.8], [0, 1], stuff)
    (record,) = decoder(raw, [fit(16, 16, 16, 16)])
    assert [s.name for s in record.segments] == ["dog"]
    assert (record.ids == 0).sum() == 256 - record.segments[0].area  # a thing without an instance is void


def test_little_stuff_is_void():
    stuff = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 2]]
    decoder, raw = panoptic([[0, 0, 0, 0]], [0.0], [0], stuff)
    (record,) = replace(decoder, stuff_share=0.1)(raw, [fit(16, 16, 16, 16)])
    assert [s.name for s in record.segments] == ["grass"] and 0 < (record.ids == 0).sum() < 30
    (record,) = replace(decoder, stuff_share=0.0)(raw, [fit(16, 16, 16, 16)])
    assert [s.name for s in record.segments] == ["grass", "sky"]


@pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")  # torchvision's
@pytest.mark.parametrize("task", ["semantic", "panoptic"])
@pytest.mark.parametrize("backbone", ["lvt", "test_resnet"])
def test_forward_exports(task, backbone):
    """Every head, from the first day; the exported program says the same."""
    for name, head in KINDS[task].heads.items():
        preprocessing = dense_preprocessing(backbone, head, 64)
        small = {"dim": 16} | ({"fc_dim": 16, "branch_dim": 8, "proposals": 20} if "panoptic_fpn" in name else {})
        torch.manual_seed(0)
        card = Card(task, backbone, CLASSES, preprocessing, head=name, head_args=small, things=(1, 2))
        net = build_task(card).eval()
        use_form(net, "compiled")
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            program = torch.export.export(net, (images,)).module()
            torch.testing.assert_close(program(images), net(images))
