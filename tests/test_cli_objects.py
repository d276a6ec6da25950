"""The commands on runs that find objects."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import featherbone
from featherbone.cli import main
from featherbone.data.images import read_image
from featherbone.exporters.parity import alike
from featherbone.ops import rle
from scenes import write_coco, write_yolo
from test_cli import run

RUNS = {
    "boxes": "--task detection --head retinanet --head-args dim=16,num_convs=1",
    "masks": "--task instance --head-args dim=16,fc_dim=32,proposals=6",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Scenes in COCO's and YOLO's layout, and a finished run of each kind, made by the command line itself."""
    folder = tmp_path_factory.mktemp("objects")
    write_coco(folder / "data", 8, 6, (64, 64))
    write_yolo(folder / "yolo", 8, 6, (64, 64))
    fixed = "--model mobilenetv3_small_050 --image-size 64 --epochs 1 --batch-size 4 --workers 0 --device cpu"
    fixed += " --no-pretrained"
    for name, options in RUNS.items():
        command = f"train --data {folder / 'data'} {options} {fixed} --out {folder / name}"
        assert main(command.split()) == 0
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_run_and_its_detections_measure_alike(world, capsys, name):
    code, out, err = run(capsys, "evaluate", world / name, "--json", "--workers", 0)
    assert code == 0, err
    measured = json.loads(out)["metrics"]
    card = json.loads((world / name / "card.json").read_text())["metrics"]
    keys = [key for key in card if key.split("_")[-1].startswith(("AP", "AR"))]
    assert len(keys) >= 12 and {key: measured[key] for key in keys} == pytest.approx({key: card[key] for key in keys})
    results = ["--results", world / name / "detections.json", "--data", world / "data"]
    code, out, err = run(capsys, "evaluate", *results, *["--masks"] * (name == "masks"), "--json")
    assert code == 0, err
    foreign = json.loads(out)["metrics"]
    assert {key: foreign[key] for key in keys} == pytest.approx({key: card[key] for key in keys}, abs=1e-6)
    code, out, _ = run(capsys, "evaluate", world / name, "--workers", 0)
    assert code == 0 and "AP50" in out and "faster-coco-eval" in out and "circle" in out


