"""The commands on runs whose result is a map."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import featherbone
from featherbone.cli import main
from featherbone.data.dataset import open_data
from featherbone.data.formats.panoptic import read_ids
from featherbone.data.images import read_image
from scenes import write_coco, write_masks, write_panoptic
from test_cli import run

RUNS = {
    "semantic": "--head segformer --head-args dim=16",
    "panoptic": "--task panoptic --head-args dim=16,fc_dim=16,branch_dim=8,proposals=50",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Scenes as masks and as segments, and a finished run of each kind, made by the command line itself."""
    folder = tmp_path_factory.mktemp("maps")
    write_masks(folder / "semantic-data", 8, 6, (64, 64))
    write_panoptic(folder / "panoptic-data", 8, 6, (64, 64))
    fixed = "--model mobilenetv3_small_050 --image-size 64 --epochs 1 --batch-size 4 --workers 0 --device cpu"
    fixed += " --no-pretrained"
    for name, options in RUNS.items():
        command = f"train --data {folder / f'{name}-data'} {options} {fixed} --out {folder / name}"
        assert main(command.split()) == 0
    return folder


def pictures(world, name):
    return sorted((world / f"{name}-data").glob("images/val/*.jpg" if name == "semantic" else "val/*.jpg"))


def test_predicted_maps_measure_as_the_run_does(world, capsys, tmp_path):
    """Index PNGs that were written are another tool's results; the numbers are the run's."""
    code, _, err = run(capsys, "predict", world / "semantic", *pictures(world, "semantic"), "--out", tmp_path)
    assert code == 0, err
    code, out, err = run(
        capsys, "evaluate", "--results", tmp_path / "maps", "--data", world / "semantic-data", "--json"
    )
    assert code == 0, err
    card = json.loads((world / "semantic/card.json").read_text())["metrics"]
    measured = json.loads(out)["metrics"]
    keys = ("mIoU", "boundary_mIoU", "pixel_accuracy", "mean_accuracy")
    assert {key: measured[key] for key in keys} == pytest.approx({key: card[key] for key in keys})


def test_predicted_segments_measure_as_the_run_does(world, capsys, tmp_path):
    """COCO's panoptic json of a perfect tool has quality 1, and that of the run the run's."""
    data = world / "panoptic-data"
    content = data / "annotations/panoptic_val.json"
    shutil.copytree(data / "panoptic_val", tmp_path / "perfect")
    shutil.copy(content, tmp_path / "perfect.json")
    code, out, err = run(capsys, "evaluate", "--results", tmp_path / "perfect.json", "--data", data, "--json")
    assert code == 0, err
    assert json.loads(out)["metrics"]["PQ"] == 1
    code, _, err = run(capsys, "predict", world / "panoptic", *pictures(world, "panoptic"), "--out", tmp_path / "own")
    assert code == 0, err
    own = json.loads((tmp_path / "own/panoptic.json").read_text())
    ids = {row["file_name"]: row["id"] for row in json.loads(content.read_text())["images"]}
    names = {row["id"]: row["file_name"].rsplit("/", 1)[-1] for row in own["images"]}
    for row in own["annotations"]:
        row["image_id"] = ids[names[row["image_id"]]]
    (tmp_path / "own/panoptic.json").write_text(json.dumps(own))
    code, out, err = run(capsys, "evaluate", "--results", tmp_path / "own/panoptic.json", "--data", data, "--json")
    assert code == 0, err
    card = json.loads((world / "panoptic/card.json").read_text())["metrics"]
    assert json.loads(out)["metrics"]["PQ"] == pytest.approx(card["PQ"])


