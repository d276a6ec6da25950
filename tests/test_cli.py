import errno
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featherbone
from featherbone.cli import COMMANDS, main
from featherbone.data.images import read_image
from scenes import write_classification


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set and a finished run, made by the command line itself."""
    folder = tmp_path_factory.mktemp("world")
    write_classification(folder / "data", 24, 12, (32, 32))
    command = (
        "train --model test_resnet --no-pretrained --image-size 32 --epochs 1 --batch-size 8 --workers 0 --device cpu"
    )
    assert main([*command.split(), "--data", str(folder / "data"), "--out", str(folder / "run")]) == 0
    return folder


def run(capsys, *arguments):
    """Exit code, standard output and standard error of a command in this process."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = stopped.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_every_command_has_a_page_of_help(capsys):
    for name in COMMANDS:
        code, out, _ = run(capsys, *name.split(), "--help")
        assert code == 0 and "--json" in out and COMMANDS[name].__doc__.split(".")[0].split()[0] in out


def test_train_says_where_things_lie(world, capsys):
    code, out, err = run(
        capsys, "train", "--data", world / "data", "--image-size", 32, "--epochs", 1, "--workers", 0, "--model",
        "mobilenetv3_small_050", "--no-pretrained", "--out", world / "other", "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert result["run"] == str(world / "other") and 0 <= result["metrics"]["top1"] <= 1
    assert "epoch 1/1" in err


def test_evaluate_repeats_the_card(world, capsys):
    code, out, err = run(capsys, "evaluate", world / "run", "--json", "--workers", 0)
    assert code == 0, err
    card = json.loads((world / "run" / "card.json").read_text())
    measured = json.loads(out)["metrics"]
    assert {name: card["metrics"][name] for name in ("top1", "top5", "confusion", "images")} == {
        name: measured[name] for name in ("top1", "top5", "confusion", "images")
    }
    code, out, _ = run(capsys, "evaluate", world / "run", "--workers", 0)
    assert code == 0 and "top-1" in out and "triangle" in out


def test_evaluate_refuses_other_classes(world, capsys, tmp_path):
    shutil.copytree(world / "data", tmp_path / "data")
    for split in ("train", "val"):
        (tmp_path / "data" / split / "circle").rename(tmp_path / "data" / split / "disc")
    code, _, err = run(capsys, "evaluate", world / "run", "--data", tmp_path / "data")
    assert code == 2 and "classes" in err and "disc" in err


def test_predict_files_folders_and_what_cannot_be_read(world, capsys, tmp_path):
    folder = tmp_path / "some pictures ä"
    folder.mkdir()
    Image.new("L", (50, 30), 99).save(folder / "grey.png")
    Image.new("RGB", (31, 77)).save(folder / "photo.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    single = next((world / "data" / "val").glob("*/*.jpg"))
    code, out, err = run(capsys, "predict", world / "run", folder, single, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert len(result["predictions"]) == 3 and list(result["skipped"]) == [str(folder / "broken.jpg")]
    assert all(read_image(row["picture"]).width >= 240 for row in result["predictions"])
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == result
    code, _, err = run(capsys, "predict", world / "run", folder / "broken.jpg")
    assert code == 2 and "none of 1 pictures" in err
    code, _, err = run(capsys, "predict", world / "run", tmp_path / "missing.jpg")
    assert code == 2 and "no such file" in err


def test_a_predictor_takes_any_image(world):
    predictor = featherbone.load(world / "run")
    path = next((world / "data" / "val").glob("*/*.jpg"))
    picture = read_image(path)
    array = np.asarray(picture)
    sources = [path, str(path), path.read_bytes(), picture, array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    records = predictor.predict(sources)
    for record in records:
        assert record.labels == records[0].labels and record.scores == pytest.approx(records[0].scores, abs=1e-5)
    assert records[0].scores == tuple(sorted(records[0].scores, reverse=True))
    assert predictor(array.astype(np.float32) / 255).label == records[0].label


def test_explain_a_run_and_a_name(world, capsys, tmp_path):
    picture = next((world / "data" / "val").glob("*/*.jpg"))
    code, out, err = run(capsys, "explain", world / "run", picture, "--out", tmp_path / "why", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["record"]["task"] == "classification" and (tmp_path / "why" / "explain.html").exists()
    assert all(read_image(path).width > 30 for path in result["pictures"])
    code, _, err = run(capsys, "explain", "lvt", picture, "--point", 99, 5, "--out", tmp_path / "why")
    assert code == 2 and "point" in err


def test_export_is_proven_and_travels_with_what_it_needs(world, capsys):
    """The file serves where the run does, and says the same."""
    file = world / "small" / "model.onnx"
    code, out, err = run(capsys, "export", world / "run", "--count", 5, "--evaluate", "--out", file.parent, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["parity"]["holds"] and result["parity"]["images"] == 5 and result["bytes"] > 1e6
    of_run = json.loads((world / "run" / "card.json").read_text())["metrics"]
    assert result["metrics"]["confusion"] == of_run["confusion"] == result["metrics_of_run"]["confusion"]
    picture = next((world / "data" / "val").glob("*/*.jpg"))
    told = []
    for place in (world / "run", file, file.parent):
        code, out, err = run(capsys, "predict", place, picture, "--out", world / "told", "--json")
        assert code == 0, err
        told.append([row["score"] for row in json.loads(out)["predictions"][0]["classes"]])
    assert told[0] == pytest.approx(told[1], abs=1e-5) and told[1] == told[2]
    code, out, err = run(capsys, "evaluate", file, "--data", world / "data", "--workers", 0, "--json")
    assert code == 0 and json.loads(out)["metrics"]["confusion"] == of_run["confusion"], err
    assert (world / "small-report.html").exists()
    code, out, err = run(capsys, "predict", file, picture, "--json")
    (row,) = json.loads(out)["predictions"]
    assert code == 0 and Path(row["picture"]).parent == world / "small-predictions", err
    inside = {path.name for path in file.parent.iterdir()}
    assert inside == {"model.onnx", "featherbone.json", "parity.json", "parity.html"}
    code, _, err = run(capsys, "evaluate", file)
    assert code == 2 and "--data DIR" in err
    for spoil, message in (
        (lambda: file.write_bytes(file.read_bytes()[:-1]), "not what featherbone export wrote"),
        (lambda: (file.parent / "featherbone.json").write_text("{"), "export the run again"),
        (lambda: (file.parent / "featherbone.json").unlink(), "give a file that featherbone export wrote"),
    ):
        spoil()
        code, _, err = run(capsys, "predict", file, picture)
        assert code == 2 and message in err and "Traceback" not in err


def test_int8_keeps_the_metric(world, capsys):
    place = world / "int8"
    options = ("--int8", "--max-drop", 0.5, "--calibration", 8, "--out", place)
    code, out, err = run(capsys, "export", world / "run", *options, "--json")
    assert code == 0, err
    result = json.loads(out)
    before, after = result["float"], result["int8"]
    assert result["metric"] == "top1"
    assert after["metric"] >= before["metric"] - 0.5 and after["bytes"] < before["bytes"]
    picture = next((world / "data" / "val").glob("*/*.jpg"))
    code, out, err = run(capsys, "predict", place, picture, "--out", world / "told", "--json")
    assert code == 0 and json.loads(out)["predictions"], err
    code, out, err = run(capsys, "evaluate", place, "--data", world / "data", "--workers", 0, "--json")
    assert code == 0 and json.loads(out)["metrics"]["top1"] == pytest.approx(after["metric"]), err


def test_doctor_tries_a_target_before_anyone_trains(capsys):
    code, out, err = run(capsys, "doctor", "--target", "onnx", "--model", "test_resnet", "--image-size", 64, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["error"] is None and told["operators"] and told["bytes"] > 1e5


def test_models_lists_ours_and_timms(capsys):
    code, out, _ = run(capsys, "models")
    assert code == 0 and "lvt_cls" in out and "74.8%" in out and "not run" in out
    code, out, _ = run(capsys, "models", "mobilenetv3_small_0*", "--json")
    assert code == 0 and {row["name"] for row in json.loads(out)["models"]} >= {"mobilenetv3_small_050"}
    code, _, err = run(capsys, "models", "no_such*")
    assert code == 2 and "no backbone" in err


def test_doctor_ends_in_one_where_training_would_be_spoiled(world, capsys, tmp_path):
    code, out, err = run(capsys, "doctor", world / "data", "--out", tmp_path / "page.html", "--json")
    assert code == 0, (out, err)
    assert (tmp_path / "page.html").stat().st_size > 1000
    shutil.copytree(world / "data", tmp_path / "bad")
    shutil.rmtree(tmp_path / "bad" / "train" / "ring")
    (tmp_path / "bad" / "train" / "ring").mkdir()
    code, out, _ = run(capsys, "doctor", tmp_path / "bad", "--out", tmp_path / "page.html")
    assert code == 1 and "ring" in out


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["train"], "no data"),
        (["train", "--data", "nowhere"], "layouts"),
        (["train", "--data", "DATA", "--model", "lvtt"], "did you mean lvt"),
        (["train", "--data", "DATA", "--out", "RUN"], "already holds a run"),
        (["train", "--data", "DATA", "--task", "detection"], "not detection"),
        (["train", "--data", "DATA", "--recipe", "lvt_imagnet"], "did you mean lvt_imagenet"),
        (["train", "--data", "DATA", "--image-size", "8"], "image_size 8"),
        (["train", "--resume", "nowhere"], "not a run folder"),
        (["train", "--resume", "RUN", "--epochs", "3"], "keeps its settings"),
        (["train", "--resume", "RUN", "--recipe", "lvt"], "omit recipe"),
        (["train", "--data", "DATA", "--epoch", "3"], "--epochs"),
        (["evaluate", "nowhere"], "not a run folder"),
        (["evaluate", "DATA"], "not a run folder"),
        (["export", "RUN", "--count", "0"], "count 0"),
        (["export", "RUN", "--images", "nowhere"], "no such file"),
        (["export", "RUN", "--with-nms"], "with-nms applies to detectors"),
        (["export", "RUN", "--out", "DATA"], "give an empty or new folder with --out"),
        (["export", "RUN", "--to", "torch", "--int8"], "int8 is not available for torch"),
        (["export", "RUN", "--to", "litert"], "pip install litert_torch"),
        *([(["export", "RUN", "--to", "coreml"], "verified only on darwin")] if sys.platform != "darwin" else []),
        (["export", "RUN", "--int8", "--evaluate"], "omit evaluate"),
        (["export", "RUN", "--int8", "--fp16"], "omit one of them"),
        (["doctor"], "check what"),
        (["doctor", "--target", "onnx", "--model", "lvt", "--zero-ignored"], "omit them for a target"),
        (["doctor", "DATA", "--head", "yolov3"], "head applies only to --target"),
        (["doctor", "--target", "onx", "--model", "lvt"], "did you mean onnx"),
        (["serve-web", "DATA"], "export --to web"),
        (["export", "RUN", "--to", "executorch", "--dynamic", "size"], "give none"),
        (["predict", "RUN", "DATA", "--batch-size", "0"], "batch size 0"),
        (["demo", "--out", "DATA"], "not an empty folder"),
        (["doctor", "nowhere"], "nothing there"),
    ],
)
def test_mistakes_are_one_message(world, capsys, arguments, message):
    places = {"DATA": world / "data", "RUN": world / "run"}
    code, out, err = run(capsys, *(places.get(argument, argument) for argument in arguments))
    assert code == 2 and message in err + out and "Traceback" not in err
    if "--epoch" not in arguments:
        code, out, _ = run(capsys, *(places.get(argument, argument) for argument in arguments), "--json")
        assert code == 2 and message in json.loads(out)["error"]


@pytest.mark.parametrize("place", ["in a file", "a file", "too long"])
@pytest.mark.parametrize(
    "command",
    [
        "train --data {data} --out {place}",
        "doctor {data} --out {place}",
        "predict {run} {data} --out {place}",
        "explain lvt {picture} --out {place}",
        "export {run} --out {place}",
        "bench lvt --out {place}",
        "evaluate {run} --out {place}",
        "data panoptic --instances {data} --semantic {data} --out {place}",
        "demo --out {place}",
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(world, capsys, tmp_path, command, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    wants_a_file = command.startswith(("doctor", "evaluate"))
    path, reason, remedy = {
        "in a file": (tmp_path / "file" / "new", "Not a directory", "choose another place"),
        "a file": (tmp_path / ("folder" if wants_a_file else "file"), "irectory", "choose another place"),
        "too long": (tmp_path / ("x" * 300), "File name too long", "choose a shorter name"),
    }[place]
    picture = next((world / "data" / "val").glob("*/*.jpg"))
    names = {"data": world / "data", "run": world / "run", "picture": picture, "place": path}
    code, _, err = run(capsys, *(word.format(**names) for word in command.split()))
    message = " ".join(err.split())
    assert code == 2 and f"cannot write {path}: " in message and reason in message and remedy in message, err
    assert "epoch" not in err and (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


class Terminal(io.TextIOWrapper):
    """Standard output in ASCII."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="ascii")

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode("ascii")


@pytest.mark.parametrize("as_json", [True, False])
def test_results_print_where_output_is_not_utf_8(world, tmp_path, monkeypatch, as_json):
    shutil.copytree(world / "data" / "val", tmp_path / "zwölf 図")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    sys.stderr.reconfigure(errors="backslashreplace")  # as Python's own
    arguments = ["doctor", str(tmp_path / "zwölf 図"), "--out", str(tmp_path / "zwölf.html")]
    assert main(arguments + ["--json"] * as_json) == 0
    printed = sys.stdout.text()
    if as_json:
        assert json.loads(printed)["page"] == str(tmp_path / "zwölf.html") and json.loads(printed)["data"].endswith(
            "図"
        )
    else:
        assert "zw\\xf6lf.html" in printed


def test_help_prints_where_output_is_not_utf_8(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with pytest.raises(SystemExit) as done:
        main(["train", "--help"])
    assert not done.value.code and "--data" in sys.stdout.text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_result_that_no_disk_has_room_for_is_one_message(capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["models", "lvt", "--json"]) == 2
        assert main(["models", "no_such_model", "--json"]) == 2  # neither is there room for the message
    assert "cannot write standard output: No space left" in " ".join(capsys.readouterr().err.split())


def test_temporary_files_without_room_are_one_message(capsys, monkeypatch):
    def fill(pattern: str | None = None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(COMMANDS, "models", fill)
    code, out, err = run(capsys, "models", "--json")
    message = json.loads(out)["error"]
    assert code == 2 and "No space left on device; free some space" in message and "Traceback" not in err


def test_a_damaged_run_is_refused_by_name(world, capsys, tmp_path):
    picture = next((world / "data" / "val").glob("*/*.jpg"))
    for name, content, message in (
        ("weights.safetensors", b"junk", "damaged"),
        ("card.json", b"{", "restore the file or train again"),
        ("card.json", b'{"format": 99}', "format 99"),
    ):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(world / "run", tmp_path / "run")
        (tmp_path / "run" / name).write_bytes(content)
        code, _, err = run(capsys, "predict", tmp_path / "run", picture)
        assert code == 2 and message in err and name in err
    shutil.copytree(world / "run", tmp_path / "other")
    card = json.loads((tmp_path / "other" / "card.json").read_text())
    (tmp_path / "other" / "card.json").write_text(json.dumps(card | {"backbone": "xformer_small"}))
    code, _, err = run(capsys, "predict", tmp_path / "other", picture)
    assert code == 2 and "weights of another model" in err


def test_training_leaves_out_what_it_may_and_refuses_the_rest(world, capsys, tmp_path):
    data = tmp_path / "my data"
    shutil.copytree(world / "data", data)
    (data / "train" / "ring" / "broken ü.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    (data / "train" / "ring" / "empty.png").write_bytes(b"")
    (data / "train" / "ring" / "notes.txt").write_text("notes")
    shutil.rmtree(data / "val" / "star")
    command = ["train", "--data", data, "--image-size", 32, "--epochs", 1, "--workers", 0, "--batch-size", 26]
    code, _, err = run(
        capsys, *command, "--no-pretrained", "--model", "mobilenetv3_small_050", "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert "broken ü.jpg" in err and "empty.png" in err and "notes.txt" in err and "without a validation image" in err
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert len(card["data"]["skipped"]) == 2 and card["data"]["train"] == 26
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Skipped images (2)" in page and "train/ring/empty.png: an empty file" in page
    for picture in (data / "train" / "star").iterdir():
        picture.write_bytes(b"")
    code, _, err = run(capsys, *command, "--out", tmp_path / "never")
    (message,) = (line for line in err.splitlines() if "cannot be read, more than 1%" in line)
    assert code == 2 and "of 26 train images" in message and f"featherbone doctor {data}" in message


def test_the_shell_sees_what_python_sees(world, tmp_path):
    """The installed entry point: exit codes, one JSON object on standard output, no traceback."""
    picture = next((world / "data" / "val").glob("*/*.jpg"))
    command = [sys.executable, "-m", "featherbone", "predict", str(world / "run"), str(picture), "--json"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["image"] == str(picture)
    done = subprocess.run([*command[:-3], "nowhere", str(picture)], capture_output=True, text=True)
    assert done.returncode == 2 and "not a run folder" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["models", "lvt", "--json"], 0), (["train", "--help"], 0)])
def test_a_reader_may_have_seen_enough(arguments, code):
    """As in `featherbone train --help | head -1`."""
    command = [sys.executable, "-m", "featherbone", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == code
