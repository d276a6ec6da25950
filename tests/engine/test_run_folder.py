"""What happens to a run's folder: kills, other processes, moved data, damage, removal."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import featherbone
from featherbone.cli import main
from featherbone.data.loading import Batches, Samples, explained_workers, train_loader
from featherbone.engine.job import Job
from featherbone.engine.loop import Loop
from featherbone.engine.run import load_state
from featherbone.engine.settings import complete
from featherbone.engine.train import claimed, evaluate_run, resume_run, start_run
from featherbone.errors import BadData, BadOption, BadRun, FeatherboneError
from featherbone.files import locked
from featherbone.tasks.card import Card
from featherbone.tasks.run import load_task
from runs import Interrupted, options, same_run, stop_after

NET = "mobilenetv3_small_050"


@pytest.fixture
def quick():
    """Settings of the shortest run on `drawn`."""
    return dict(image_size=64, batch_size=12, epochs=1, warmup_epochs=0, ema=0.5, device="cpu", workers=0)


@pytest.fixture
def own(drawn, tmp_path):
    """A data folder that a test may change."""
    return shutil.copytree(drawn, tmp_path / "own")


HOLD = "import fcntl, sys; file = open(sys.argv[1] + '/.lock', 'w'); fcntl.lockf(file, fcntl.LOCK_EX)"
"""What `locked` does, without the time that imports take."""


def hold(folder, code="input()", begin=HOLD):
    """A process that holds a folder, prints a line and runs `code`."""
    program = f"{begin}\nimport os, time\nprint('held', flush=True)\n{code}"
    process = subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.kill()
    process.communicate()


def test_killed_before_the_first_state_a_run_resumes_from_the_beginning(train, quick, drawn, tmp_path):
    whole, run = train("whole", NET, **quick), tmp_path / "killed"
    code = (
        "import os, signal, sys; from featherbone.engine import loop; from featherbone.cli import main\n"
        "loop.save_state = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])"
    )
    arguments = ["train", "--data", drawn, "--model", NET, "--no-pretrained", "--out", run, *options(quick)]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True)
    assert done.returncode == -signal.SIGKILL and (run / "card.json").exists() and not (run / "state.pt").exists()
    with pytest.raises(BadOption, match="resume it with --resume"):
        start_run(drawn, NET, None, run, complete(**quick))
    same_run(whole, resume_run(run, {}))


def test_killed_before_the_card_a_folder_is_as_good_as_new(train, quick, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    assert (train("run", NET, **quick) / "weights.safetensors").exists()


def test_one_process_at_a_time_trains_in_a_folder(train, quick, drawn, tmp_path):
    run = train("run", NET, **quick)
    (tmp_path / "new").mkdir()
    for folder, begin in (
        (tmp_path / "new", lambda: train("new", NET, **quick)),
        (run, lambda: train("run", NET, **quick)),
        (run, lambda: resume_run(run, {})),
    ):
        other = hold(folder)
        with pytest.raises(BadRun, match="another process is training in this folder; wait"):
            begin()
        end(other)
    assert not (tmp_path / "new" / "card.json").exists()
    resume_run(run, {})
    assert not list(run.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_the_processes_that_read_images_do_not_hold_the_folder(tmp_path):
    """They outlive a killed training by seconds."""
    begin = (
        "import sys; from pathlib import Path; from featherbone.files import locked\n"
        "held = locked(Path(sys.argv[1])); held.__enter__()"
    )
    fork = "child = os.fork(); print(child, flush=True) if child else os.close(1); time.sleep(60)"
    other = hold(tmp_path, fork, begin)
    child = int(other.stdout.readline())
    try:
        with pytest.raises(BadRun, match="another process"), locked(tmp_path):
            pass
        end(other)
        with locked(tmp_path):
            os.kill(child, 0)  # it still runs
    finally:
        os.kill(child, signal.SIGKILL)


def test_names_under_runs_are_taken_at_once(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with claimed(None, drawn, "lvt") as first, claimed(None, drawn, "lvt") as second:
        assert [path.as_posix() for path in (first, second)] == ["runs/data-lvt", "runs/data-lvt-2"]
        assert first.is_dir() and second.is_dir()
    assert not first.exists() and not second.exists()  # nothing was written
    for folder, name in (("/", "data"), (".", tmp_path.name)):
        monkeypatch.chdir(tmp_path)
        with claimed(None, tmp_path / folder, "a/b:c") as run:
            assert run.name == f"{name}-a-b-c"


def test_a_run_that_cannot_begin_leaves_no_folder(train, quick, tmp_path):
    with pytest.raises(BadOption, match="adamm"):
        train("a/b/run", NET, **quick, optimizer="adamm")
    assert not (tmp_path / "a").exists()


def test_moved_data(quick, own, drawn, tmp_path, capsys):
    run = start_run(own, NET, None, tmp_path / "run", complete(**quick))
    before, moved = (run / "weights.safetensors").read_bytes(), own.rename(tmp_path / "moved")
    for command, remedy in (
        (f"train --resume {run}", "--data DIR"),
        (f"evaluate {run} --workers 0", "--data DIR"),
        (f"export {run} --count 2", "--images DIR"),
        (f"export {run} --int8", "train --resume RUN --data DIR"),
        (f"export {run} --images {moved} --count 2 --evaluate", "train --resume RUN --data DIR"),
    ):
        assert main(command.split()) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert str(own) in message and remedy in message and "Traceback" not in message
    shutil.copytree(moved, tmp_path / "other")
    next((tmp_path / "other" / "train").glob("*/*")).unlink()
    with pytest.raises(BadRun, match="not the images this run began with"):
        resume_run(run, {}, tmp_path / "other")
    assert Card.read(run).data["path"] == str(own)
    assert resume_run(run, {}, moved) == run
    assert Card.read(run).data["path"] == str(moved) and (run / "weights.safetensors").read_bytes() == before
    assert evaluate_run(run, None, None, "cpu", 0)[0]["images"] == 12


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_one_flipped_bit_in_state_or_weights_is_found(train, quick, part):
    run = train("run", NET, **quick)
    for name, read in (("state.pt", load_state), ("weights.safetensors", load_task)):
        content = (run / name).read_bytes()
        at = int(part * len(content))
        (run / name).write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        with pytest.raises(BadRun, match=f"{name}: damaged.*restore the file"):
            read(run)
        (run / name).write_bytes(content)
        read(run)


def test_runs_without_digests_are_read(train, quick):
    from safetensors.torch import load_file, save_file

    run = train("run", NET, **quick)
    content = (run / "state.pt").read_bytes()
    (run / "state.pt").write_bytes(content[: content.rindex(b"featherbone sha256 ")])
    assert load_state(run)["step"] == 2
    save_file(load_file(run / "weights.safetensors"), run / "weights.safetensors")
    load_task(run)


def test_a_folder_removed_during_training_is_not_made_again(train, quick, tmp_path, monkeypatch):
    original = Loop.micro_step

    def micro_step(self, batch, part):
        shutil.rmtree(self.run, ignore_errors=True)
        return original(self, batch, part)

    monkeypatch.setattr(Loop, "micro_step", micro_step)
    for save_seconds in (0.0, 60.0):
        with pytest.raises(BadRun, match="was removed during training; start again"):
            train("run", NET, **quick, save_seconds=save_seconds)
        assert not (tmp_path / "run").exists()


def test_a_metric_of_none_is_the_worst_but_the_first_weights_are_kept(train, quick, tmp_path, monkeypatch):
    original, seen = Job.measure, []

    def measure(self, task, *arguments):
        metrics, outcome = original(self, task, *arguments)
        seen.append((tmp_path / "run" / "weights.safetensors").exists())
        return {**metrics, "top1": [None, 0.5, float("nan")][len(seen) - 1] if len(seen) < 4 else 0.5}, outcome

    monkeypatch.setattr(Job, "measure", measure)
    run = train("run", NET, **quick | dict(epochs=3))
    assert seen == [False, True, True, True]
    assert Card.read(run).metrics["top1"] == 0.5 and Card.read(run).metrics["epoch"] == 2


@pytest.mark.parametrize(
    "more", [dict(batch_size=1), dict(batch_size=4, accumulate=4), dict(batch_size=1, freeze=2, recompute=True)]
)
def test_one_image_at_a_time_with_batch_norm(train, quick, tmp_path, more):
    with pytest.raises(BadOption, match=r"one value a channel.*2 or more images to each part \(--batch-size"):
        train("run", NET, **quick | dict(image_size=32) | more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "model,more", [(NET, dict(image_size=64)), (NET, dict(freeze=-1, image_size=32)), ("lvt", dict(image_size=32))]
)
def test_one_image_at_a_time_without_its_trouble(train, quick, own, model, more):
    for file in (own / "train").glob("*/*[1-9].jpg"):
        file.unlink()
    train("run", model, **quick | dict(batch_size=1) | more)


def test_a_batch_larger_than_the_data_is_told_and_recorded(train, quick, capsys):
    run = train("run", NET, **quick | dict(batch_size=64))
    assert "batch size 24, not 64: there are 24 training images" in capsys.readouterr().err
    assert Card.read(run).settings["batch_size"] == 24
    assert load_state(resume_run(run, {}))["step"] == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_named(drawn, how):
    from featherbone.data.dataset import open_data

    samples = Samples(open_data(drawn, "classification").train, lambda image: os.kill(os.getpid(), how))
    loader = train_loader(samples, Batches(samples.images, 8, 1, 0, 1, 0), 1, torch.device("cpu"))
    with pytest.raises(FeatherboneError, match=r"out of memory.*--workers.*--batch-size"), explained_workers():
        list(loader)


@pytest.mark.parametrize("images", ["one a class", "one"])
def test_nothing_to_hold_out_is_refused_in_words(quick, own, tmp_path, images):
    shutil.rmtree(own / "val")
    for folder in (own / "train").iterdir():
        for file in sorted(folder.iterdir())[1:]:
            file.unlink()
    if images == "one":
        for folder in sorted((own / "train").iterdir())[2:]:
            shutil.rmtree(folder)
        next(iter(sorted((own / "train").iterdir())[1].iterdir())).unlink()
    with pytest.raises(BadData, match=r"no validation split, and none of .* can be held out.*add images, or a val"):
        start_run(own, NET, None, tmp_path / "run", complete(**quick))
    assert not (tmp_path / "run").exists()


def test_one_image_of_objects_has_none_to_hold_out(quick, tmp_path):
    from scenes import write_coco

    write_coco(tmp_path / "coco", 1, 1, (64, 64))
    (tmp_path / "coco" / "annotations" / "instances_val.json").unlink()
    settings = complete(task="detection", **quick)
    with pytest.raises(BadData, match=r"none of 1 training image can be held out.*add images, or a val"):
        start_run(tmp_path / "coco", NET, "detection", tmp_path / "run", settings)


def test_the_card_is_the_only_thing_a_resume_needs_before_the_first_state(train, quick, tmp_path):
    """Settings pass through JSON unchanged."""
    run = train("run", NET, **quick)
    for path in run.iterdir():
        if path.name != "card.json":
            path.unlink()
    whole = train("whole", NET, **quick)
    card = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps(card | {"metrics": {}}))
    same_run(whole, resume_run(run, {}))


def test_one_command_starts_a_run_and_continues_it(drawn, short, train, tmp_path, monkeypatch):
    command = dict(data=drawn, model="lvt", out=tmp_path / "run", resume="auto", **short)
    with monkeypatch.context() as stopped, pytest.raises(Interrupted):
        stop_after(stopped, 4)
        featherbone.train(**command)
    for wrong, message in (
        ({"lr": 0.5}, "was started with lr 0.0005, not 0.5"),
        ({"model": "xformer_small"}, "was started with model 'lvt', not 'xformer_small'"),
        ({"out": None}, "name the folder with --out RUN"),
    ):
        with pytest.raises(BadOption, match=message):
            featherbone.train(**command | wrong)
    whole = train("whole", "lvt", **short)
    for _ in range(2):  # a finished run stays as it is
        assert featherbone.train(**command | {"workers": 1}).run == tmp_path / "run"
        same_run(tmp_path / "run", whole)
