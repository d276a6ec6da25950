"""A backbone, head, data format, metric and export target, each one class registered by one call.

Nothing else knows them, and they go through training, evaluation, prediction, export and its verification.
"""

import io
import json
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F

import featherbone
from featherbone.data.formats import FORMATS, register_format
from featherbone.data.formats.format import Format, Opened
from featherbone.data.split import Split
from featherbone.exporters.targets import TARGETS, register
from featherbone.exporters.targets.target import Target
from featherbone.metrics.metrics import Metrics
from featherbone.tasks.semantic import SemanticKind

CLASSES = ("grass", "sky")


class ToyNet(nn.Module):
    """Two convolutions of strides 4 and 2 under timm's contract."""

    def __init__(self, num_classes=1000, in_chans=3, global_pool="avg", **_):
        super().__init__()
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, 16, 16
        self.stages = nn.ModuleList([nn.Conv2d(in_chans, 8, 4, 4), nn.Conv2d(8, 16, 2, 2)])
        self.feature_info = [
            {"num_chs": 8, "reduction": 4, "module": "stages.0"},
            {"num_chs": 16, "reduction": 8, "module": "stages.1"},
        ]
        self.global_pool, self.classifier = create_classifier(16, num_classes, global_pool)

    def forward_intermediates(self, x, indices=None, **_):
        maps = []
        for stage in self.stages:
            x = F.relu(stage(x))
            maps.append(x)
        return [maps[i] for i in indices]

    def prune_intermediate_layers(self, indices, **_):
        self.global_pool = self.classifier = nn.Identity()
        return indices

    def forward(self, x):
        return self.classifier(self.global_pool(self.forward_intermediates(x, [1])[0]))


def toy_net(pretrained=False, **kwargs):
    return build_model_with_cfg(ToyNet, "toy_net", pretrained, **kwargs)


toy_net.__module__ = __name__
default_cfgs = generate_default_cfgs(
    {"toy_net.untrained": dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, pool_size=(4, 4), crop_pct=1.0)}
)


class ToyHead(nn.Module):
    """A classifier of every position of the finest map."""

    image_size: ClassVar[int] = 32

    def __init__(self, pyramid, num_classes):
        super().__init__()
        self.classify = nn.Conv2d(pyramid[0].channels, num_classes, 1)

    def forward(self, maps, sizes):
        return self.classify(maps[0])


@dataclass(frozen=True, eq=False)
class ToySplit(Split[np.ndarray]):
    images: np.ndarray
    masks: np.ndarray
    classes: tuple[str, ...] = CLASSES

    def __len__(self):
        return len(self.images)

    def name(self, index):
        return f"{index}.png"

    def encoded(self, index):
        file = io.BytesIO()
        Image.fromarray(self.images[index]).save(file, "PNG")
        return file.getvalue()

    def truth(self, index):
        return self.masks[index]

    def take(self, indices):
        return replace(self, images=self.images[list(indices)], masks=self.masks[list(indices)])

    def fingerprint(self):
        return sha256(self.images.tobytes() + self.masks.tobytes()).hexdigest()[:16]


class ToyFormat(Format):
    """`train.npz` and `val.npz` with `images` (N, H, W, 3) and `masks` (N, H, W)."""

    name = "arrays"

    def tasks(self, folder):
        return frozenset({"semantic"}) if (folder / "train.npz").is_file() else frozenset()

    def open(self, folder, task, split, reading):
        path = folder / f"{split}.npz"
        if not path.is_file():
            return None
        with np.load(path) as file:
            return Opened(ToySplit(file["images"], file["masks"]))


class ToyMetrics(Metrics):
    """Share of the images whose most frequent class is right."""

    def __init__(self, source):
        self.right = self.images = 0

    def update(self, index, truth, record):
        self.right += np.bincount(truth.ravel()).argmax() == np.bincount(record.labels.ravel()).argmax()
        self.images += 1

    def merge(self, other):
        self.right, self.images = self.right + other.right, self.images + other.images

    def compute(self):
        return {"dominant": self.right / self.images}


class ToyTarget(Target):
    """torch's exported program as a file."""

    name = "program"
    file = "model.zip"
    magic = (0, (b"PK",))
    dynamic = ("none",)

    def write(self, net, example, path, names, dynamic, fp16=False):
        with torch.inference_mode(False), torch.no_grad(), open(path, "wb") as file:
            torch.export.save(torch.export.export(net, (example,), strict=False), file)

    def open(self, path):
        with open(path, "rb") as file:
            module = torch.export.load(file).module()
        return lambda images: module(images)


@pytest.fixture
def registered(monkeypatch):
    """The five registrations, undone after the test."""
    from timm.models import _registry

    for registry in ("_module_to_models", "_model_to_module", "_model_entrypoints", "_model_default_cfgs"):
        monkeypatch.setattr(_registry, registry, getattr(_registry, registry).copy())
    formats, targets, heads, metrics = [*FORMATS], {**TARGETS}, {**SemanticKind.heads}, [*SemanticKind.extra_metrics]
    register_model(toy_net)
    SemanticKind.register_head("toy", ToyHead)
    SemanticKind.register_metrics(ToyMetrics)
    register_format(ToyFormat())
    register(ToyTarget())
    yield
    FORMATS[:], SemanticKind.extra_metrics[:] = formats, metrics
    for registry, before in ((TARGETS, targets), (SemanticKind.heads, heads)):
        registry.clear()
        registry.update(before)


def draw(path, count, seed):
    """Fields under skies, with horizons at different heights."""
    horizons = np.random.default_rng(seed).integers(8, 24, count)
    masks = (np.arange(32)[None, :, None] < horizons[:, None, None]).repeat(32, 2).astype(np.uint8)
    images = np.array([[30, 160, 40], [90, 150, 250]], np.uint8)[masks]
    np.savez(path, images=images, masks=masks)


def test_parts_from_outside_are_used_by_every_command(registered, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    draw(data / "train.npz", 16, 0)
    draw(data / "val.npz", 6, 1)
    options = dict(head="toy", epochs=12, batch_size=8, lr=0.02, warmup_epochs=0, scale=(1.0, 1.0), photometric=0.0)
    result = featherbone.train(data, "toy_net", out=tmp_path / "run", device="cpu", workers=0, **options)
    assert result.metrics["mIoU"] > 0.8 and result.metrics["dominant"] == 1

    measured = featherbone.evaluate(result.run, data=data, device="cpu", workers=0)
    assert measured.metrics["dominant"] == 1 and measured.metrics["mIoU"] == result.metrics["mIoU"]

    picture = tmp_path / "picture.png"
    Image.fromarray(np.load(data / "val.npz")["images"][0]).save(picture)
    featherbone.predict(result.run, [picture], out=tmp_path / "pictures", device="cpu")
    rows = json.loads((tmp_path / "pictures" / "predictions.json").read_text())["predictions"]
    assert {row["name"] for row in rows[0]["classes"]} == set(CLASSES)

    exported = featherbone.export(result.run, to="program", count=3)
    assert exported.parity.holds and Path(exported.path).name == "model.zip"
    record, expected = (featherbone.load(path)(picture) for path in (exported.path, result.run))
    np.testing.assert_array_equal(record.labels, expected.labels)
    assert featherbone.evaluate(exported.path, data=data, device="cpu", workers=0).metrics["dominant"] == 1
