"""Each tracker with its real package, where that is installed, and one that fails."""

import json
import os
import re
import sqlite3
import sys
from importlib.util import find_spec

import pytest
from accelerate.tracking import TensorBoardTracker
from psutil import Process
from sqlalchemy import event
from sqlalchemy.engine import Engine

import featherbone
from featherbone.engine import trackers
from featherbone.engine.run import read_metrics
from featherbone.errors import FeatherboneError, MissingExtra
from runs import Interrupted, stop_after


def read_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "trackers" / "tensorboard")).Reload()
    values = {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}
    text = next((run / "trackers").rglob("hparams.yml")).read_text()
    images = events.Images("predictions") if "predictions" in events.Tags()["images"] else ()
    return values, [one.step for one in images], text


def read_mlflow(run):
    import mlflow

    client = mlflow.MlflowClient()
    (experiment,) = mlflow.search_experiments(filter_string="name = 'featherbone'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == run.name
    values = {
        name: [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }
    names = [file.path for file in client.list_artifacts(found.info.run_id, "images")]
    steps = {int(re.search(r"step\W(\d+)", name)[1]) for name in names}
    return values, sorted(steps), str(found.data.params)


def scan(content):
    """The records of a file of W&B: LevelDB's log, after a header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_wandb(run):
    """W&B writes a folder for each start; all of them belong to one run."""
    from wandb.proto import wandb_internal_pb2

    values, steps, config, identities = {}, [], "", set()
    for file in sorted((run / "trackers" / "wandb").glob("offline-run-*/*.wandb")):
        identities.add(file.stem)
        records = [wandb_internal_pb2.Record.FromString(data) for data in scan(file.read_bytes())]
        assert any(record.HasField("exit") for record in records)
        for record in records:
            row = {".".join(x.nested_key) or x.key: json.loads(x.value_json) for x in record.history.item}
            step = row.pop("_step", record.history.step.num)
            for name, value in row.items():
                if name.startswith("predictions"):
                    steps += [step] if step not in steps else []
                elif isinstance(value, int | float):
                    values.setdefault(name, []).append((step, value))
            config += str([x.key for x in (*record.run.config.update, *record.config.update)]) + str(record.config)
    assert len(identities) == 1
    return values, steps, config


def read_trackio(run):
    (file,) = (run.parent / "trackio").glob("*.db")
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        config = str(connection.execute("SELECT config FROM configs").fetchall())
    assert len({name for name, *_ in rows}) == 1
    values, steps = {}, []
    for _, step, metrics in rows:
        for name, value in json.loads(metrics).items():
            if name == "predictions":
                steps.append(step)
            else:
                values.setdefault(name, []).append((step, value))
    return values, steps, config


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb, "trackio": read_trackio}


def in_a_hurry(connection, record):
    """SQLite without waiting for the disk, which MLflow's migrations of an empty database do hundreds of times."""
    connection.execute("PRAGMA synchronous=OFF")


@pytest.mark.filterwarnings("default")  # of the packages
def test_each_tracker_gets_what_the_run_has_also_after_a_resume(train, short, tmp_path, monkeypatch, request):
    """All that are installed, in one run; nothing is left behind in the process."""
    names = [name for name in READERS if find_spec(name)]
    assert names
    for variable in [key for key in os.environ if key.startswith(("MLFLOW", "WANDB", "TRACKIO"))]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)  # MLflow's database is there by default
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for module in [key for key in sys.modules if key.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, module)
    if "mlflow" in names:
        event.listen(Engine, "connect", in_a_hurry)
        request.addfinalizer(lambda: event.remove(Engine, "connect", in_a_hurry))
    environment, hooks = dict(os.environ), (sys.excepthook, sys.exit, sys.stdout, sys.stderr)
    processes = Process().children(recursive=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            train(**short, tracker=names)
    run = tmp_path / "run"
    featherbone.train(resume=run)
    assert dict(os.environ) == environment and (sys.excepthook, sys.exit, sys.stdout, sys.stderr) == hooks
    assert Process().children(recursive=True) == processes
    rows, metrics = read_metrics(run), json.loads((run / "card.json").read_text())["metrics"]
    assert len(rows) == 2
    expected = {
        "lr": [(row["step"], row["lr"]) for row in rows],
        "train/loss": [(row["step"], row["train"]["loss"]) for row in rows],
        "val/top1": [(row["step"], row["val"]["top1"]) for row in rows],
        "final/top1": [(rows[-1]["step"], metrics["top1"])],
    }
    for name in names:
        values, steps, config = READERS[name](run)
        assert steps == [row["step"] for row in rows], name
        for key, pairs in expected.items():
            assert [step for step, _ in values[key]] == [step for step, _ in pairs], (name, key)
            assert [value for _, value in values[key]] == pytest.approx([value for _, value in pairs]), (name, key)
        assert {f"val/{key}" for key in rows[-1]["val"]} <= values.keys(), name
        assert "warmup_epochs" in config and "test_resnet" in config, name


@pytest.mark.filterwarnings("default")
def test_a_tracker_that_fails_ends_nothing_and_one_added_later_gets_all_rows(train, short, monkeypatch, capsys):
    pytest.importorskip("tensorboard")

    def fail(self, values, step=None, **kwargs):
        raise OSError("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(TensorBoardTracker, "log", fail)
        run = train(**short, tracker=["tensorboard"])
    err = capsys.readouterr().err
    assert err.count("tracker tensorboard failed and is no longer used: OSError: the server is gone") == 1
    assert (run / "report.html").is_file()
    (run / "trackers" / "runs.json").unlink()
    featherbone.train(resume=run, tracker=("tensorboard",))
    assert [step for step, _ in read_tensorboard(run)[0]["val/top1"]] == [row["step"] for row in read_metrics(run)]


def test_what_cannot_start_is_refused_before_training(train, short, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", trackers.TRACKERS["mlflow"].__class__(("mlflaw",), *[None] * 3))
    with pytest.raises(MissingExtra, match=r"mlflaw not installed; pip install 'featherbone\[mlflow\]'"):
        train(**short, tracker=["mlflow"])
    with pytest.raises(FeatherboneError, match="given twice"):
        train(**short, tracker=["tensorboard", "tensorboard"])

    def fail(self):
        raise ConnectionError("no server\nat all")

    monkeypatch.setattr(TensorBoardTracker, "start", fail)
    monkeypatch.setattr(trackers, "require", lambda *names: None)
    with pytest.raises(FeatherboneError, match=r"tracker tensorboard does not start: ConnectionError: no server; see"):
        train(**short, tracker=["tensorboard"])
    assert not (tmp_path / "run").exists()
