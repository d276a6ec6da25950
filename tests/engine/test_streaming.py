"""Runs on Parquet files and tar shards, from a folder and from an object store."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featherbone.cli import main
from featherbone.data import sampling
from featherbone.data.dataset import open_data
from featherbone.data.formats import parquet
from featherbone.data.place import Url, root_of
from featherbone.data.shard_write import write_shards
from featherbone.engine.settings import complete
from featherbone.engine.train import evaluate_run, resume_run, start_run
from object_store import object_store
from runs import Interrupted, options, same_run, stop_after


@pytest.fixture(params=["parquet", "shards"])
def data(request, drawn, tmp_path, monkeypatch):
    """The drawn images in row groups or shards of five, of which two are shuffled together."""
    for module in (sampling, parquet):
        monkeypatch.setattr(module, "WINDOW", 10)
    folder = tmp_path / "data"
    if request.param == "shards":
        write_shards(drawn, folder, samples_per_shard=5)
        return folder
    found = open_data(drawn, "classification")
    folder.mkdir()
    (folder / "classes.txt").write_text("\n".join(found.classes))
    for split in ("train", "val"):
        images = getattr(found, split)
        rows = [{"bytes": images.encoded(i), "path": None} for i in range(len(images))]
        table = pa.table({"image": rows, "label": images.labels})
        for at in (0, 1):
            file = folder / "data" / f"{split}-{at:05}-of-00002.parquet"
            file.parent.mkdir(exist_ok=True)
            pq.write_table(table.slice(at * 12, 12), file, row_group_size=5)
    return folder


@pytest.fixture
def train_on(tmp_path, short):
    """Train on data; the run folder."""
    return lambda data, name, **more: start_run(data, "lvt", None, tmp_path / name, complete(**short | more))


def upload(store, folder, place):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with store.open_output_stream(f"{place}/{path.relative_to(folder).as_posix()}") as file:
                file.write(path.read_bytes())


@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupted_run_ends_in_the_same_bits(data, train_on, monkeypatch, step):
    whole = train_on(data, "whole", save_seconds=0)
    with monkeypatch.context() as patched:
        stop_after(patched, step)
        with pytest.raises(Interrupted):
            train_on(data, "parts", save_seconds=0)
    same_run(whole, resume_run(whole.parent / "parts", {}))


def test_workers_change_nothing(data, train_on):
    same_run(train_on(data, "none"), train_on(data, "two", workers=2))


def test_a_store_gives_the_run_of_the_folder(data, train_on, monkeypatch, request, tmp_path, capsys):
    """Also resumed, with workers, evaluated and held out, though each tenth request fails."""
    local = train_on(data, "local")
    bucket = request.node.callspec.params["data"]
    with object_store(monkeypatch, bucket) as store:
        upload(store, data, f"{bucket}/sets/a set")
        url = f"s3://{bucket}/sets/a%20set/"
        with monkeypatch.context() as patched:
            stop_after(patched, 4)
            with pytest.raises(Interrupted):
                train_on(root_of(url), "remote", save_seconds=0)
        remote = resume_run(tmp_path / "remote", {"workers": 2})
        same_run(local, remote)
        cards = [json.loads((run / "card.json").read_text()) for run in (local, remote)]
        assert cards[1]["data"]["path"] == url.rstrip("/")
        assert cards[0]["data"]["fingerprint"] == cards[1]["data"]["fingerprint"]
        metrics, _ = evaluate_run(remote, None, tmp_path / "page.html", "cpu", 0)
        assert metrics["top1"] == cards[1]["metrics"]["top1"] and metrics["images"] == 12
        assert main(["doctor", url, "--out", str(tmp_path / "doctor.html")]) == 0


def test_what_cannot_be_streamed_is_refused(drawn, short, monkeypatch, tmp_path, capsys):
    with object_store(monkeypatch, "others") as store:
        upload(store, drawn / "train", "others/folders/train")
        for place, reason in (
            ("others/folders", "no such files there, but others, as train/"),
            ("others/nothing", "nothing there"),
            ("no-such-bucket/set", "nothing there"),
        ):
            assert main(["train", "--data", f"s3://{place}", *options(short), "--out", str(tmp_path / "run")]) == 2
            err = capsys.readouterr().err
            assert f"s3://{place}: {reason}" in err and "Traceback" not in err, err
    assert main(["train", "--data", "http://localhost/set", "--out", str(tmp_path / "run")]) == 2
    assert "http is not read; give a URL of s3" in capsys.readouterr().err


def test_urls_keep_their_form(tmp_path):
    for text in ("s3://b/x", "s3:/b/x", "gs://b/x/", "abfs://c@a/x"):
        url = root_of(text)
        assert isinstance(url, Url) and "://" in str(url) and url.resolve() == url and not url.exists()
    assert str(root_of("s3:/b/x") / "y") == "s3://b/x/y"
    assert not isinstance(root_of(tmp_path), Url) and not isinstance(root_of("C:/x"), Url)
