"""The scripts behind docs/speed.md, at toy size."""

import json

import pytest
import torch

import kills
import loading
import opening
import operators
import scaling
import threads as thread_calls
import training


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_opening_is_measured_in_processes_of_its_own(tmp_path, capsys):
    root, out = tmp_path / "data", tmp_path / "opening.json"
    size = ("--files", "2000", "--images", "20", "--objects", "60", "--repeats", "1", "--root", str(root))
    found = opening.main([*size, "--only", "walk", "--out", str(out)])
    assert json.loads(out.read_text()) == found and found["walk"]["CPU s"] > 0
    assert "walk" in capsys.readouterr().out
    for name in ("folder", "coco detection"):
        assert opening.MEASURES[name](root)["CPU s"] > 0
    assert opening.MEASURES["start"](root)["batch seconds"] > 0


def test_operators_are_compared_with_their_plain_forms(tmp_path, capsys):
    out = tmp_path / "operators.json"
    size = (
        "--image-size",
        "64",
        "--batch-sizes",
        "2",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--models",
        "lvt",
        "lit_tiny",
    )
    found = operators.main([*size, "--out", str(out)])
    assert json.loads(out.read_text()) == found
    csa = found["operators"][0]
    assert csa["operator"] == "CSA" and csa["of its products"] > 0.5
    assert csa["memory"] <= 0.4  # allocated bytes do not depend on how busy the machine is
    assert [row["model"] for row in found["models"]] == ["lvt", "lit_tiny"]
    assert all(row["plain / fast"] == row["plain ms"] / row["ms"] > 0 for row in found["models"])
    assert "| CSA | 2 |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["lvt", "lightvit_tiny", "lit_small"])
def test_a_plain_model_is_the_model(name):
    import timm

    net, images = timm.create_model(name).eval(), torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = net(images)
        with operators.plain():
            got = net(images)
    assert not torch.equal(got, expected)  # other operators were at work
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_cost_is_set_against_size(tmp_path):
    size = ("--sides", "64", "128", "--repeats", "1", "--threads", "1", "--models", "xformer_small")
    (row,) = scaling.main([*size, "--out", str(tmp_path / "scaling.json")])
    assert row["model"] == "xformer_small" and row["64 px"] > 0
    assert 0.9 < row["of MACs"] <= 1.01
    assert json.loads((tmp_path / "scaling.json").read_text()) == [row]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm's reader leaves files open
def test_loading_is_set_against_the_step(tmp_path):
    size = ("--images", "12", "--image-size", "64", "--batch-size", "4", "--workers", "0", "--model", "test_resnet")
    found = loading.main([*size, "--out", str(tmp_path / "loading.json")])
    assert found["ours"] > 0 and found["timm"] > 0 and found["step"] > 0
    assert json.loads((tmp_path / "loading.json").read_text()) == found


def test_training_is_measured_in_every_form(tmp_path):
    size = ("--image-size", "64", "--batch-size", "2", "--repeats", "1", "--threads", "1", "--models", "test_resnet")
    (row,) = training.main([*size, "--out", str(tmp_path / "training.json")])
    assert row.keys() == {"model", *training.FORMS} and all(row[name] > 0 for name in training.FORMS)
    assert json.loads((tmp_path / "training.json").read_text()) == [row]


def test_calls_from_threads_are_set_against_calls_in_a_row():
    (row,) = thread_calls.main(["--models", "test_resnet", "--threads", "2", "--repeats", "1"])
    assert row["model"] == "test_resnet"
    assert row["threads / in a row"] == row["threads, s"] / row["in a row, s"] > 0


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits():
    found = kills.main(["--kills", "1", "--model", "test_resnet"])
    assert found["kills"] == 1 and found["rounds"] == found["the same bits"] >= 1
