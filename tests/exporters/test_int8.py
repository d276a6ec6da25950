import json
import math
from itertools import chain, repeat

import onnx
import pytest
import torch
from torch.nn import functional as F

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption, MissingExtra
from featherbone.exporters.artifact import Artifact, Form, raw_difference
from featherbone.exporters.exported import open_task
from featherbone.exporters.int8 import Int8Drops, export_int8
from featherbone.exporters.parity import alike
from featherbone.exporters.targets import TARGETS
from featherbone.ops.boxes import Target
from featherbone.tasks.card import Card
from featherbone.tasks.classification import ClassTargets, build_classifier
from featherbone.tasks.run import build_task
from scenes import THINGS, draw_scene

CLASSES = tuple("abcdefgh")
CARD = Card("classification", "test_resnet", CLASSES, Preprocessing(64, 64))


def gratings(count, seed):
    """Stripes of eight directions under noise; the direction is the class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    angle, phase = math.pi * labels / len(CLASSES), 6.3 * torch.rand(count, generator=rng)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    along = x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]
    images = (0.8 * along + phase[:, None, None]).sin()[:, None].expand(-1, 3, -1, -1)
    return images + 0.7 * torch.randn(images.shape, generator=rng), labels


TRAIN, VAL = gratings(128, 0), gratings(96, 1)


def accuracy(task):
    with torch.inference_mode():
        return float((task(VAL[0]).argmax(1) == VAL[1]).float().mean())


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Latencies are measured briefly."""
    monkeypatch.setattr("featherbone.exporters.int8.SECONDS", 0.1)


@pytest.fixture(scope="module")
def learned():
    """Weights of a classifier that knows the directions."""
    torch.manual_seed(0)
    task = build_classifier(CARD.backbone, CLASSES).train()
    optimiser = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for step in range(48):
        part = slice(32 * (step % 4), 32 * (step % 4) + 32)
        labels = F.one_hot(TRAIN[1][part], len(CLASSES)).float()
        loss = task.losses(task(TRAIN[0][part]), ClassTargets(labels))["class"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert accuracy(task.eval()) > 0.9
    return task.state_dict()


@pytest.fixture
def task(learned):
    task = build_classifier(CARD.backbone, CLASSES).eval()
    task.load_state_dict(learned)
    return task


def with_outlier(task, factor=3000):
    """The same function, with one channel between two convolutions blown up, and shrunk again by the second."""
    _, norm, _, second = task.backbone.conv1[:4]
    with torch.no_grad():
        expected = task(VAL[0])
        norm.weight[3] *= factor
        norm.bias[3] *= factor
        second.weight[:, 3] /= factor
        torch.testing.assert_close(task(VAL[0]), expected, atol=1e-2, rtol=1e-2)
    return task


PAIR = ("backbone.conv1.0", "backbone.conv1.3")
"""The layers between which the outlier is."""


def weights_in_file(path):
    """Types of the numbers that convolutions and the classifier multiply with, by layer."""
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    dequantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            name = dequantised.get(node.input[1], node.input[1])
            layer = name.removeprefix("task.").split(".weight")[0]
            found[layer] = onnx.TensorProto.DataType.Name(constants[name])
    return found


class Stacked(torch.nn.Module):
    """A product with a stack of matrices, and one with a matrix."""

    def forward(self, images):
        return images @ torch.linspace(-1, 1, 48).reshape(3, 4, 4) @ torch.linspace(-1, 1, 20).reshape(4, 5)


def test_products_with_stacks_of_matrices_stay_float(tmp_path):
    """ONNX Runtime does not multiply with a stack whose matrices have a scale per channel."""
    images, onnx_target = torch.randn(2, 3, 6, 4), TARGETS["onnx"]
    source, path = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx_target.write(Stacked(), images, source, ["y"], "batch")
    onnx_target.quantize(Stacked(), source, path, [images])
    assert len(onnx_target.layers(source)) == 1
    expected = Stacked()(images)
    assert 1e-6 < (onnx_target.open(path)(images)[0] - expected).abs().max() / expected.abs().max() < 0.05


@pytest.mark.parametrize("target", ["onnx", "openvino", "executorch"])
def test_int8_is_smaller_and_as_good(task, target, tmp_path):
    before = accuracy(task)
    form = Form(TARGETS[target], "none" if target == "executorch" else "batch")
    result = export_int8(CARD, task, form, tmp_path / "out", TRAIN[0][:16], accuracy, 0.05, "top1")
    card, exported = open_task(tmp_path / "out")
    assert accuracy(exported) == result.after.metric >= before - 0.05
    assert result.before.metric == before
    assert result.after.bytes < 0.6 * result.before.bytes
    assert exported.manifest.precision == "int8" and card.classes == CLASSES
    with torch.inference_mode():
        error = (exported(VAL[0]) - task(VAL[0])).square().mean() / task(VAL[0]).square().mean()
    assert 1e-8 < error < 0.05  # rounded, and not much
    report = json.loads((tmp_path / "out" / "int8.json").read_text())
    assert report["float"]["metric"] == before and report["int8"]["metric"] == result.after.metric
    assert "top1" in str(result)


def test_a_sensitive_layer_stays_float(task, tmp_path):
    """In int8 the outlier's neighbours are lost; the search leaves both in float, and nothing else."""
    with_outlier(task)
    metrics = []

    def evaluate(exported):
        metrics.append(accuracy(exported))
        return metrics[-1]

    form = Form(TARGETS["onnx"], "batch")
    result = export_int8(CARD, task, form, tmp_path / "out", TRAIN[0][:16], evaluate, 0.03)
    assert metrics[1] < metrics[0] - 0.2 and result.floats == 2
    assert metrics[-1] == result.after.metric >= result.before.metric - 0.03
    kinds = weights_in_file(tmp_path / "out" / "model.onnx")
    assert {layer for layer, kind in kinds.items() if kind == "FLOAT"} == set(PAIR)
    assert {kind for layer, kind in kinds.items() if layer not in PAIR} == {"INT8"}


def test_openvino_leaves_chosen_layers_in_float(task, tmp_path):
    """The outlier is between the first two layers; with both in float, the rest is as good as without an outlier."""
    target = TARGETS["openvino"]
    artifact = Artifact.of(with_outlier(task), Form(target, "batch"), TRAIN[0][:16])
    folders = [tmp_path / name for name in ("float", "all", "chosen")]
    for folder in folders:
        folder.mkdir()
    artifact.write(folders[0])
    layers = target.layers(artifact.path(folders[0]))
    assert len(layers) == sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in task.modules())
    errors = []
    for folder, floats in ((folders[1], ()), (folders[2], layers[:2])):
        artifact.quantize(folders[0], folder, TRAIN[0][:16], floats)
        errors.append(raw_difference(artifact.expected(VAL[0]), artifact.outputs(folder, VAL[0])).error)
    assert errors[0] > 0.5 and 1e-4 < errors[1] < 0.2
    assert target.size(folders[1]) < target.size(folders[2]) < 0.6 * target.size(folders[0])


