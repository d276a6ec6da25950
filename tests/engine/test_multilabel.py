"""Several labels per image go through training, evaluation, prediction, export and comparison."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import featherbone
from featherbone.engine.settings import complete
from featherbone.engine.train import resume_run, start_run
from featherbone.errors import BadOption
from featherbone.results import LabelSet
from featherbone.tasks.card import Card
from featherbone.tasks.classification import ClassTargets
from featherbone.tasks.multilabel import LabelClassifier, LabelDecoder
from runs import Interrupted, rows, same_run, stop_after

COLOURS = ("red", "green", "blue")
SETTINGS = dict(
    image_size=32, batch_size=8, epochs=12, warmup_epochs=1, lr=1e-2, device="cpu", workers=0, pretrained=False,
    auto_augment="", min_area=0.8, ema=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of the sum of any of three colours, also of none, with noise."""
    folder, draw = tmp_path_factory.mktemp("labels") / "data", np.random.default_rng(0)
    lines = [("image", "label")]
    for split, count in (("train", 48), ("val", 24)):
        (folder / "images" / split).mkdir(parents=True)
        for number in range(count):
            there = draw.random(3) < 0.5
            pixels = (40 + 150 * there + draw.integers(0, 30, (32, 32, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{number}.png")
            labels = ";".join(name for name, shown in zip(COLOURS, there, strict=True) if shown)
            lines.append((f"images/{split}/{number}.png", labels))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    result = featherbone.train(
        data, "test_resnet", task="classification", out=tmp_path_factory.mktemp("runs") / "run", **SETTINGS
    )
    return result.run


def test_colours_are_learned(run, capsys):
    card = Card.read(run)
    assert card.task == "multilabel" and card.classes == ("blue", "green", "red")
    assert card.metrics["mAP"] > 0.95 and card.metrics["micro_F1"] > 0.9 and card.metrics["images"] == 24
    low, high = card.metrics["interval"]["mAP"]
    assert low < card.metrics["mAP"] <= high
    assert len(card.metrics["per_class"]) == len(card.metrics["F1"]) == 3
    assert "val" in rows(run)[-1] and (run / "report.html").stat().st_size > 10_000
    measured = featherbone.evaluate(run, device="cpu").metrics
    assert measured["mAP"] == card.metrics["mAP"] and measured["loss"] == pytest.approx(card.metrics["loss"])


def test_records_hold_what_is_above_the_threshold(run, data, tmp_path):
    pictures = [data / f"images/val/{number}.png" for number in range(8)]
    usual, all_classes = (featherbone.load(run, device="cpu", score=score) for score in (None, 0.0))
    assert usual.score == 0.5
    for record, whole in zip(usual.predict(pictures), all_classes.predict(pictures), strict=True):
        assert isinstance(record, LabelSet) and len(whole.labels) == 3
        assert list(whole.scores) == sorted(whole.scores, reverse=True)
        assert record == whole.above(0.5)
    result = featherbone.predict(run, [data / "images/val"], out=tmp_path / "out", device="cpu")
    assert len(result.predictions) == 24 and any("no label" in line for line in str(result).splitlines())
    first = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"][0]
    assert first["task"] == "multilabel" and all(0.5 < row["score"] <= 1 for row in first["classes"])
    table = featherbone.predict(run, [data / "images/val"], out=tmp_path / "rows", device="cpu", rows="parquet")
    assert table.predicted == 24


def test_exports_give_the_same_labels(run, data, tmp_path):
    result = featherbone.export(run, to="onnx", out=tmp_path / "onnx", count=4)
    assert result.parity.holds and result.parity.worst.score < 1e-5
    decode = json.loads((tmp_path / "onnx/featherbone.json").read_text())["decode"]
    assert decode["kind"] == "sigmoid" and decode["shown"] == 0.5
    record = featherbone.load(result.path)(data / "images/val/0.png")
    assert record.labels == featherbone.load(run, device="cpu")(data / "images/val/0.png").labels


def test_int8_keeps_the_labels(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr("featherbone.exporters.int8.SECONDS", 0.1)
    result = featherbone.export(run, to="onnx", int8=True, max_drop=0.05, out=tmp_path / "onnx")
    assert result.before.metric == pytest.approx(Card.read(run).metrics["mAP"]) and result.after.metric > 0.9
    assert result.after.bytes < result.before.bytes
    record = featherbone.load(tmp_path / "onnx")(data / "images/val/0.png")
    assert record.labels == featherbone.load(run, device="cpu")(data / "images/val/0.png").labels


def test_a_resumed_run_has_the_same_weights(data, tmp_path, monkeypatch):
    settings = complete(task="multilabel", **SETTINGS | dict(epochs=2, mixup=0.2, cutmix=0.5, ema=0.9))
    whole = start_run(data, "test_resnet", "multilabel", tmp_path / "whole", settings)
    stop_after(monkeypatch, 4)
    with pytest.raises(Interrupted):
        start_run(data, "test_resnet", "multilabel", tmp_path / "part", settings)
    monkeypatch.undo()
    same_run(whole, resume_run(tmp_path / "part", {}))


def test_rare_labels_are_repeated(data, tmp_path):
    settings = complete(task="multilabel", **SETTINGS | dict(epochs=1, repeat_factor=0.9))
    run = start_run(data, "test_resnet", "multilabel", tmp_path / "run", settings)
    assert Card.read(run).metrics["images"] == 24


def test_runs_are_compared(run, data, tmp_path):
    compared = featherbone.compare(
        [f"a={run}", f"b={run}@drop_rate=0"], data=data, out=tmp_path, speed=False, device="cpu"
    )
    assert compared.num_images == 24 and compared.rows[0].value == Card.read(run).metrics["mAP"]


def test_what_is_of_one_class_is_refused(run, data, tmp_path):
    for option in (dict(smoothing=0.1), dict(teacher="lvt")):
        with pytest.raises(BadOption, match=f"option {next(iter(option))} has no effect for multilabel"):
            featherbone.train(data, "test_resnet", out=tmp_path / "run", **option)
    with pytest.raises(BadOption, match="mix_token trains on one class"):
        args = SETTINGS | dict(image_size=64, model_args="mix_token=True")
        featherbone.train(data, "lvt_cls", out=tmp_path / "mix", **args)


def test_every_label_above_a_score_is_explained(run, data, tmp_path):
    shown = featherbone.explain(run, data / "images/val/0.png", out=tmp_path / "a", score=0.01, device="cpu")
    assert [item.item.name for item in shown.items] == list(shown.record.names) and len(shown.items) > 1
    none = featherbone.explain(run, data / "images/val/0.png", out=tmp_path / "b", score=0.9999, device="cpu")
    assert none.items == () and "nothing was found in this image above" in " ".join(none.page.read_text().split())


def test_the_loss_is_binary_cross_entropy():
    raw, labels = torch.tensor([[0.0, 2.0], [-1.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.3, 0.0]])
    task = LabelClassifier(torch.nn.Identity(), ("a", "b"))
    expected = -(labels * raw.sigmoid().log() + (1 - labels) * (1 - raw.sigmoid()).log()).mean()
    assert torch.allclose(task.losses(raw, ClassTargets(labels))["class"], expected)


def test_a_decoder_keeps_what_exceeds_the_score():
    decoder, raw = LabelDecoder(("a", "b", "c")), torch.tensor([[0.0, 3.0, -1.0], [-9.0, -9.0, -8.0]])
    first, second = decoder(raw, score=0.5)
    assert first.names == ("b",) and first.name == "b" and second.names == ()
    assert [record.names for record in decoder(raw)] == [("b", "a", "c"), ("c", "a", "b")]
    assert decoder.tensors(raw, None)["labels"].tolist() == [1, 0, 2]