def test_both_formats_measure_alike(world, capsys):
    code, out, err = run(capsys, "evaluate", world / "boxes", "--data", world / "yolo", "--json", "--workers", 0)
    assert code == 0, err
    card = json.loads((world / "boxes" / "card.json").read_text())["metrics"]
    assert json.loads(out)["metrics"]["AP"] == pytest.approx(card["AP"], abs=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_predictions_are_in_pixels_of_the_picture(world, capsys, tmp_path, name):
    folder = tmp_path / "some pictures ä"
    folder.mkdir()
    sizes = {"tall": (40, 300), "wide": (700, 90), "tiny": (9, 7)}
    generator = np.random.default_rng(0)
    for stem, (width, height) in sizes.items():
        pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    command = ["predict", world / name, folder, "--score", 0.01, "--out", tmp_path / "out", "--json"]
    code, out, err = run(capsys, *command)
    assert code == 0, err
    result = json.loads(out)
    assert len(result["predictions"]) == 3 and list(result["skipped"]) == [str(folder / "broken.jpg")]
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == result
    for row in result["predictions"]:
        width, height = sizes[row["image"].rsplit("/", 1)[1].removesuffix(".png")]
        assert (row["width"], row["height"]) == (width, height) and row["objects"]
        boxes = np.array([found["box"] for found in row["objects"]])
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert all(found["score"] >= 0.01 for found in row["objects"])
        assert read_image(row["picture"]).width >= width
        if name == "masks":
            assert all(rle.decode(found["mask"]).shape == (height, width) for found in row["objects"])
    code, out, _ = run(capsys, "predict", world / name, folder, "--score", 1.0, "--out", tmp_path / "none")
    assert code == 0 and "no object" in out


@pytest.mark.parametrize("name", RUNS)
def test_tiles_find_no_less_and_nothing_twice(world, capsys, tmp_path, name):
    whole = [read_image(path) for path in sorted((world / "data" / "val").iterdir())[:4]]
    large = Image.new("RGB", (128, 128))
    for place, picture in enumerate(whole):
        large.paste(picture, (64 * (place % 2), 64 * (place // 2)))
    large.save(tmp_path / "large.png")
    one = featherbone.load(world / name, "cpu", score=0.05)
    tiled = featherbone.load(world / name, "cpu", score=0.05, tile=64)
    seen, record = one(large), tiled(large)
    assert (record.height, record.width) == (128, 128) and len(record) >= len(seen)
    assert len(set(zip(record.boxes, record.labels, strict=True))) == len(record)
    assert record.scores == tuple(sorted(record.scores, reverse=True))
    code, out, err = run(capsys, "evaluate", world / name, "--tile", 48, "--json", "--workers", 0)
    assert code == 0 and json.loads(out)["metrics"]["images"] == 6, err


def test_a_predictor_takes_several_images_at_once(world):
    predictor = featherbone.load(world / "boxes", "cpu", score=0.01)
    pictures = [read_image(path) for path in sorted((world / "data" / "val").iterdir())]
    for together, alone in zip(predictor.predict(pictures), map(predictor, pictures), strict=True):
        assert together.scores == pytest.approx(alone.scores, abs=1e-5)
        likeness = alike(together, alone, score=1e-5, limit=0.01)  # what scores alike may change places
        assert likeness.unmatched == 0 and likeness.score <= 1e-5 and likeness.box_iou > 0.9999
    assert featherbone.load(world / "boxes").score == (predictor.card.metrics["best_score"] or 0.3)


def test_an_exported_file_serves_where_the_run_does(world, capsys, tmp_path):
    code, out, err = run(capsys, "export", world / "boxes", "--with-nms", "--evaluate", "--out", tmp_path, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["metrics"]["AP"] == pytest.approx(result["metrics_of_run"]["AP"], abs=1e-4)
    picture = next((world / "data" / "val").iterdir())
    told = [
        json.loads(run(capsys, "predict", place, picture, "--score", 0.1, "--out", tmp_path / "p", "--json")[1])
        for place in (world / "boxes", tmp_path / "model.onnx")
    ]
    one, other = (rows["predictions"][0]["objects"] for rows in told)
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        assert mine["label"] == theirs["label"] and mine["box"] == pytest.approx(theirs["box"], abs=1e-2)


def test_doctor_examines_objects(world, capsys, tmp_path):
    page = ["--out", tmp_path / "page.html", "--image-size", 64]
    code, out, err = run(capsys, "doctor", world / "data", "--task", "instance", *page, "--json")
    assert code == 0, (out, err)
    assert (tmp_path / "page.html").stat().st_size > 1000
    shutil.copytree(world / "data", tmp_path / "bad")
    path = tmp_path / "bad" / "annotations" / "instances_train.json"
    marked = json.loads(path.read_text())
    marked["annotations"][0]["bbox"] = [10, 10, 0, 5]
    path.write_text(json.dumps(marked))
    code, out, _ = run(capsys, "doctor", tmp_path / "bad", *page)
    assert code == 1 and "empty-box" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "DATA"], "choose one with --task"),
        (["train", "--data", "DATA", "--task", "semantic"], "not semantic"),
        (["train", "--data", "DATA", "--task", "detection", "--head", "yolo"], "did you mean yolov3"),
        (["train", "--data", "DATA", "--task", "detection", "--recipe", "lvt_imagenet"], "has no effect for detection"),
        (["evaluate"], "give either a run folder"),
        (["evaluate", "RUN", "--results", "detections.json"], "give either a run folder"),
        (["evaluate", "--results", "detections.json"], "--data DIR"),
        (["evaluate", "--results", "nowhere.json", "--data", "DATA"], "nowhere.json"),
        (["evaluate", "RUN", "--tile", "8"], "tiles of 8"),
        (["predict", "RUN", "DATA", "--tile", "64", "--overlap", "2"], "overlap 2"),
        (["predict", "RUN", "DATA", "--score", "7"], "score 7"),
        (["export", "RUN", "--with-nms", "--dynamic", "batch"], "give none"),
        (["explain", "RUN", "nothing.jpg"], "nothing.jpg"),
    ],
)
def test_mistakes_are_one_message(world, capsys, arguments, message):
    places = {"DATA": world / "data", "RUN": world / "boxes"}
    code, out, err = run(capsys, *(places.get(argument, argument) for argument in arguments))
    assert code == 2 and message in err + out and "Traceback" not in err


def test_crowds_are_objects_on_request(world, capsys, tmp_path):
    shutil.copytree(world / "data", tmp_path / "data")
    for split in ("train", "val"):
        path = tmp_path / "data" / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 1
        path.write_text(json.dumps(content))
    data, page = tmp_path / "data", ["--out", tmp_path / "page.html", "--image-size", 64, "--json"]
    code, out, _ = run(capsys, "doctor", data, "--task", "detection", *page)
    assert code == 1 and "pass --crowds objects" in out
    code, out, err = run(capsys, "doctor", data, "--task", "detection", "--crowds", "objects", *page)
    assert code == 0 and "iscrowd" not in out, (out, err)
    fixed = "--model mobilenetv3_small_050 --image-size 64 --epochs 1 --batch-size 4 --workers 0 --device cpu"
    fixed += " --no-pretrained"
    command = ["train", "--data", data, *RUNS["boxes"].split(), *fixed.split(), "--out", tmp_path / "run"]
    code, out, err = run(capsys, *command)
    assert code == 2 and not (tmp_path / "run").exists() and "object" in err
    code, out, err = run(capsys, *command, "--crowds", "objects")
    assert code == 0, err
    found = ["--results", tmp_path / "run" / "detections.json", "--data", data]
    code, out, err = run(capsys, "evaluate", *found, "--crowds", "objects", "--json")
    card = json.loads((tmp_path / "run" / "card.json").read_text())["metrics"]
    assert code == 0 and json.loads(out)["metrics"]["objects"] == card["objects"] > 0, err
    code, out, _ = run(capsys, "evaluate", tmp_path / "run", "--json", "--workers", 0)
    assert code == 0 and json.loads(out)["metrics"]["objects"] == card["objects"]
    code, out, err = run(capsys, "evaluate", tmp_path / "run", "--crowds", "objects")
    assert code == 2 and "--results" in err + out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", ""),
        ('[{"image_id": "0", "category_id": "1", "bbox": [1, 2, 3, 4], "score": 0.5}]', ""),
        ('[{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}]', "[0].score is nan; write a finite"),
        ('[{"image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "[0].image_id is 99, which is not"),
        ('{"annotations": []}', "write a list of values with names"),
        ('[{"image_id": 0,}]', "not JSON"),
    ],
)
def test_results_of_other_tools(world, capsys, tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    code, out, err = run(capsys, "evaluate", "--results", tmp_path / "results.json", "--data", world / "data", "--json")
    assert code == (2 if message else 0) and message in err + out and "Traceback" not in err
    assert message or json.loads(out)["metrics"]["AP"] == 0
