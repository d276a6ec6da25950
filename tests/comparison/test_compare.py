"""Comparisons from names, runs, files and results, interrupted and shared, by function and by command."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import featherbone
from featherbone.cli import main
from featherbone.comparison.search import search_rate
from featherbone.engine.run import STATE
from featherbone.tasks.card import Card
from runs import Interrupted, options, same_run, stop_after
from scenes import write_coco

MODELS = ("test_resnet", "wide=test_vit")


def values(result):
    return {row.label: row.values for row in result.rows}


@pytest.fixture(scope="module")
def plain():
    """Settings of a training of a second."""
    return dict(
        image_size=32,
        batch_size=8,
        epochs=2,
        warmup_epochs=1,
        device="cpu",
        workers=0,
        lr=2e-3,
        ema=0.9,
        pretrained=False,
    )


@pytest.fixture(scope="module")
def compared(drawn, plain, tmp_path_factory):
    """A comparison of two small models with two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    return featherbone.compare(MODELS, data=drawn, seeds=2, speed=False, out=folder, **plain)


def test_models_are_trained_under_one_protocol(compared, drawn):
    assert {row.label for row in compared.rows} == {"test_resnet", "wide"} and compared.num_images == 12
    for row in compared.rows:
        cards = [Card.read(Path(source)) for source in row.sources]
        assert [card.settings["seed"] for card in cards] == [0, 1]
        assert row.values == tuple(card.metrics["top1"] for card in cards) and row.value == np.mean(row.values)
        assert {
            (card.settings["epochs"], card.settings["eval_every"], card.settings["val_seed"]) for card in cards
        } == {(2, 2, 0)}
        assert row.interval[0] <= row.value <= row.interval[1] and row.params > 1e4 and row.macs > 1e4
    [pair] = compared.pairs
    assert pair.difference == pytest.approx(compared.rows[0].value - compared.rows[1].value) and pair.difference >= 0


def test_the_files_hold_what_is_needed_to_repeat_it(compared, drawn):
    stated = json.loads((compared.out / "comparison.json").read_text())
    assert [row["label"] for row in stated["rows"]] == [row.label for row in compared.rows]
    assert stated["protocol"]["settings"]["lr"] == 2e-3 and stated["fingerprint"] and stated["versions"]["torch"]
    words = f"featherbone compare test_resnet wide=test_vit --data {drawn} --seeds 2 --no-speed --image-size 32"
    assert stated["command"].startswith(words)
    page = (compared.out / "comparison.html").read_text()
    assert compared.pairs[0].sentence(0.01) in page and "First wins" in page and "circle" in page
    assert "test_resnet" in str(compared) and "not known" not in str(compared)


