"""Rows of `predict`: every picture once, whatever happens in between, in memory that does not grow with them."""

import gc
import json
import os
import shutil
import signal
import time
import weakref
from collections import Counter

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

import featherbone
from exporting import HEADS, a_run, draw_not_utf8, drawn
from featherbone import prediction_rows
from featherbone.cli import main
from featherbone.data.sources import Entry
from featherbone.errors import BadData, BadImage, BadOption, BadRun
from featherbone.predictor import Predictor, predict_entries
from featherbone.results import PanopticMap, SemanticMap


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders by head, made when they are asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def get(head=None):
        if not (folder / str(head)).exists():
            a_run(folder / str(head), head)
        return folder / str(head)

    return get


@pytest.fixture
def pictures(tmp_path):
    """A folder with 23 pictures, two of which cannot be read."""
    for i in range(21):
        path = tmp_path / "in" / f"{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn(40 + i, 60).save(path)
    (tmp_path / "in/empty.jpg").write_bytes(b"")
    (tmp_path / "in/0/text.jpg").write_bytes(b"hello")
    return tmp_path / "in"


def rows_of(folder):
    """The rows by source and key; none is there twice."""
    rows = list(prediction_rows.read_rows(folder))
    names = Counter((row["source"], row["key"]) for row in rows)
    assert set(names.values()) <= {1}
    return dict(zip(names, rows, strict=True))


def same(rows, others):
    """The same pictures with the same results; scores may differ by rounding, for batches differ."""
    assert rows.keys() == others.keys()
    for name, row in rows.items():
        expected = {**others[name]}
        scores, others_scores = ([one.pop("score") for one in r.get("classes") or ()] for r in (row, expected))
        assert row == expected and scores == pytest.approx(others_scores, abs=1e-5)


