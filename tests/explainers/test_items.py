"""What objects, classes on maps and segments depended on: known answers, a trained detector, and every head."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from featherbone.data.frames import Frame
from featherbone.engine.settings import complete
from featherbone.engine.train import start_run
from featherbone.errors import BadOption
from featherbone.explainers import explain
from featherbone.explainers.cam import evidence, link
from featherbone.heads.levels import Level
from featherbone.predictor import load
from featherbone.tasks.card import Card
from featherbone.tasks.dense import DenseTask
from featherbone.tasks.run import build_task, load_task, save_weights
from featherbone.tasks.semantic import ClassMapDecoder
from featherbone.tasks.task import KINDS
from registered import randomise
from scenes import write_coco

NARROW = {"dim": 16, "num_convs": 1, "fc_dim": 16, "branch_dim": 16, "mask_dim": 8, "proposals": 12}
HEADS = [(kind.name, head) for kind in KINDS.values() for head in kind.heads or (None,)]


class Pools(nn.Module):
    """Maps of strides 4 and 8: means of the input's channels."""

    levels = (Level(3, 4), Level(3, 8))

    def forward(self, x):
        return [F.avg_pool2d(x, 4), F.avg_pool2d(x, 8)]


class Sum(nn.Module):
    """Logits that are the finer map and twice the coarser one."""

    def forward(self, maps, sizes):
        return maps[0] + 2 * F.interpolate(maps[1], scale_factor=2, mode="nearest")


def test_the_map_of_a_class_on_a_map_is_its_logits_in_its_region():
    """Class 1 is bright in the left half, where its region is; elsewhere nothing counts."""
    x = torch.full((1, 3, 32, 64), 0.1)
    x[:, 1, :, :32], x[:, 2, :, 32:] = 3.0, 2.0
    task = DenseTask(Pools(), Sum(), ClassMapDecoder(("a", "b", "c")))
    linked = link(task, x)
    record, items = KINDS["semantic"].items(task.decoder, linked.raw, Frame(32, 64, 32, 64, 32, 64), None)
    assert [item.name for item in items] == ["b", "c"] and record.labels[0, 0] == 1
    value = items[0].value()
    cam, stride = evidence(linked, value, x)
    assert stride == 4 and cam.shape == (8, 16)
    assert cam.sum().item() == pytest.approx(value.item(), rel=0.05)  # a linear head: contributions sum to the scalar
    assert cam[:, :8].sum() > 0.97 * cam.sum() and not cam[:, 11:].any()
    torch.testing.assert_close(cam[:, :6], torch.full((8, 6), value.item() / 64), rtol=0.05, atol=0)


def build_run(folder, task, head):
    kind = KINDS[task]
    _, found = kind.find_head(head)
    things = (0, 1) if task == "panoptic" else ()
    taken = {} if found is None else {k: v for k, v in NARROW.items() if k in found.__init__.__code__.co_varnames}
    preprocessing = kind.preprocessing("test_resnet", found, 64)
    card = Card(task, "test_resnet", ("a", "b", "<i>c"), preprocessing, head=head, head_args=taken, things=things)
    torch.manual_seed(0)
    card.write(folder)
    model = randomise(build_task(card))
    for convolutions in model.head.heads if head == "yolov3" else ():
        convolutions[-1].bias.data.view(3, -1)[:, 4:] += 4.6  # else it finds nothing
    save_weights(folder, model)
    return folder


