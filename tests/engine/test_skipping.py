"""Runs on data with images that cannot be read: the same bits after a kill, one message for too many."""

import builtins
import io
import json
import shutil

import pytest

from featherbone.cli import main
from featherbone.engine.run import load_state
from featherbone.engine.settings import complete
from featherbone.engine.train import evaluate_run, resume_run, start_run
from featherbone.errors import BadRun
from featherbone.tasks.card import Card
from featherbone.tasks.inference import Inference
from runs import Interrupted, options, same_run, stop_after
from scenes import write_coco


@pytest.fixture
def spoilt(drawn, tmp_path):
    """Two training images and a validation image that cannot be read."""
    folder = shutil.copytree(drawn, tmp_path / "spoilt")
    for path in (*sorted((folder / "train").glob("*/*.jpg"))[3:10:6], sorted((folder / "val").glob("*/*.jpg"))[2]):
        path.write_bytes(path.read_bytes()[:200])
    return folder


@pytest.fixture
def start(spoilt, tmp_path):
    """Train on them; the run folder."""
    return lambda name, **settings: start_run(spoilt, "lvt", None, tmp_path / name, complete(**settings))


def bad(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg") if path.stat().st_size == 200}


def test_they_are_counted_and_named_once(start, spoilt, short, capsys):
    run = start("run", **short | dict(epochs=4))
    err = capsys.readouterr().err
    card = json.loads((run / "card.json").read_text())
    assert card["data"]["skipped"].keys() == bad(spoilt) and len(bad(spoilt)) == 3
    assert (card["data"]["train"], card["data"]["val"], card["metrics"]["images"]) == (24, 12, 11)
    page = (run / "report.html").read_text()
    assert "Skipped images (3)" in page
    for name in bad(spoilt):
        assert err.count(f"skipped {name}: damaged") == 1 and name in page
    measured, _ = evaluate_run(run, None, run / "again.html", "cpu", 0)
    assert measured["images"] == 11 and sum(map(sum, measured["confusion"])) == 11
    assert measured["loss"] == pytest.approx(card["metrics"]["loss"])
    assert "Skipped images (1)" in (run / "again.html").read_text()


@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_run_ends_in_the_same_bits(start, spoilt, short, monkeypatch, step):
    short |= dict(save_seconds=0)
    whole = start("whole", **short)
    with monkeypatch.context() as patched:
        stop_after(patched, step)
        with pytest.raises(Interrupted):
            start("parts", **short)
    parts = resume_run(whole.parent / "parts", {"workers": 2})
    same_run(whole, parts)
    skipped = [Card.read(run).data["skipped"].keys() for run in (whole, parts)]
    assert skipped[0] == skipped[1] == bad(spoilt)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_are_one_message(spoilt, short, tmp_path, capsys, workers):
    for path in sorted((spoilt / "train").glob("*/*.jpg"))[:12]:
        path.write_bytes(b"")
    command = ["train", "--data", spoilt, "--model", "lvt", "--out", tmp_path / "run"]
    assert main(list(map(str, [*command, *options(short | dict(workers=workers))]))) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "more than 1%" in line)
    assert "of 24 train images cannot be read" in line and f"featherbone doctor {spoilt}" in line


def test_a_step_reads_the_images_of_its_batch(drawn, short, tmp_path, monkeypatch):
    opened = []

    def watch(path, *arguments, **keywords):
        if str(path).endswith(".jpg") and "r" in (*arguments, keywords.get("mode", "r"))[0]:
            opened.append(str(path))
        return original(path, *arguments, **keywords)

    original = builtins.open
    for module in (builtins, io):
        monkeypatch.setattr(module, "open", watch)
    stop_after(monkeypatch, 1)
    with pytest.raises(Interrupted):
        start_run(drawn, "lvt", None, tmp_path / "run", complete(**short))
    train = {path for path in opened if "/train/" in path}
    assert len(train) <= 16  # one step's batch of eight, and the next that was loaded when it was stopped
    assert len({path for path in opened if "/val/" in path}) == 1  # so that not all of them are damaged


def test_evaluation_with_tiles_omits_them(tmp_path):
    write_coco(tmp_path / "data", 8, 4, (64, 64))
    (tmp_path / "data/val/00001.jpg").write_bytes(b"")
    settings = dict(image_size=64, batch_size=4, epochs=1, device="cpu", workers=0, head_args="dim=16,num_convs=1")
    run = start_run(tmp_path / "data", "lvt", "detection", tmp_path / "run", complete(task="detection", **settings))
    assert Card.read(run).metrics["images"] == 3
    assert evaluate_run(run, None, None, "cpu", 0, Inference(tile=32))[0]["images"] == 3


def test_a_run_of_an_earlier_version_is_resumed(drawn, train, short, tmp_path, monkeypatch):
    """It began without the images that cannot be read, which its card names."""
    whole = train("whole", **short)
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(Interrupted):
            train("parts", **short)
    data = shutil.copytree(drawn, tmp_path / "data")
    first = next((data / "train").iterdir())
    (first / "0.jpg").write_bytes(b"")
    parts, name = tmp_path / "parts", f"train/{first.name}/0.jpg"
    with pytest.raises(BadRun, match="not the images this run began with"):
        resume_run(parts, {}, data)
    card = json.loads((parts / "card.json").read_text())
    card["data"]["skipped"] = {name: f"{name}: an empty file"}
    (parts / "card.json").write_text(json.dumps(card))
    same_run(whole, resume_run(parts, {}, data))
    assert list(Card.read(parts).data["skipped"]) == [name]


def test_fingerprints_of_an_earlier_version_are_not_compared(tmp_path):
    write_coco(tmp_path / "data", 8, 4, (64, 64))
    settings = dict(image_size=64, batch_size=4, epochs=1, device="cpu", workers=0, head_args="dim=16,num_convs=1")
    run = start_run(tmp_path / "data", "lvt", "detection", tmp_path / "run", complete(task="detection", **settings))
    card = json.loads((run / "card.json").read_text())
    card["data"] |= dict(fingerprint="0" * 16, val_fingerprint="0" * 16)
    (run / "card.json").write_text(json.dumps(card))
    assert load_state(resume_run(run, {}))["step"] == 2
    evaluate_run(run, None, None, "cpu", 0)
    (run / "card.json").write_text(json.dumps(card | {"data": card["data"] | {"train": 9}}))
    with pytest.raises(BadRun, match="not the images this run began with"):
        resume_run(run, {})