def test_an_interrupted_comparison_continues_to_the_same_result(compared, drawn, plain, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            featherbone.compare(MODELS, data=drawn, seeds=2, speed=False, out=tmp_path / "c", **plain)
    first = tmp_path / "c" / "runs" / "test_resnet" / "seed-0"
    assert (first / STATE).is_file() and not (first / "report.npz").exists()
    again = featherbone.compare(MODELS, data=drawn, seeds=2, speed=False, out=tmp_path / "c", **plain)
    assert values(again) == values(compared)
    for row in compared.rows:
        for source in map(Path, row.sources):
            same_run(source, tmp_path / "c" / source.relative_to(compared.out))
    before = (first / "weights.safetensors").stat().st_mtime_ns
    more = featherbone.compare(MODELS[:2], data=drawn, seeds=2, speed=False, out=tmp_path / "c", **plain)
    assert values(more) == values(compared) and (first / "weights.safetensors").stat().st_mtime_ns == before


def test_processes_share_a_comparison_and_continue_the_run_of_one_that_was_killed(
    compared, drawn, plain, tmp_path, launch
):
    command = ["compare", *MODELS, "--data", drawn, "--seeds", 2, "--no-speed", "--out", tmp_path / "c"]
    command += [*options(plain), "--save-seconds", 0, "--json"]
    killed = launch(*command)
    folder = tmp_path / "c" / "runs" / "test_resnet" / "seed-0"
    while not (folder / STATE).is_file():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert not (folder / "report.npz").exists()
    processes = [launch(*command), launch(*command)]
    printed = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    results = [json.loads(out) for out, _ in printed]
    for result in results:
        assert {row["label"]: tuple(row["values"]) for row in result["rows"]} == values(compared)
    trained = [err.count("compare training") + err.count("compare continuing") for _, err in printed]
    assert sum(trained) == 4 and sum("continuing test_resnet, seed 0" in err for _, err in printed) == 1


def test_finished_runs_and_files_are_evaluated_as_they_are(compared, drawn, tmp_path, capsys):
    runs = [source for row in compared.rows for source in row.sources if "test_resnet" in source]
    exported = featherbone.export(Path(runs[0]), out=tmp_path / "file", count=2)
    command = ["compare", f"net={runs[0]}", f"net={runs[1]}", f"file={exported.out}", "--no-speed", "--device", "cpu"]
    assert main([*command, "--workers", "0", "--out", str(tmp_path / "c"), "--json"]) == 0
    rows = {row["label"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["net"]["values"] == list(values(compared)["test_resnet"])
    assert rows["file"]["values"] == rows["net"]["values"][:1]
    assert not (tmp_path / "c" / "protocol.json").exists()


def test_results_of_another_tool_are_compared_with_a_run(tmp_path, capsys):
    data = tmp_path / "data"
    write_coco(data, 12, 6, (64, 64))
    plain = dict(image_size=64, batch_size=4, epochs=1, warmup_epochs=0, device="cpu", workers=0, pretrained=False)
    run = featherbone.train(
        data, "test_resnet", task="detection", head_args="dim=16,num_convs=1", out=tmp_path / "r", **plain
    ).run
    shutil.copy(run / "detections.json", tmp_path / "other.json")
    result = featherbone.compare((str(run), str(tmp_path / "other.json")), data=data, out=tmp_path / "c", device="cpu")
    first, second = result.rows
    assert first.values == second.values and result.metric == "AP" and result.pairs[0].difference == 0
    assert {row.label: row.params is None for row in result.rows} == {"r": False, "other": True}
    assert "1: images only" in str(result) and any("cover images only" in note for note in result.notes)


def test_speed_is_measured_and_drawn(compared, tmp_path):
    runs = tuple(row.sources[0] for row in compared.rows)
    result = featherbone.compare(("a=" + runs[0], "b=" + runs[1]), out=tmp_path / "c", device="cpu", workers=0)
    for row in result.rows:
        low, middle, high = row.speed.milliseconds
        assert 0 < low <= middle <= high and row.speed.peak_mb > 0
    assert "against latency" in (tmp_path / "c" / "comparison.html").read_text()


def test_the_learning_rate_is_searched_for_and_a_stopped_search_continues(tmp_path):
    tried = []

    def measure(rate):
        tried.append(rate)
        if len(tried) == 3:
            raise Interrupted
        return -abs(np.log(rate / 3e-3))

    with pytest.raises(Interrupted):
        search_rate(measure, 1e-3, 5, tmp_path / "journal")
    found = search_rate(measure, 1e-3, 5, tmp_path / "journal")
    assert tried[0] == 1e-3 and tried[3] == tried[2] and list(found) == [*tried[:2], *tried[3:]] and len(found) == 5
    assert all(1e-4 <= rate <= 1e-2 for rate in found)
    assert search_rate(measure, 1e-3, 5, tmp_path / "journal") == found and len(tried) == 6


def test_a_search_a_time_and_the_memory_decide_on_the_settings_of_each_model(drawn, plain, tmp_path):
    settings = {name: value for name, value in plain.items() if name not in ("epochs", "batch_size")}
    asked = dict(data=drawn, seeds=1, search=2, minutes=0.001, batch_size="auto", speed=False, out=tmp_path / "c")
    result = featherbone.compare(MODELS, **asked, **settings)
    for row in result.rows:
        plan = json.loads((tmp_path / "c" / "plans" / f"{row.label}.json").read_text())
        rates = {one["lr"]: one["top1"] for one in plan["tried"]}
        assert len(rates) == 2 and plan["chosen"]["epochs"] == row.settings["epochs"] >= 1
        assert plan["chosen"]["batch_size"] == row.settings["batch_size"] == 2, "24 images make eight updates of 3"
        assert rates[row.settings["lr"]] == max(rates.values())
    assert any("learning rates were chosen" in note for note in result.notes)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["lvt"], "1 models to compare; give two or more"),
        (["lvt", "lit_tiny"], "no data to train lvt on; give a folder with --data DIR"),
        (["lvt", "lit_tiny", "--data", "DATA", "--seeds", "0"], "seeds 0 is too small; pass 1 or more"),
        (["lvt", "lit_tiny", "--data", "DATA", "--margin", "2"], "margin 2 is not from 0 to 1"),
        (["lvt", "lit_tiny", "--data", "DATA", "--minutes", "0"], "minutes 0.0 is outside 0.001 to"),
        (["lvt", "lit_tiny", "--data", "DATA", "--minutes", "1", "--epochs", "2"], "epochs and minutes both state"),
        (["lvt", "lit_tiny", "--data", "DATA", "--model-args", "recursion=1"], "write them after the name of one"),
        (["lvt", "lit_tiny", "--data", "DATA", "--split", "train"], "split train: the models are trained on it"),
        (["lvt", "lit_tiny", "--data", "DATA", "--mosaic", "1"], "option mosaic has no effect for classification"),
        (["lvt@deep=3", "lit_tiny", "--data", "DATA"], "deep"),
        (["RUN", "b=RUN", "--epochs", "2"], "epochs applies only to models that are trained"),
        (["RUN", "missing.json"], "missing.json: no such file or folder"),
    ],
)
def test_wrong_options(command, message, compared, drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = {"DATA": str(drawn), "RUN": compared.rows[0].sources[0], "b=RUN": f"b={compared.rows[0].sources[0]}"}
    assert main(["compare", *(words.get(word, word) for word in command)]) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not any(tmp_path.iterdir())


def test_another_protocol_is_refused(compared, drawn, plain, capsys):
    command = ["compare", *MODELS, "--data", str(drawn), "--seeds", "2", "--out", str(compared.out)]
    assert main([*command, *options({**plain, "epochs": 3})]) == 2
    assert "holds a comparison with settings" in " ".join(capsys.readouterr().err.split())