def test_semantic_predictions_are_written(world, capsys, tmp_path):
    """On an image of another size: a picture with a legend, an index PNG, a record."""
    Image.new("RGB", (150, 90), "green").save(tmp_path / "a.png")
    command = ("predict", world / "semantic", tmp_path / "a.png", "--out", tmp_path / "out", "--json")
    code, out, err = run(capsys, *command)
    assert code == 0, err
    (row,) = json.loads(out)["predictions"]
    with Image.open(row["map"]) as stored:
        labels = np.asarray(stored)
        assert labels.shape == (90, 150) and stored.mode == "P"
    assert sum(kind["pixels"] for kind in row["classes"]) == 90 * 150
    assert {kind["label"] for kind in row["classes"]} == set(np.unique(labels).tolist())
    assert read_image(row["picture"]).width >= 240
    record = featherbone.load(world / "semantic")(tmp_path / "a.png")
    np.testing.assert_array_equal(record.labels, labels)


def test_panoptic_predictions_are_written(world, capsys, tmp_path):
    picture = pictures(world, "panoptic")[0]
    command = ("predict", world / "panoptic", picture, "--out", tmp_path, "--score", "0.01", "--json")
    code, out, err = run(capsys, *command)
    assert code == 0, err
    (row,) = json.loads(out)["predictions"]
    told = json.loads((tmp_path / "panoptic.json").read_text())
    assert [c["isthing"] for c in told["categories"]] == [1] * 6 + [0] * 3
    ids = read_ids(tmp_path / "maps" / told["annotations"][0]["file_name"], "map")
    for segment, other in zip(row["segments"], told["annotations"][0]["segments_info"], strict=True):
        assert (ids == segment["id"]).sum() == segment["area"] == other["area"]
        assert other["category_id"] == segment["label"] + 1
    assert set(np.unique(ids).tolist()) - {0} == {segment["id"] for segment in row["segments"]}


def test_other_ways_to_look(world, capsys):
    code, out, err = run(
        capsys, "evaluate", world / "semantic", "--slide", "--scales", "0.75", "1.0", "--mirror", "--workers", "0"
    )
    assert code == 0 and "mIoU" in out and "circle" in out, err
    predictor = featherbone.load(world / "semantic", slide=True, scales=(0.75, 1.25), mirror=True)
    assert predictor(Image.new("RGB", (70, 130))).labels.shape == (130, 70)


def test_doctor_on_maps(world, capsys, tmp_path):
    for name, spoil in (("semantic", "masks/train/00000.png"), ("panoptic", "panoptic_train/00000.png")):
        data = tmp_path / name
        shutil.copytree(world / f"{name}-data", data)
        code, out, err = run(capsys, "doctor", data, "--out", tmp_path / "page.html", "--json")
        assert code == 0, err + out
        (data / spoil).write_bytes(b"no picture")
        code, out, _ = run(capsys, "doctor", data, "--out", tmp_path / "page.html", "--json")
        assert code == 1 and "unreadable-map" in {finding["code"] for finding in json.loads(out)["findings"]}


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_doctor_on_the_objects_of_segments(world, capsys, tmp_path, task):
    """Ids that count anew on every image, and masks that lie in maps, are no faults."""
    command = ("doctor", world / "panoptic-data", "--task", task, "--image-size", 64, "--out", tmp_path / "page.html")
    code, out, err = run(capsys, *command, "--json")
    kinds = {finding["code"] for finding in json.loads(out)["findings"]}
    assert code == 0 and not kinds & {"no-mask", "duplicate-ids-in-train", "duplicate-ids-in-val"}, err


