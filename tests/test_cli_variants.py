"""Commands on `RUN@KEY=VALUE`: the model of a run with other keyword arguments."""

import json

import pytest
import torch

import featherbone
from featherbone.cli import main
from featherbone.files import to_json
from featherbone.tasks.card import Card
from featherbone.tasks.run import build_task, load_task, save_weights
from scenes import write_classification


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set and an LVT that was trained on it with random depths."""
    folder = tmp_path_factory.mktemp("world")
    write_classification(folder / "data", 24, 12, (32, 32))
    command = "train --model lvt --model-args recursion=random --image-size 32 --epochs 1 --batch-size 8 --workers 0"
    places = ["--data", str(folder / "data"), "--out", str(folder / "run")]
    assert main([*command.split(), "--device", "cpu", *places]) == 0
    task = load_task(folder / "run")[1]
    torch.manual_seed(0)
    for weight in task.parameters():  # so that depths differ after so short a training
        torch.nn.init.normal_(weight, std=0.1)
    save_weights(folder / "run", task)
    return folder


def run(capsys, *arguments):
    """Exit code, and the result or the error."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def picture_of(world):
    return next((world / "data/val").glob("*/*.jpg"))


def test_evaluate_at_a_depth_is_a_model_of_that_depth(world, capsys):
    folder, found = world / "run", {}
    before = (folder / "report.html").read_bytes()
    weights = load_task(folder)[1].state_dict()
    for depth in (1, 2, 3):
        code, result = run(capsys, "evaluate", f"{folder}@recursion={depth}", "--workers", 0)
        assert code == 0 and f"recursion={depth}" in (folder / f"report@recursion={depth}.html").read_text()
        fixed = world / f"depth{depth}"
        fixed.mkdir()
        values = json.loads((folder / "card.json").read_text()) | {"model_args": {"recursion": depth}}
        (fixed / "card.json").write_text(to_json(values))
        task = build_task(Card.read(fixed))
        task.load_state_dict(weights)
        save_weights(fixed, task)
        assert run(capsys, "evaluate", fixed, "--workers", 0) == (0, result)
        found[depth] = result["metrics"]["loss"]
    assert len(set(found.values())) == 3 and (folder / "report.html").read_bytes() == before
    assert run(capsys, "evaluate", folder, "--workers", 0)[1]["metrics"]["loss"] == found[2]
    assert "recursion=random" in before.decode(), "the page of the run itself"


def test_export_at_a_depth(world, capsys):
    folder, single = world / "run", picture_of(world)
    code, result = run(capsys, "export", f"{folder}@recursion=3", "--count", 4, "--evaluate")
    out = folder / "exports/onnx@recursion=3"
    assert code == 0 and result["out"] == str(out) and result["metrics_of_run"] is None
    card = json.loads((out / "featherbone.json").read_text())["card"]
    assert card["model_args"] == {"recursion": 3} and "top1" not in card["metrics"]
    scores = [featherbone.load(path)(single).scores for path in (out, f"{folder}@recursion=3", folder)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4) and scores[0] != pytest.approx(scores[2], abs=1e-4)
    for command in ("evaluate", "predict"):
        more = [single] if command == "predict" else []
        code, result = run(capsys, command, f"{out}@recursion=1", *more)
        assert code == 2 and "arguments are fixed; omit @recursion=1" in result["error"]
    code, result = run(capsys, "bench", f"{out}@recursion=1", "--out", world / "bench")
    assert code == 2 and "arguments are fixed" in result["error"]


def test_predict_and_explain_a_variant(world, capsys, monkeypatch):
    monkeypatch.chdir(world)
    folder, single = world / "run", picture_of(world)
    code, result = run(capsys, "predict", f"{folder}@recursion=1", single)
    assert code == 0 and (folder / "predictions@recursion=1/predictions.json").is_file()
    command = ["predict", "--rows", "jsonl", "--out", world / "rows"]
    assert run(capsys, *command, f"{folder}@recursion=1", single)[0] == 0
    code, result = run(capsys, *command, f"{folder}@recursion=3", single)
    assert code == 2, "rows of one depth are not continued at another"
    code, result = run(capsys, "explain", f"{folder}@recursion=1", single)
    assert code == 0 and "lvt@recursion=1 looked at" in (world / result["page"]).read_text()
    assert result["page"].startswith("explain@recursion=1-")
    code, result = run(capsys, "explain", "lvt@recursion=3", single, "--out", "why")
    assert code == 0 and "lvt@recursion=3 looked at" in (world / "why/explain.html").read_text()


def test_wrong_arguments_are_one_message(world, capsys):
    folder, single = world / "run", picture_of(world)
    commands = {
        "evaluate": [],
        "predict": [single],
        "explain": [single, "--out", world / "why"],
        "export": ["--out", world / "exported"],
        "bench": ["--out", world / "bench"],
    }
    for command, more in commands.items():
        code, result = run(capsys, command, f"{folder}@depth=3", *more)
        assert code == 2 and "depth" in result["error"] and "lvt" in result["error"], command
    for name, reason in (("lvt@depth=3", "depth"), ("lvt@recursion=0", "whole number from 1 up")):
        code, result = run(capsys, "bench", name, "--out", world / "bench")
        assert code == 2 and reason in result["error"]
