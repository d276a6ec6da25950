import json
import random
import time

import pytest
import torch

from featherbone.backbones import lvt
from featherbone.data.shard_write import write_shards
from featherbone.engine.run import load_state
from featherbone.engine.settings import complete
from featherbone.engine.train import resume_run, start_run
from featherbone.errors import BadOption, BadRun
from runs import Interrupted, options, rows, same_run, stop_after


@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupted_run_ends_in_the_same_bits(train, short, monkeypatch, step):
    short |= dict(drop_path=0.1, dropout=0.1, save_seconds=0, accumulate=2)
    whole = train("whole", **short)
    with monkeypatch.context() as patched:
        stop_after(patched, step)
        with pytest.raises(Interrupted):
            train("parts", **short)
    parts = resume_run(whole.parent / "parts", {})
    same_run(whole, parts)


def test_repeated_images_resume_in_the_same_bits(train, short, monkeypatch, capsys):
    short |= dict(repeat_factor=0.5, save_seconds=0, batch_size=4)
    whole = train("whole", **short)
    steps = [row["step"] for row in rows(whole)]
    assert steps == [10, 20], "24 images of six classes, each sqrt(3) times"
    assert "an epoch has 41 images: 24 of 24 images are repeated, at most 1.7 times" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        stop_after(patched, 13)
        with pytest.raises(Interrupted):
            train("parts", **short)
    same_run(whole, resume_run(whole.parent / "parts", {}))


def test_random_depths_resume_in_the_same_bits(train, short, monkeypatch):
    short |= dict(model="lvt", model_args="recursion=random", save_seconds=0, accumulate=2, recompute=True)
    drawn = {}
    original = lvt.draw_depth

    def record(key):
        monkeypatch.setattr(lvt, "draw_depth", lambda: drawn.setdefault(key, []).append(original()) or drawn[key][-1])

    record("whole")
    whole = train("whole", **short)
    record("parts")
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(Interrupted):
            train("parts", **short)
    same_run(whole, resume_run(whole.parent / "parts", {}))
    assert len(drawn["whole"]) == 12 and set(drawn["whole"]) == {1, 2, 3}, "one for each of two parts in six steps"
    assert drawn["parts"] == drawn["whole"]


def test_workers_change_nothing(train, short):
    same_run(train("none", **short), train("two", **short | dict(workers=2)))


@pytest.mark.parametrize("form", ["folder", "shards"])
def test_killed_again_and_again(drawn, launch, short, tmp_path, form):
    """A real process, killed at random moments, ends in the bits of a run that nobody disturbed."""
    torch.set_num_threads(1)
    data = drawn
    if form == "shards":
        write_shards(drawn, data := tmp_path / "shards", samples_per_shard=5)
    short |= dict(epochs=8, save_seconds=0)
    whole = start_run(data, "test_resnet", None, tmp_path / "whole", complete(**short))
    run = tmp_path / "killed"
    arguments = ["train", "--data", data, "--model", "test_resnet", "--no-pretrained", "--out", run, *options(short)]
    kills = 0
    for _ in range(2):
        process = launch(*arguments)
        begun = (run / "state.pt").stat().st_mtime_ns if (run / "state.pt").exists() else 0
        while process.poll() is None and not (
            (run / "state.pt").exists() and (run / "state.pt").stat().st_mtime_ns > begun
        ):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.communicate()
        kills += process.returncode == -9
        load_state(run)  # the newest complete state is always there
        arguments = ["train", "--resume", run]
    assert kills
    process = launch(*arguments)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    same_run(whole, run)
    assert not list(run.glob(".*"))  # what the kills left half written is gone


def test_a_finished_run_resumes_to_itself(train, short):
    run = train(**short)
    before = (run / "weights.safetensors").read_bytes()
    assert resume_run(run, {}) == run
    assert (run / "weights.safetensors").read_bytes() == before


def test_resume_refuses(train, short, drawn, tmp_path):
    run = train(**short)
    with pytest.raises(BadOption, match="keeps its settings"):
        resume_run(run, {"lr": 1.0})
    with pytest.raises(BadRun, match="not a run folder"):
        resume_run(tmp_path, {})
    card = json.loads((run / "card.json").read_text())
    card["data"]["fingerprint"] = "other"
    (run / "card.json").write_text(json.dumps(card))
    with pytest.raises(BadRun, match="not the images this run began with"):
        resume_run(run, {})
    (run / "state.pt").write_bytes((run / "state.pt").read_bytes()[:1000])
    with pytest.raises(BadRun, match="damaged"):
        resume_run(run, {})


def test_a_malicious_state_is_not_executed(train, short, tmp_path):
    import pickle

    class Malice:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    run = train(**short)
    (run / "state.pt").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(BadRun, match="damaged"):
        resume_run(run, {})
    assert not (tmp_path / "executed").exists()