def test_what_is_never_good_enough_is_refused(task, tmp_path):
    metrics = chain([0.9], repeat(0.5))
    with pytest.raises(Int8Drops, match=r"metric 0.5000 and .* MB, the float file 0.9000 and") as caught:
        export_int8(CARD, task, Form(TARGETS["onnx"]), tmp_path / "out", TRAIN[0][:4], lambda _: next(metrics), 0.1)
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_objects_stay_where_they_are(tmp_path):
    """A detector that knows four pictures finds the same in them, its file with normalisation inside."""
    torch.manual_seed(0)
    p = Preprocessing(64, 64, rule="fit", interpolation="bilinear", crop=1.0)
    arguments = {"dim": 24, "num_convs": 1}
    card = Card("detection", "test_resnet", THINGS, p, head="retinanet", head_args=arguments)
    task = build_task(card).train()
    scenes = [draw_scene(3, i, (64, 64), most=2) for i in range(4)]
    images = torch.stack([p.transform()(scene.image) for scene in scenes])
    frames = [p.frame(64, 64)] * 4
    targets = [Target(torch.from_numpy(s.boxes), torch.from_numpy(s.labels)) for s in scenes]
    optimiser = torch.optim.AdamW(task.parameters(), lr=4e-3)
    for _ in range(60):
        loss = sum(task.losses(task(images), targets).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    task.eval()
    with torch.inference_mode():
        expected = task.decoder(task(images), frames, score=0.4)
    assert sum(map(len, expected)) >= 4

    def found_again(exported):
        """Share of the pictures whose objects are all found at their places."""
        with torch.inference_mode():
            pairs = zip(expected, exported.decoder(exported(images), frames, score=0.4), strict=True)
        likenesses = [alike(mine, theirs, 0.15) for mine, theirs in pairs]
        return sum(each.unmatched == 0 and (each.box_iou or 0) > 0.8 for each in likenesses) / 4

    form = Form(TARGETS["onnx"], "batch", with_pre=True)
    result = export_int8(card, task, form, tmp_path / "out", images, found_again, 0.0)
    assert result.before.metric == result.after.metric == 1
    assert result.after.bytes < result.before.bytes


@pytest.mark.parametrize(
    "target,images,drop,match",
    [
        ("torch", 1, 0.01, "int8 is not available for torch; export to onnx or openvino or executorch"),
        ("web", 1, 0.01, "int8 is not available for web"),
        ("ncnn", 1, 0.01, "int8 is not available for ncnn; export to onnx"),
        ("onnx", 0, 0.01, "no image to calibrate with"),
        ("onnx", 1, 1.5, "max-drop 1.5 is not from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(target, images, drop, match, tmp_path):
    with pytest.raises(BadOption, match=match):
        export_int8(CARD, None, Form(TARGETS[target]), tmp_path / "out", TRAIN[0][:images], accuracy, drop)


@pytest.mark.parametrize("target,package", [("openvino", "nncf"), ("executorch", "torchao")])
def test_a_missing_tool_is_named(target, package, tmp_path, monkeypatch):
    monkeypatch.setattr("featherbone.exporters.targets.target.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=rf"{package} not installed; pip install 'featherbone\[{target}\]'"):
        export_int8(CARD, None, Form(TARGETS[target]), tmp_path / "out", TRAIN[0][:1], accuracy)