@pytest.fixture
def file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_every_head_is_explained_and_unchanged(task, head, file, tmp_path, monkeypatch):
    run = build_run(tmp_path / "run", task, head)
    card, model = load_task(run)
    monkeypatch.setattr("featherbone.explainers.load_model", lambda *given: (card, model))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score = None if task == "semantic" else 0.01
    expected = load(run, device="cpu", score=score)(file).to_json()
    result = explain(run, file, out=tmp_path / "out", score=score, device="cpu")
    assert not model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    written = result.to_json()
    assert json.dumps(written) and written["record"].keys() == expected.keys()
    assert result.items and all(item.picture.is_file() for item in result.items)
    assert [item["item"] for item in written["items"]] == list(range(1, len(result.items) + 1))
    page = result.page.read_text()
    assert page.count("<img ") == len(result.pictures) and "<i>" not in page and 'id="prediction"' in page
    last = result.items[-1]
    again = explain(run, file, out=tmp_path / "again", items=[last.item.name], score=score, device="cpu")
    assert {item.item.name for item in again.items} == {last.item.name}
    with pytest.raises(BadOption, match=r"item 'zebra' is not in the prediction, .* 1 "):
        explain(run, file, out=tmp_path / "none", items=["zebra"], score=score, device="cpu")
    assert not (tmp_path / "none").exists()


def test_an_image_without_any_object_has_a_page_that_states_it(file, tmp_path):
    run = build_run(tmp_path / "run", "detection", "nms_free")
    result = explain(run, file, out=tmp_path / "out", score=0.9999, device="cpu")
    assert result.items == () and len(result.record) == 0 and "nothing was found" in str(result)
    assert "nothing was found in this image above a score of 1.00" in " ".join(result.page.read_text().split())
    with pytest.raises(BadOption, match="nothing was found; pass a lower score"):
        explain(run, file, out=tmp_path / "none", items=["1"], score=0.9999, device="cpu")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A detector that knows four scenes, the model and its inputs."""
    folder = tmp_path_factory.mktemp("detector")
    write_coco(folder / "data", 4, 1, (96, 96), seed=3)
    settings = complete(
        task="detection", head="nms_free", head_args="dim=32,num_convs=1", image_size=96, batch_size=4, epochs=60,
        warmup_epochs=1, lr=4e-3, scale=(1.0, 1.0), photometric=0.0, flip=0.0, eval_every=1000, device="cpu", workers=0,
    )  # fmt: skip
    run = start_run(folder / "data", "test_resnet", "detection", folder / "run", settings)
    card, task = load_task(run)
    transform = card.preprocessing.transform()
    return task, [transform(Image.open(folder / f"data/train/{i:05}.jpg"))[None] for i in range(4)]


def test_an_object_depends_on_its_place_and_loses_its_score_without_it(detector):
    """The mean over confident objects: mass near the box, and what occlusion of the brightest tenth costs."""
    task, inputs = detector
    kind, frame = KINDS["detection"], Frame(96, 96, 96, 96, 96, 96)
    shares, ours, others, draw = [], [], [], torch.Generator().manual_seed(0)
    for x in inputs:
        linked = link(task, x)
        record, items = kind.items(task.decoder, linked.raw, frame, 0.4)
        for item, box, label in zip(items, record.boxes, record.labels, strict=True):
            cam, stride = evidence(linked, item.value(), x)
            cam = F.interpolate(cam[None, None], scale_factor=int(stride), mode="nearest")[0, 0]
            x1, y1, x2, y2 = (max(int(side) + reach, 0) for side, reach in zip(box, (-8, -8, 8, 8), strict=True))
            shares.append((cam[y1:y2, x1:x2].sum() / cam.sum()).item() - (x2 - x1) * (y2 - y1) / 96**2)
            brightest = cam >= cam.flatten().kthvalue(int(0.9 * cam.numel())).values
            blocks = torch.rand(12, 12, generator=draw)
            elsewhere = F.interpolate((blocks > 0.9).float()[None, None], scale_factor=8, mode="nearest")[0, 0] > 0
            for mask, drops in ((brightest, ours), (elsewhere, others)):
                with torch.no_grad():
                    found = task.decoder(task(x.where(~mask, 0)), [frame], score=0.0)[0]
                rows = zip(found.boxes, found.labels, found.scores, strict=True)
                left = [score for other, k, score in rows if k == label and near(other, box)]
                drops.append(item.score - max(left, default=0.0))
    assert len(shares) >= 4
    assert np.mean(shares) > 0.35, shares
    assert np.mean(ours) > 2 * max(np.mean(others), 0.02), (np.mean(ours), np.mean(others))


def near(one, other):
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) > 0.5
