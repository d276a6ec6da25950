"""Every task trains, measures, predicts and exports on images of five channels, as on pictures."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import featherbone
from featherbone.data.images import read_image
from featherbone.data.transforms import Preprocessing
from featherbone.engine.settings import complete
from featherbone.engine.train import evaluate_run, resume_run, start_run
from featherbone.errors import BadData, BadImage, BadOption
from featherbone.tasks.card import Card
from featherbone.tasks.inference import Inference
from featherbone.tasks.run import build_task, load_task, save_weights
from runs import Interrupted, same_run, stop_after
from scenes import WRITE, write_classification

NET = "test_resnet"
NARROW = {
    "classification": dict(color_jitter=0.4, mixup=0.2, cutmix=0.5, erasing=0.3),
    "detection": dict(head_args="dim=16,num_convs=1", photometric=0.5, mosaic=0.5, iou_crop=0.3, expand=1.5),
    "instance": dict(head_args="dim=16,fc_dim=16,proposals=12", photometric=0.5),
    "semantic": dict(head_args="dim=16", class_share=0.75, scale=(0.5, 1.5)),
    "panoptic": dict(head_args="dim=16,fc_dim=16,branch_dim=16,proposals=12"),
}
SHORT = dict(image_size=64, batch_size=4, epochs=1, warmup_epochs=0, device="cpu", workers=0, pretrained=False)


def to_arrays(folder):
    """Replace the pictures of a data set by arrays with five channels: of radar, say, and far from 0 to 255."""
    for path in sorted(folder.rglob("*.jpg")):
        grey = np.asarray(Image.open(path)).astype(np.float32)
        np.save(path.with_suffix(".npy"), np.dstack([grey * 50 - 9000, grey[..., :2] / 1000]))
        path.unlink()
    for path in folder.rglob("*.json"):
        path.write_text(path.read_text().replace(".jpg", ".npy"))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Six training and four validation images of each task."""
    root = tmp_path_factory.mktemp("arrays")

    def write(task):
        folder = root / WRITE[task].__name__
        if not folder.exists():
            WRITE[task](folder, 6, 4, (64, 64))
            to_arrays(folder)
        return folder

    return write


@pytest.fixture(scope="module")
def trained(arrays, tmp_path_factory):
    """The run of a task."""
    root = tmp_path_factory.mktemp("runs")

    def run(task):
        if not (root / task).exists():
            start_run(arrays(task), NET, task, root / task, complete(task=task, **SHORT, **NARROW[task]))
        return root / task

    return run


def an_array(folder):
    return next(folder.rglob("val/**/*.npy"))


@pytest.mark.parametrize("task", NARROW)
def test_every_task_takes_five_channels(task, arrays, trained, tmp_path):
    run, path = trained(task), an_array(arrays(task))
    card = Card.read(run)
    assert card.preprocessing.channels == 5 and card.model_args == {"in_chans": 5} and card.data["measured"] == 6
    assert card.preprocessing.mean[0] < -1000 and max(card.preprocessing.std[3:]) < 1
    assert card.metrics["images"] == 4 and not card.data["skipped"]
    metrics, _ = evaluate_run(run, None, None, "cpu", 0)
    for name in ("interval", "reliability", "ece"):  # of scores, which differ in their last bits
        metrics.pop(name, None)
    assert metrics == {name: card.metrics[name] for name in metrics}
    predictor = featherbone.load(run, device="cpu")
    values = np.load(path)
    records = predictor.predict([str(path), values, torch.from_numpy(values).movedim(2, 0)])
    assert all(record.to_json() == records[0].to_json() for record in records)
    result = featherbone.predict(run, [path], out=tmp_path / "out", device="cpu")
    assert read_image(result.predictions[0].picture).width >= 64
    assert (run / "report.html").stat().st_size > 10_000 and read_image(run / "first_batch.jpg").width > 100


def to_stacks(folder):
    """Replace the arrays of a data set by folders of a TIFF file for each channel."""
    for path in [*folder.rglob("*.npy")]:
        stack = path.with_suffix(".stack")
        stack.mkdir()
        for i, channel in enumerate(np.load(path).transpose(2, 0, 1)):
            Image.fromarray(channel).save(stack / f"{i}.tif")
        path.unlink()
    for path in folder.rglob("*.json"):
        path.write_text(path.read_text().replace(".npy", ".stack"))


@pytest.mark.parametrize("task", NARROW)
def test_every_task_reads_stacks_as_arrays(task, arrays, trained, tmp_path):
    """A run on arrays measures the same on stacks of the same values."""
    shutil.copytree(arrays(task), tmp_path / "data")
    to_stacks(tmp_path / "data")
    metrics, _ = evaluate_run(trained(task), tmp_path / "data", None, "cpu", 0)
    expected = Card.read(trained(task)).metrics
    headline = {name: value for name, value in metrics.items() if isinstance(value, float) and name != "ece"}
    assert headline and headline == {name: expected[name] for name in headline}
    stacks = [*(tmp_path / "data").rglob("val/**/*.stack")]
    result = featherbone.predict(trained(task), [stacks[0].parent], out=tmp_path / "out", device="cpu")
    assert result.predictions and not result.skipped


