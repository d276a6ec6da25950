import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from exporting import a_model, pictures
from featherbone.benchmarking.device_folder import script
from featherbone.benchmarking.device_script import FORMAT
from featherbone.cli import main
from featherbone.exporters.artifact import Form
from featherbone.exporters.contract import export_task
from featherbone.exporters.targets import TARGETS, find_target
from inline import Canned, inline


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder for a device, of an exported detector's ONNX file that takes batches."""
    place = tmp_path_factory.mktemp("device")
    card, task = a_model("retinanet")
    export_task(card, task, Form(find_target("onnx"), "batch"), place / "onnx", pictures())
    assert main(["bench", str(place / "onnx"), "--batch-size", "1", "2", "--to", str(place / "folder")]) == 0
    return place / "folder"


@pytest.fixture
def device(tmp_path, monkeypatch, written):
    """A copy of the folder, and the command of its script, where neither Featherbone nor torch can be imported."""
    for name in ("featherbone", "torch"):
        (tmp_path / "none" / name).mkdir(parents=True)
        (tmp_path / "none" / name / "__init__.py").write_text("raise RuntimeError('this device does not have it')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
    shutil.copytree(written, tmp_path / "folder")
    return tmp_path / "folder", [sys.executable, str(tmp_path / "folder" / "bench.py"), "--threads", "1"]


@pytest.fixture(scope="module")
def results():
    """A file of results as a device writes it."""
    times = {"p25": 40.0, "p50": 41.0, "p75": 42.0, "p90": 43.0, "p95": 44.0, "images_per_second": 24.4}
    row = {"model": "lvt", "runtime": "onnx", "batch": 1, "height": 224, "width": 224, "macs": 9 * 10**8, **times}
    about = {"name": "Raspberry Pi 5", "cpu": "Cortex-A76", "system": "Linux", "python": "3.11.2", "threads": 4}
    about |= {"date": "2026-01-01T00:00+00:00", "runtimes": {"onnx": "onnxruntime 1.20.1"}}
    return {"format": FORMAT, "complete": True, "repeats": 20, "device": about, "rows": [row]}


def test_the_script_needs_only_the_runtime(device):
    folder, command = device
    done = subprocess.run([*command, "--repeats", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "results.json").read_text())
    assert found["complete"] and found["repeats"] == 1 and "onnxruntime" in found["device"]["runtimes"]["onnx"]
    assert [row["batch"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert 0 < row["p25"] <= row["p50"] <= row["p90"] and not row["note"] and not row["error"]
        assert row["differs"] < 1e-5 and row["peak_mb"] > row["file_mb"] / 2 > 0
    title, *rows = [line for line in done.stdout.splitlines() if "64x96" in line or "p90" in line][-3:]
    assert title.startswith("model") and len(rows) == 2 and found["device"]["name"] in done.stdout


def test_wrong_outputs_are_found(device):
    folder, command = device
    path = next(folder.glob("*/expected-0.npy"))
    np.save(path, np.load(path) * 1.1)
    done = subprocess.run([*command, "--repeats", "1"], capture_output=True, text=True)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert all("wrong outputs" in row["note"] and row["differs"] > 1e-3 for row in rows), done.stdout


def test_a_file_that_does_not_run_is_a_row(device):
    folder, command = device
    next(folder.glob("*/model.onnx")).write_bytes(b"nothing")
    done = subprocess.run([*command, "--repeats", "1"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert all(row["error"] for row in json.loads((folder / "results.json").read_text())["rows"])


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signals")
def test_an_interrupted_script_keeps_its_results(device):
    folder, command = device
    file = folder / "results.json"
    with subprocess.Popen([*command, "--repeats", "1000000", "--seconds", "1000"], stdout=subprocess.PIPE) as process:
        while not file.exists() or json.loads(file.read_text())["repeats"] < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130 and b"incomplete" in process.stdout.read()
    found = json.loads(file.read_text())
    assert not found["complete"] and all(row["p50"] > 0 for row in found["rows"])


def test_the_scripts_of_all_targets_are_plain_python_3_8():
    openers = [name for name, target in TARGETS.items() if target.opener()]
    assert {"onnx", "openvino", "executorch", "litert"} <= set(openers)
    tree = ast.parse(script(openers), feature_version=(3, 8))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {f"open_{name}" for name in openers if name != "web"} <= names
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(module.startswith("featherbone") for module in imported)
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert top <= sys.stdlib_module_names


def test_a_model_by_name_is_exported_for_the_device(monkeypatch, tmp_path, capsys):
    """By default to ONNX; one that cannot be exported is named."""
    inline(monkeypatch)
    write = type(find_target("onnx")).write

    def fail(self, net, example, *arguments):
        if example.shape[2] == 64:
            raise RuntimeError("no such operator")
        return write(self, net, example, *arguments)

    monkeypatch.setattr(type(find_target("onnx")), "write", fail)
    assert main(["bench", "test_resnet", "--image-size", "32", "64", "--to", str(tmp_path / "to"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["error"] for row in rows] == ["", "no such operator"] and rows[0]["runtime"] == "onnx"
    (case,) = json.loads((tmp_path / "to" / "models.json").read_text())
    files = {path.name for path in (tmp_path / "to" / case["folder"]).iterdir()}
    assert files == {"model.onnx", "input.npy", "expected-0.npy"} and case["row"]["macs"] > 0
    readme = (tmp_path / "to" / "README.txt").read_text()
    assert "pip install numpy onnxruntime\n" in readme and "python3 bench.py\n" in readme


def test_results_of_devices_are_tables(results, tmp_path, capsys):
    """Without a model only they are; two devices of one name are told apart."""
    for name in ("pi", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    files = [str(tmp_path / "pi.json"), str(tmp_path / "other.json")]
    assert main(["bench", "--merge", *files, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out" / "bench.json").read_text()) and found["machine"] is None
    assert [row["device"] for row in found["rows"]] == ["Raspberry Pi 5", f"Raspberry Pi 5 ({files[1]})"]
    table = (tmp_path / "out" / "bench.md").read_text()
    assert "| Raspberry Pi 5 |" in table and "41.00" in table and "onnxruntime 1.20.1" in table
    assert (tmp_path / "out" / "bench.png").is_file()


def test_results_of_devices_are_beside_those_of_this_machine(results, tmp_path, capsys, monkeypatch):
    inline(monkeypatch, Canned)
    (tmp_path / "pi.json").write_text(json.dumps(results | {"complete": False}))
    options = f"--image-size 32 --repeats 1 --device cpu --merge {tmp_path / 'pi.json'} --out {tmp_path}".split()
    assert main(["bench", "test_resnet", *options]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [(row["device"], row["p50"]) for row in rows] == [("this machine", 2.5), ("Raspberry Pi 5", 41.0)]
    assert "device   Raspberry Pi 5" in printed and "incomplete" in printed and "machine  " in printed


@pytest.mark.parametrize("content", ["{}", "[1]", "", '{"format": "other", "complete": true, "device": 1, "rows": []}'])
def test_a_file_without_results_is_one_message(content, tmp_path, capsys):
    (tmp_path / "pi.json").write_text(content)
    assert main(["bench", "--merge", str(tmp_path / "pi.json"), "--out", str(tmp_path / "out")]) == 2
    printed, err = capsys.readouterr()
    assert "pi.json: " in err and "give the results.json that bench.py wrote" in " ".join(err.split()) and not printed
    assert not (tmp_path / "out").exists()


def test_results_in_another_format_are_refused(results, tmp_path, capsys):
    (tmp_path / "pi.json").write_text(json.dumps(results | {"format": "of the future"}))
    assert main(["bench", "--merge", str(tmp_path / "pi.json"), "--out", str(tmp_path / "out")]) == 2
    assert "format 'of the future', this version reads" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--runtimes eager --to {new}", "eager has no function for a device; for a folder give runtimes among onnx"),
        ("--runtimes torch --to {new}", "torch has no function for a device"),
        ("--repeats 3 --to {new}", "omit"),
        ("--to {there}", "not an empty folder"),
        ("--to {new} --merge {pi}", "omit it or to"),
        ("--train --merge {pi}", "omit train or merge"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, message, results, tmp_path, capsys):
    (tmp_path / "pi.json").write_text(json.dumps(results))
    words = options.format(new=tmp_path / "new", there=tmp_path, pi=tmp_path / "pi.json").split()
    assert main(["bench", "test_resnet", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "new").exists()