def test_a_panoptic_set_is_made_and_trained_on(world, capsys, tmp_path):
    write_coco(tmp_path / "coco", 4, 2, (64, 64))
    write_masks(tmp_path / "masks", 4, 2, (64, 64))
    made = ("--instances", tmp_path / "coco", "--semantic", tmp_path / "masks", "--out", tmp_path / "made")
    code, out, err = run(capsys, "data", "panoptic", *made)
    assert code == 0 and "of two things at once" in out, err
    assert len(open_data(tmp_path / "made", "panoptic").train) == 4
    code, _, err = run(capsys, "data", "panoptic", *made)
    assert code == 2 and "not an empty folder" in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate {semantic} --tile 64", "tile has no effect for semantic"),
        ("evaluate {semantic} --ignore-index 3", "ignore-index applies only to --results"),
        ("evaluate --results {empty} --data {semantic}-data --mirror", "mirror applies only to a run"),
        ("evaluate --results {foreign} --data {panoptic}-data --zero-ignored", "are for a folder of index PNGs"),
        ("doctor {panoptic}-data --ignore-index 3", "omit them for panoptic"),
        ("evaluate {panoptic} --slide", "slide has no effect for panoptic"),
        ("predict {semantic} {picture} --score 0.5", "score has no effect for semantic"),
        ("predict {panoptic} {picture} --mirror", "mirror has no effect for panoptic"),
        ("predict {semantic} {picture} --scales 0", "give factors from 0.1 to 8"),
        ("evaluate --results {empty} --data {semantic}-data", "write an index PNG for every validation image"),
        ("evaluate --results {empty} --data {panoptic}-data", "write an index PNG"),
        ("evaluate --results {foreign} --data {panoptic}-data", "no entry for image"),
        ("export {panoptic} --to executorch", "export to onnx, openvino, torch"),
        ("explain {semantic} {picture} --score 0.5", "score has no effect for semantic"),
        ("explain {panoptic} {picture} --item zebra", "item 'zebra' is not in the prediction"),
        ("train --data {semantic}-data --epochs 1 --class-weights 1,2", "9 numbers"),
        ("train --data {semantic}-data --epochs 1 --mosaic 0.5", "mosaic has no effect for semantic"),
    ],
)
def test_mistakes_are_one_message(world, capsys, tmp_path, command, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign.json").write_text('{"annotations": []}')
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    places = {"semantic": world / "semantic", "panoptic": world / "panoptic", "picture": tmp_path / "a.png"}
    places |= {"empty": tmp_path / "empty", "foreign": tmp_path / "foreign.json"}
    code, out, err = run(capsys, *command.format(**places).split())
    assert code == 2 and not out and message in err and "Traceback" not in err and err.count("error") == 1


TRAIN = [
    *"--model mobilenetv3_small_050 --image-size 64 --epochs 1 --batch-size 4 --workers 0 --device cpu".split(),
    "--no-pretrained",
]


def test_folders_called_images_and_masks_are_no_classes(tmp_path, capsys):
    """Also without `--task`, and the doctor finds the same task."""
    write_masks(tmp_path / "from", 8, 6, (64, 64))
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            shutil.copytree(tmp_path / "from" / kind / split, tmp_path / "data" / split / kind)
    shutil.copy(tmp_path / "from" / "classes.txt", tmp_path / "data")
    options = ["--head-args", "dim=16", *TRAIN]
    code, _, err = run(capsys, "train", "--data", tmp_path / "data", "--out", tmp_path / "run", *options)
    assert code == 0, err
    card = json.loads((tmp_path / "run/card.json").read_text())
    assert card["task"] == "semantic" and card["classes"] == (tmp_path / "data/classes.txt").read_text().split()
    code, out, _ = run(capsys, "doctor", tmp_path / "data", "--out", tmp_path / "d.html", "--json")
    assert json.loads(out)["classes"] == card["classes"]


def test_masks_of_0_and_255_are_refused_before_training(tmp_path, capsys):
    write_masks(tmp_path / "data", 4, 4, (64, 64))
    for path in (tmp_path / "data/masks").rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255).save(path)
    (tmp_path / "data/classes.txt").write_text("background\nobject\n")
    code, _, err = run(capsys, "train", "--data", tmp_path / "data", "--out", tmp_path / "run", *TRAIN)
    assert code == 2 and "save 1 where the masks have 255" in err and not (tmp_path / "run").exists()
    code, _, err = run(capsys, "doctor", tmp_path / "data", "--out", tmp_path / "d.html")
    assert code == 1 and "zero-and-255" in err + _