def test_stacks_are_trained_on(arrays, trained, tmp_path):
    shutil.copytree(arrays("classification"), tmp_path / "data")
    to_stacks(tmp_path / "data")
    assert not featherbone.doctor(tmp_path / "data", out=tmp_path / "doctor.html").examination.spoiled
    settings = complete(task="classification", **SHORT, **NARROW["classification"])
    run = start_run(tmp_path / "data", NET, None, tmp_path / "run", settings)
    mine, theirs = Card.read(run), Card.read(trained("classification"))
    assert mine.preprocessing == theirs.preprocessing and mine.metrics["loss"] == theirs.metrics["loss"]


def test_the_channels_that_pictures_lack_are_used(tmp_path):
    """The class is a shift of the fifth channel."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for label in range(2):
            (tmp_path / "data" / split / str(label)).mkdir(parents=True)
            for i in range(count):
                image = draw.normal((300, 300, 300, 300, 300 + 5 * label), 2, (32, 32, 5))
                np.save(tmp_path / "data" / split / str(label) / f"{i}.npy", image.astype(np.float32))
    settings = SHORT | dict(image_size=32, batch_size=8, epochs=4, lr=1e-2)
    run = start_run(tmp_path / "data", NET, None, tmp_path / "run", complete(**settings))
    assert Card.read(run).metrics["top1"] == 1


def test_pretrained_weights_are_adapted_as_timm_does(arrays, tmp_path):
    torch.manual_seed(0)
    own = timm.create_model(NET, num_classes=6)
    torch.save(own.state_dict(), tmp_path / "weights.pth")
    settings = SHORT | dict(checkpoint=str(tmp_path / "weights.pth"), lr=0.0, pretrained=True)
    run = start_run(arrays("classification"), NET, None, tmp_path / "run", complete(**settings))
    stem = own.default_cfg["first_conv"] + ".weight"
    first = load_task(run)[1].backbone.get_parameter(stem)
    assert torch.allclose(first[:, 3:], own.get_parameter(stem)[:, :2] * 3 / 5, atol=1e-6)


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_exports_take_five_channels(task, trained, arrays, tmp_path):
    result = featherbone.export(trained(task), to="onnx", count=3, out=tmp_path / "onnx")
    assert result.parity.images == 3 and result.parity.holds
    about = json.loads((tmp_path / "onnx/featherbone.json").read_text())["input"]
    assert about["channels"] == 5 and about["normalisation"] == "(value - mean) / std" and len(about["mean"]) == 5
    assert about["resize"]["result"] == "float32" and about["dtype"] == "float32"
    path = an_array(arrays(task))
    mine, theirs = (featherbone.load(model, device="cpu")(path) for model in (trained(task), result.path))
    assert type(mine) is type(theirs)
    assert mine.names == theirs.names and np.allclose(mine.scores, theirs.scores, atol=1e-4)
    for wrong, why in ((dict(to="web"), "the page has"), (dict(to="onnx", with_pre=True), "with-pre includes")):
        with pytest.raises(BadOption, match=f"{why} the preprocessing of RGB pictures, not of images with 5 channels"):
            featherbone.export(trained(task), out=tmp_path / "other", **wrong)


def test_int8_takes_five_channels(trained, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr("featherbone.exporters.int8.SECONDS", 0.1)
    options = dict(to="onnx", int8=True, max_drop=1.0)
    result = featherbone.export(trained("classification"), out=tmp_path / "onnx", **options)
    assert result.after.bytes < result.before.bytes
    assert featherbone.load(tmp_path / "onnx")(an_array(arrays("classification"))).names
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(BadOption, match="no image to calibrate with; give a folder of readable ones"):
        featherbone.export(trained("classification"), images=tmp_path / "a.png", out=tmp_path / "other", **options)


def test_tiles_and_windows_are_cut_from_all_channels(trained, arrays):
    large = np.tile(np.load(an_array(arrays("detection"))), (2, 2, 1))
    assert featherbone.load(trained("detection"), device="cpu", tile=64)(large).width == 128
    views = featherbone.load(trained("semantic"), device="cpu", slide=True, scales=(1.0, 1.25), mirror=True)
    assert views(large).labels.shape == (128, 128)
    metrics, _ = evaluate_run(trained("detection"), None, None, "cpu", 0, Inference(tile=48))
    assert metrics["images"] == 4


def test_another_number_of_channels_is_one_message(trained, tmp_path, arrays):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    given = "3 channels, but 5 are read; give images .height, width, 5., or train a model with --channels 3"
    with pytest.raises(BadImage, match=given):
        featherbone.load(trained("classification"), device="cpu")(tmp_path / "a.png")
    with pytest.raises(BadImage, match=f"none of 1 pictures can be read; the first: .*a.png: {given}"):
        featherbone.predict(trained("classification"), [tmp_path / "a.png"], out=tmp_path / "out", device="cpu")
    both = featherbone.predict(
        trained("classification"), [tmp_path / "a.png", an_array(arrays("classification"))], out=tmp_path / "out"
    )
    assert len(both.predictions) == 1 and list(both.skipped) == [str(tmp_path / "a.png")]


def test_images_with_other_channels_are_skipped_and_named(tmp_path, capsys):
    write_classification(tmp_path / "data", 12, 6, (32, 32))
    to_arrays(tmp_path / "data")
    other = sorted(tmp_path.glob("data/train/*/*.npy"))[3]
    np.save(other, np.zeros((32, 32, 4)))
    settings = SHORT | dict(image_size=32, auto_augment="rand-m9-mstd0.5")
    run = start_run(tmp_path / "data", NET, None, tmp_path / "run", complete(**settings))
    reason = Card.read(run).data["skipped"][other.relative_to(tmp_path / "data").as_posix()]
    assert "4 channels, but 5 are read" in reason
    assert Card.read(run).data["measured"] == 11
    shown = capsys.readouterr().err
    assert "5 channels: mean and std measured on 11 training images" in shown
    assert "auto_augment: without effect for images with 5 channels" in shown
    examined = featherbone.doctor(tmp_path / "data", out=tmp_path / "doctor.html").examination
    found = {finding.code: finding for finding in examined.findings}
    assert found["unreadable"].count == 1 and "4 channels" in found["unreadable"].examples[0].note


def test_channels_that_are_stated_decide(tmp_path):
    """Grey pictures of 16 bits are read in RGB, or as one channel with all bits."""
    for split in ("train", "val"):
        for label in range(2):
            (tmp_path / "data" / split / str(label)).mkdir(parents=True)
            for i in range(4):
                values = np.full((32, 32), 40_000 + 100 * i + 20 * label, np.uint16)
                values[0, 0] = 65535
                Image.fromarray(values).save(tmp_path / "data" / split / str(label) / f"{i}.png")
    settings = SHORT | dict(image_size=32)
    usual = start_run(tmp_path / "data", NET, None, tmp_path / "usual", complete(**settings))
    assert Card.read(usual).preprocessing.channels is None and not Card.read(usual).model_args
    run = start_run(tmp_path / "data", NET, None, tmp_path / "run", complete(**settings, channels=1))
    p = Card.read(run).preprocessing
    assert p.channels == 1 and 40_000 < p.mean[0] < 41_000
    assert featherbone.load(run, device="cpu")(np.full((20, 20), 40_000, np.uint16)).names
    with pytest.raises(BadData, match=r"1 channels, but 3 are read"):
        start_run(tmp_path / "data", NET, None, tmp_path / "three", complete(**settings, channels=3))
    with pytest.raises(BadOption, match="channels 0 is outside 1 to 1024"):
        complete(channels=0)


def test_a_resumed_run_has_the_same_weights(arrays, tmp_path, monkeypatch):
    settings = complete(**SHORT | dict(image_size=32, epochs=3, batch_size=2, ema=0.9), **NARROW["classification"])
    whole = start_run(arrays("classification"), NET, None, tmp_path / "whole", settings)
    stop_after(monkeypatch, 4)
    with pytest.raises(Interrupted):
        start_run(arrays("classification"), NET, None, tmp_path / "part", settings)
    monkeypatch.undo()
    same_run(whole, resume_run(tmp_path / "part", {}))


def test_explain_and_compare_take_five_channels(trained, arrays, tmp_path):
    shown = featherbone.explain(trained("classification"), an_array(arrays("classification")), out=tmp_path / "explain")
    assert shown.page.exists() and len(shown.pictures) >= 2
    compared = featherbone.compare(
        [f"a={trained('classification')}", f"b={trained('classification')}@drop_rate=0"],
        data=arrays("classification"),
        out=tmp_path / "compare",
        speed=False,
        device="cpu",
    )
    assert compared.num_images == 4 and (tmp_path / "compare/comparison.html").exists()


def test_a_teacher_of_pictures_is_refused(trained, arrays, tmp_path):
    teacher = tmp_path / "teacher"
    rgb = replace(
        Card.read(trained("classification")), preprocessing=Preprocessing(64, 64), model_args={}, data={}, settings={}
    )
    rgb.write(teacher)
    save_weights(teacher, build_task(rgb))
    settings = complete(**SHORT, teacher=str(teacher))
    with pytest.raises(BadOption, match=r"teacher .* takes RGB pictures, and the data has images of 5 channels"):
        start_run(arrays("classification"), NET, None, tmp_path / "run", settings)