def alike(one, other):
    """Whether plain values are equal but for the rounding of floats, which depends on the size of a batch."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == (pytest.approx(other, rel=1e-6) if isinstance(other, float) else other)


@pytest.mark.parametrize(
    ("head", "form"), [*((head, "parquet") for head in HEADS), (None, "jsonl"), ("panoptic_fpn_light", "jsonl")]
)
def test_a_row_holds_what_predictions_json_holds(runs, tmp_path, head, form):
    for i in range(3):
        drawn(40 + i, 60).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"")
    options = {} if HEADS[head] in ("classification", "semantic") else {"score": 0.0}
    given = (str(tmp_path / "*.png"),)
    plain = featherbone.predict(runs(head), given, out=tmp_path / "plain", **options)
    result = featherbone.predict(runs(head), given, out=tmp_path / "out", rows=form, **options)
    assert (result.predicted, result.errors, result.done) == (3, 1, 0) == tuple(result.to_json().values())[:3]
    rows = {row["source"]: row for row in result}
    assert rows == {source: row for (source, _), row in rows_of(tmp_path / "out").items()} and len(rows) == 4
    assert rows[str(tmp_path / "3.png")]["error"] == plain.skipped[str(tmp_path / "3.png")]
    for prediction in plain.predictions:
        row, expected = rows[str(prediction.image)], prediction.kept.to_json()
        assert alike(expected, {name: row[name] for name in expected})
        assert row["error"] is None and row["key"] is None
        if prediction.map:
            assert (tmp_path / "out" / row["map"]).read_bytes() == prediction.map.read_bytes()
    assert not list((tmp_path / "out").rglob("*.jpg"))
    if form == "parquet":
        table = pyarrow.dataset.dataset(tmp_path / "out" / "rows").to_table()
        assert table.num_rows == 4 and "task" in table.column_names


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_killed_at_any_moment_it_continues(runs, pictures, tmp_path, launch, form):
    """Killed three times, each time after at least one more part, by SIGKILL."""
    expected = featherbone.predict(runs(), (pictures,), out=tmp_path / "expected", rows=form)
    command = ["predict", runs(), pictures, "--out", tmp_path / "out", "--rows", form, "--part-size", 2]
    command += ["--batch-size", 2, "--device", "cpu"]
    parts = tmp_path / "out" / "rows"
    for _ in range(3):
        before = len(list(parts.glob("part-*")))
        process = launch(*command)
        while len(list(parts.glob("part-*"))) == before and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        rows = rows_of(tmp_path / "out")
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL and rows
    (parts / f".part-1-of-1-00099.{form}.1.partial").write_bytes(b"of a killed process")
    result = featherbone.predict(runs(), (pictures,), out=tmp_path / "out", rows=form)
    assert result.done == len(rows) and result.predicted + result.errors + result.done == 23
    same(rows_of(tmp_path / "out"), {(row["source"], row["key"]): row for row in expected})
    assert not list(parts.glob(".*")), "neither partial files nor locks"
    again = featherbone.predict(runs(), (pictures,), out=tmp_path / "out", rows=form)
    assert (again.predicted, again.errors, again.done) == (0, 0, 23)


def test_an_interruption_keeps_the_rows_so_far(runs, pictures, tmp_path, monkeypatch):
    """Ctrl-C while a batch is awaited ends the part; in the middle of a write, the part is lost."""
    records, calls = Predictor.records, []

    def fail(self, images):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return records(self, images)

    monkeypatch.setattr(Predictor, "records", fail)
    with pytest.raises(KeyboardInterrupt):
        featherbone.predict(runs(), (pictures,), out=tmp_path / "out", rows="parquet", batch_size=4)
    assert len(rows_of(tmp_path / "out")) == 12

    def full(self, rows):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prediction_rows.ParquetPart, "write", full)
        with pytest.raises(featherbone.errors.FeatherboneError, match=r"cannot write .*part-1-of-1-00001.*free some"):
            featherbone.predict(runs(), (pictures,), out=tmp_path / "out", rows="parquet")
    assert len(rows_of(tmp_path / "out")) == 12 and not list((tmp_path / "out/rows").glob(".*"))
    assert featherbone.predict(runs(), (pictures,), out=tmp_path / "out", rows="parquet").done == 12
    assert len(rows_of(tmp_path / "out")) == 23


def test_shares_together_are_everything(runs, pictures, tmp_path):
    """Into one folder, or several; a picture given twice has one row."""
    expected = featherbone.predict(runs(), (pictures, pictures / "0"), out=tmp_path / "whole", rows="parquet")
    assert expected.predicted + expected.errors == 23
    counts = []
    for share in ("1/3", "2/3", "3/3"):
        result = featherbone.predict(runs(), (pictures,), out=tmp_path / "shared", share=share)
        assert result.done == 0
        counts.append(result.predicted + result.errors)
    assert sum(counts) == 23 and max(counts) < 23
    same(rows_of(tmp_path / "shared"), rows_of(tmp_path / "whole"))
    names = {path.name for path in (tmp_path / "shared/rows").glob("part-*")}
    assert names == {f"part-{i}-of-3-00000.parquet" for i in (1, 2, 3)}
    assert featherbone.predict(runs(), (pictures,), out=tmp_path / "shared", rows="parquet").done == 23
    (single,) = (pictures / "0").glob("0.png")
    results = [featherbone.predict(runs(), (single,), out=tmp_path / "one", share=f"{i}/2") for i in (1, 2)]
    assert sorted(result.predicted for result in results) == [0, 1], "a share may be empty"


def test_lists_and_shards_are_rows_by_default(runs, pictures, tmp_path):
    content = (pictures / "0/0.png").read_bytes()
    pq.write_table(pa.table({"image": [content, b"x"]}), tmp_path / "shard.parquet")
    lines = [pictures / "0/0.png", pictures / "missing.png", tmp_path / "shard.parquet"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, lines)))
    result = featherbone.predict(runs(), (tmp_path / "list.txt",), out=tmp_path / "out", batch_size=1)
    rows = rows_of(tmp_path / "out")
    assert (result.predicted, result.errors) == (2, 2) and len(rows) == 4
    file, row = rows[str(lines[0]), None], rows[str(lines[2]), "0"]
    assert row["classes"] == file["classes"]
    assert "missing.png: there is no such file" in rows[str(lines[1]), None]["error"]
    assert "shard.parquet: 1: not a picture" in rows[str(lines[2]), "1"]["error"]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_name_that_is_not_utf8(runs, tmp_path, form):
    path = draw_not_utf8(tmp_path)
    for done in (0, 1):
        result = featherbone.predict(runs(), (path,), out=tmp_path / "out", rows=form)
        assert (result.predicted, result.done) == (1 - done, done)
    ((source, _),) = rows_of(tmp_path / "out")
    assert source.endswith("caf\\udce9.png")


def test_rows_of_another_model_are_refused(runs, pictures, tmp_path):
    """Of other weights, another task or score, in another form; by the names of what differs."""
    other = tmp_path / "other"
    shutil.copytree(runs("retinanet"), other)
    given, out = (pictures / "0",), tmp_path / "out"
    featherbone.predict(runs("retinanet"), given, out=out, rows="parquet", score=0.3)
    assert featherbone.predict(other, given, out=out, rows="parquet", score=0.3).done == 8, "a copy is the same model"
    for run, options, names in [
        (runs("retinanet"), {"score": 0.4}, "score"),
        (runs("retinanet"), {"score": 0.3, "tile": 64}, "tile"),
        (runs("retinanet"), {"score": 0.3, "rows": "jsonl"}, "rows"),
        (runs("yolov3"), {"score": 0.3}, "head and weights.*"),
        (runs(), {}, "task and .*weights.*"),
    ]:
        with pytest.raises(BadOption, match=rf"made with another {names}; choose another folder with --out, or remove"):
            featherbone.predict(run, given, out=out, **{"rows": "parquet", **options})
    assert not list((out / "rows").glob(".*"))


def test_an_exported_file_is_a_model_by_its_digest(runs, pictures, tmp_path):
    for name in ("a", "b"):
        exported = featherbone.export(runs(), images=pictures, count=2, out=tmp_path / name)
        given = {"out": tmp_path / "out", "rows": "parquet"}
        result = featherbone.predict(exported.path, (pictures / "0",), **given)
    assert result.done == 8
    with pytest.raises(BadOption, match="another weights"):
        featherbone.predict(runs(), (pictures / "0",), **given)


def test_a_damaged_part_is_refused_with_its_name(runs, pictures, tmp_path):
    for form in ("parquet", "jsonl"):
        out = tmp_path / form
        featherbone.predict(runs(), (pictures / "0",), out=out, rows=form)
        part = out / "rows" / f"part-1-of-1-00000.{form}"
        content = part.read_bytes()
        for damaged in (content[:-20], b"", b'{"a": 1}\n'):
            if form == "jsonl" and not damaged:
                continue
            part.write_bytes(damaged)
            with pytest.raises(BadData, match=rf"00000.{form}: cannot be read .*; remove it, and its pictures are"):
                featherbone.predict(runs(), (pictures / "0",), out=out, rows=form)
        part.unlink()
        assert featherbone.predict(runs(), (pictures / "0",), out=out, rows=form).done == 0


def test_one_process_at_a_time_writes_a_share(runs, pictures, tmp_path, launch, monkeypatch):
    command = ["predict", runs(), pictures, "--out", tmp_path / "out", "--rows", "jsonl", "--device", "cpu"]
    holder = launch(*command, "--batch-size", 1)
    while not (tmp_path / "out/rows/.lock-1-of-1").exists():
        assert holder.poll() is None
        time.sleep(0.001)
    holder.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(prediction_rows, "PATIENCE", 0.2)
    try:
        with pytest.raises(BadRun, match="another process is writing share 1-of-1; wait until it ends, or give"):
            featherbone.predict(runs(), (pictures,), out=tmp_path / "out", rows="jsonl")
    finally:
        holder.send_signal(signal.SIGCONT)
        monkeypatch.setattr(prediction_rows, "PATIENCE", 60.0)
    result = featherbone.predict(runs(), (pictures,), out=tmp_path / "out", rows="jsonl")
    assert holder.wait() == 0, holder.communicate()
    holder.communicate()
    assert result.done == len(rows_of(tmp_path / "out")) == 23, "it has waited"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("IN --share 4/3", "share '4/3' is not one of 1/N to N/N; pass 1/3"),
        ("IN --share 0/3", "share '0/3' is not one of"),
        ("", "no pictures; give files, folders"),
        ("IN --part-size 9", "part-size applies only to rows; omit it, or pass --rows parquet"),
        ("IN/nothing*.png", "nothing*.png: there is no such file or folder; check the path"),
        ("IN --part-size 0", "part size 0 is too small; pass 1 or more"),
        ("IN --workers 0", "workers 0 is too small; pass 1 or more"),
        ("IN/nothing*.png --rows jsonl", "nothing*.png: there is no such file or folder; check the path"),
        ("IN/missing.txt", "missing.txt: there is no such file or folder; check the path"),
        ("IN/empty.jpg --rows parquet", "none of 1 pictures can be read; the first"),
        ("EMPTY --rows parquet", "no pictures; they end in"),
        ("file:///nowhere", "there is no such file or folder"),
    ],
)
def test_mistakes_are_one_message(runs, pictures, tmp_path, capsys, arguments, message):
    (tmp_path / "nothing here").mkdir()
    given = [word.replace("IN", str(pictures)) for word in arguments.split()]
    given = [str(tmp_path / "nothing here") if word == "EMPTY" else word for word in given]
    assert main(["predict", str(runs()), *given, "--out", str(tmp_path / "out"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert message in json.loads(out)["error"] and "Traceback" not in err


def test_json_is_one_object_and_errors_are_reported_some_times(runs, pictures, tmp_path, capsys):
    for i in range(12):
        (pictures / f"bad{i}.jpg").write_bytes(b"")
    assert main(["predict", str(runs()), str(pictures), "--rows", "jsonl", "--out", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"predicted": 21, "errors": 14, "done": 0, "rows": str(tmp_path / "rows")}
    assert err.count("unreadable /") == 10 and "only in the rows" in err


def test_memory_does_not_grow_with_the_pictures(monkeypatch, runs):
    """Three batches of pictures, inputs and records are alive at most: read ahead, computed, and used."""
    given, most = [], []  # weak references, and the numbers of those alive

    def entries(count):
        for i in range(count):
            image = drawn(40, 60)
            given.append(weakref.ref(image))
            yield Entry(str(i), None, lambda image=image: image)

    predictor = featherbone.load(runs("segformer"), device="cpu")
    for results in predict_entries(predictor, entries(60), 4, 2, keep=True):
        for result in results:
            given.append(weakref.ref(result.record))
            assert isinstance(result.record, SemanticMap) and isinstance(result.picture, Image.Image)
        time.sleep(0.01)  # a slow disk: the others run ahead as far as they may
        gc.collect()
        most.append(Counter(type(thing()) for thing in given))
    assert len(most) == 15 and max(count[SemanticMap] for count in most) <= 12
    assert max(count[Image.Image] for count in most) <= 16 < 60


def test_rows_are_written_while_pictures_come(runs, tmp_path, monkeypatch):
    """No more than a group waits in memory, and maps are in their files."""
    monkeypatch.setattr(prediction_rows, "GROUP", 4)
    written, write, waiting = [], prediction_rows.JsonPart.write, []

    def watched(self, rows):
        written.append(len(rows))
        waiting.append(sum(type(thing) in (SemanticMap, PanopticMap) for thing in gc.get_objects()))
        write(self, rows)

    monkeypatch.setattr(prediction_rows.JsonPart, "write", watched)
    for i in range(22):
        drawn(40 + i, 60).save(tmp_path / f"{i}.png")
    featherbone.predict(runs("segformer"), (tmp_path,), out=tmp_path / "out", rows="jsonl", batch_size=2, part_size=10)
    assert written == [4, 4, 2, 4, 4, 2, 2] and max(waiting) <= 6
    assert len(list((tmp_path / "out/rows").glob("part-*"))) == 3


def test_a_part_ends_after_some_time(runs, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_rows, "PART_SECONDS", 0.0)
    featherbone.predict(runs(), (pictures / "0",), out=tmp_path / "out", rows="jsonl")
    assert len(list((tmp_path / "out/rows").glob("part-*"))) == 8


def test_reading_computing_and_writing_overlap(monkeypatch, runs):
    """Each takes a while; together they take little longer than one."""
    predictor = featherbone.load(runs(), device="cpu")
    records = predictor.records

    def slow(images):
        time.sleep(0.1)
        return records(images)

    def read():
        time.sleep(0.05)
        return drawn(40, 60)

    monkeypatch.setattr(predictor, "records", slow)
    start = time.monotonic()
    for _ in predict_entries(predictor, (Entry(str(i), None, read) for i in range(20)), 2, 1):
        time.sleep(0.1)
    assert time.monotonic() - start < 2.2, "one after the other, 3 s"


def test_an_error_in_a_thread_is_raised(runs):
    predictor = featherbone.load(runs(), device="cpu")

    def broken():
        yield Entry("a", None, lambda: drawn(40, 60))
        raise BadImage("the list ends")

    with pytest.raises(BadImage, match="the list ends"):
        list(predict_entries(predictor, broken(), 4, 1))
