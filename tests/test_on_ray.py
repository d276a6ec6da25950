"""Prediction on a Ray cluster on this machine, one of whose two workers is killed."""

import io
import json
import sys
import time

import pyarrow as pa
import pytest

import featherbone
from exporting import a_run, drawn
from featherbone.cli import main
from featherbone.errors import BadOption
from featherbone.on_ray import BatchPredictor
from featherbone.prediction_rows import read_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    a_run(folder)
    return folder


def test_a_batch_of_a_ray_data_set(run):
    """A callable on Arrow tables; it needs no Ray."""
    contents = []
    for i in range(3):
        file = io.BytesIO()
        drawn(40 + i, 60).save(file, "PNG")
        contents.append(file.getvalue())
    table = pa.table({"path": ["a", "b", "c", "d"], "bytes": [*contents, b"hello"]})
    found = BatchPredictor(str(run), device="cpu")(table)
    assert found.column_names == ["path", "error", "task", "classes", "abstained"]
    expected = featherbone.load(run, "cpu").predict(contents)
    assert found["classes"].to_pylist()[:3] == [record.to_json()["classes"] for record in expected]
    assert found["abstained"].null_count == 4, "the run has no operating point"
    assert found["classes"].to_pylist()[3] is None and "not a picture" in found["error"].to_pylist()[3]
    assert BatchPredictor(str(run), device="cpu")(table[:0]).num_rows == 0


def test_maps_are_no_columns(tmp_path):
    a_run(tmp_path / "run", "segformer")
    with pytest.raises(BadOption, match="semantic gives maps, which are no columns; use featherbone predict --ray"):
        BatchPredictor(str(tmp_path / "run"), device="cpu")


def test_without_ray(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["predict", str(run), str(tmp_path), "--ray", "local", "--json"]) == 2
    assert "pip install 'featherbone[ray]'" in json.loads(capsys.readouterr().out)["error"]
    assert main(["predict", str(run), str(tmp_path), "--ray", "local", "--share", "1/2", "--json"]) == 2
    assert "share 1/2 applies only to single machines; omit it" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.filterwarnings("ignore")
def test_a_worker_is_killed(run, tmp_path, launch):
    """Every picture has one row, and the counts are those of the whole work."""
    pytest.importorskip("ray", reason="needs featherbone[ray]")
    from ray.cluster_utils import Cluster

    (tmp_path / "in").mkdir()
    for i in range(400):
        drawn(40 + i % 5, 60).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        command = ["predict", run, tmp_path / "in", "--out", tmp_path / "out", "--ray", cluster.address]
        process = launch(*command, "--part-size", 5, "--batch-size", 2, "--device", "cpu", "--json")
        while len(list((tmp_path / "out/rows").glob("part-*"))) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        cluster.remove_node(workers[0], allow_graceful=False)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    finally:
        cluster.shutdown()
    counts = json.loads(out)
    assert counts["predicted"] + counts["errors"] + counts["done"] == 401 and counts["errors"] <= 1
    sources = [row["source"] for row in read_rows(tmp_path / "out")]
    assert sorted(sources) == sorted(str(path) for path in (tmp_path / "in").iterdir())
