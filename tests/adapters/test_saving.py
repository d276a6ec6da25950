"""Results in the formats of other tools, read back by ours: the same classes, boxes and masks."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import featherbone
from exporting import a_model, a_run, drawn
from featherbone.adapters.saving import save
from featherbone.cli import main
from featherbone.data.formats import open_split
from featherbone.data.map_files import write_map
from featherbone.engine.results import evaluate_results
from featherbone.errors import BadData, BadOption
from featherbone.ops import rle
from featherbone.outcomes import Prediction
from featherbone.results import Detections, Instances, SemanticMap
from featherbone.tasks.detection import DetectionKind, InstanceKind
from scenes import write_coco, write_masks

COUNT = 8
PLACES = {"coco": "images", "yolo": "images", "voc": "JPEGImages", "png": "images"}
"""Where the pictures of each format are."""


@pytest.fixture(scope="module")
def truths(tmp_path_factory):
    """The folder of a COCO set, its training images, and a card with its classes."""
    folder = tmp_path_factory.mktemp("truths") / "set"
    write_coco(folder, COUNT, 2, (90, 128))
    images = open_split(folder, "instance", "train").images
    card, _ = a_model("mask_rcnn")
    return folder, images, replace(card, classes=images.classes, data={"category_ids": images.category_ids})


def predicted(truths, kind):
    """The annotations as predictions of a perfect model."""
    folder, images, _ = truths
    records = [kind.truth_record(images.truth(index), images) for index in range(len(images))]
    scores = [tuple(0.9 - 0.01 * i for i in range(len(record))) for record in records]
    records = [replace(record, scores=given) for record, given in zip(records, scores, strict=True)]
    return [Prediction(folder / images.name(i), record, None) for i, record in enumerate(records)]


def read_back(form, folder, pictures, task):
    """The data set that a format becomes when the pictures are put into their place."""
    for path in pictures:
        place = folder / PLACES[form] / path.name
        place.parent.mkdir(exist_ok=True)
        shutil.copy(path, place)
    opened = open_split(folder, task, "train")
    assert not opened.missing and not opened.findings
    return opened.images


@pytest.mark.parametrize(("form", "tolerance"), [("coco", 1e-3), ("yolo", 1e-3), ("voc", 0.006)])
def test_boxes_come_back(form, tolerance, truths, tmp_path):
    """With the same classes; the tolerances, in pixels, are those of docs/adapters.md."""
    predictions = predicted(truths, DetectionKind())
    predictions = [replace(one, kept=shifted(one.kept)) for one in predictions]
    paths = [one.image for one in predictions]
    assert save((form,), tmp_path, paths, predictions, truths[2]) == (tmp_path / form,)
    images = read_back(form, tmp_path / form, paths, "detection")
    assert len(images) == COUNT
    compared = 0
    for index, one in enumerate(predictions):
        truth = images.truth(index)
        np.testing.assert_allclose(truth.boxes, np.reshape(one.kept.boxes, (-1, 4)), atol=tolerance)
        assert [images.classes[label] for label in truth.labels] == [*one.kept.names]
        compared += len(truth.boxes)
    assert compared > 8 and any(not len(one.kept) for one in predictions)


def shifted(record):
    """The record with coordinates that are no whole pixels."""
    boxes = tuple((x1 + 0.123, y1 + 0.456, x2 - 0.234, y2 - 0.345) for x1, y1, x2, y2 in record.boxes)
    return Detections(record.height, record.width, boxes, record.labels, record.names, record.scores)


@pytest.mark.parametrize(("form", "least"), [("coco", 1.0), ("yolo", 0.97)])
def test_masks_come_back(form, least, truths, tmp_path):
    predictions = predicted(truths, InstanceKind())
    paths = [one.image for one in predictions]
    save((form,), tmp_path, paths, predictions, truths[2])
    images = read_back(form, tmp_path / form, paths, "instance")
    for index, one in enumerate(predictions):
        truth = images.truth(index)
        assert truth.labels.tolist() == [*one.kept.labels]
        for got, expected in zip(truth.masks, one.kept.masks, strict=True):
            assert rle.iou([got], [expected])[0, 0] >= least


@pytest.mark.parametrize("form", ["voc", "png"])
def test_class_maps_of_instances_come_back(form, truths, tmp_path):
    """The highest-scoring object is on top; in VOC the background is one more class."""
    predictions = predicted(truths, InstanceKind())
    paths = [one.image for one in predictions]
    save((form,), tmp_path, paths, predictions, truths[2])
    images = read_back(form, tmp_path / form, paths, "semantic")
    names = [*images.classes] + ["background"] * (256 - len(images.classes))
    for index, one in enumerate(predictions):
        expected = np.full(images.truth(index).shape, "background", object)
        for mask, name in reversed([*zip(one.kept.masks, one.kept.names, strict=True)]):
            expected[rle.decode(mask)] = name
        assert (np.array(names, object)[images.truth(index)] == expected).all()


@pytest.mark.parametrize("form", ["voc", "png"])
def test_semantic_maps_come_back(form, tmp_path):
    write_masks(tmp_path / "set", 3, 1, (60, 80))
    images = open_split(tmp_path / "set", "semantic", "train").images
    paths = [tmp_path / "set" / images.paths[index] for index in range(3)]
    records = [SemanticMap(images.truth(index), images.classes) for index in range(3)]
    kept = [write_map(tmp_path / "maps", path.stem, record) for path, record in zip(paths, records, strict=True)]
    predictions = [Prediction(path, one, None) for path, one in zip(paths, kept, strict=True)]
    card = replace(a_model("segformer")[0], classes=images.classes)
    save((form,), tmp_path, paths, predictions, card)
    back = read_back(form, tmp_path / form, paths, "semantic")
    for index, record in enumerate(records):
        got, expected = (np.array(classes)[labels] for classes, labels in (
            (back.classes, back.truth(index)), (record.classes, record.labels)))  # fmt: skip
        assert (got == expected).all()


@pytest.mark.parametrize("masks", [False, True])
def test_the_results_are_evaluated(masks, truths, tmp_path):
    """By the paths of the images, whatever their ids; a perfect model reaches AP 1."""
    folder, images, card = truths
    predictions = predicted(truths, InstanceKind())
    save(("coco",), tmp_path, [one.image for one in predictions], predictions, card)
    results = tmp_path / "coco/results.json"
    metrics, classes, _ = evaluate_results(results, folder, masks, "train")
    assert metrics["AP"] == pytest.approx(1.0) and classes == images.classes
    rows = json.loads(results.read_text())
    results.write_text(json.dumps([{**row, "file_name": "elsewhere.jpg"} for row in rows]))
    with pytest.raises(BadData, match=r"file_name is 'elsewhere.jpg'.*remove file_name to use image_id"):
        evaluate_results(results, folder, masks, "train")
    rows = [{**row, "image_id": (row["image_id"] + 1) % COUNT} for row in rows]
    results.write_text(json.dumps(rows))
    assert evaluate_results(results, folder, masks, "train")[0]["AP"] == pytest.approx(1.0)
    for row in rows:
        del row["file_name"]
    results.write_text(json.dumps(rows))
    assert evaluate_results(results, folder, masks, "train")[0]["AP"] < 0.9, "wrong ids are wrong images"


def test_ids_are_the_numbers_of_the_names(truths, tmp_path):
    """As in COCO; where two names have one number, the places in the list."""
    perfect = enumerate(predicted(truths, DetectionKind()), 100)
    predictions = [replace(one, image=tmp_path / f"{i:012}.jpg") for i, one in perfect]
    save(("coco",), tmp_path, [one.image for one in predictions], predictions, truths[2])
    content = json.loads((tmp_path / "coco/annotations.json").read_text())
    assert [image["id"] for image in content["images"]] == [*range(100, 100 + COUNT)]
    assert {row["id"] for row in content["categories"]} == {*truths[2].category_ids}
    predictions[0] = replace(predictions[0], image=tmp_path / "a.jpg")
    save(("coco",), tmp_path, [one.image for one in predictions], predictions, truths[2])
    content = json.loads((tmp_path / "coco/annotations.json").read_text())
    assert [image["id"] for image in content["images"]] == [*range(1, 1 + COUNT)]


@pytest.mark.parametrize(
    ("head", "forms"),
    [
        (None, ["label-studio"]),
        ("retinanet", ["coco", "yolo", "voc", "label-studio"]),
        ("mask_rcnn", ["coco", "yolo", "voc", "png", "label-studio"]),
        ("segformer", ["voc", "png"]),
        ("panoptic_fpn_light", ["png"]),
    ],
)
def test_the_command_writes_what_fits_the_task(head, forms, tmp_path, capsys):
    a_run(tmp_path / "run", head)
    for i, name in enumerate(("a/x.png", "b/x.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(40 + i, 60).save(tmp_path / "in" / name)
    wrong = next((form for form in PLACES if form not in forms), None)
    command = ["predict", str(tmp_path / "run"), str(tmp_path / "in"), "--score", "0.01", "--out", str(tmp_path / "o")]
    command = command if head not in (None, "segformer") else [*command[:3], *command[5:]]
    if wrong:
        assert main([*command, "--save", wrong]) == 2
        assert f"--save takes {', '.join(forms)} for it" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "o").exists()
    assert main([*command, "--no-pictures", "--save", *forms]) == 0
    printed = capsys.readouterr().out
    for form in forms:
        assert f"{form} files in {tmp_path / 'o' / form}" in printed
        names = {path.parts[-2:-1][0] for path in (tmp_path / "o" / form).rglob("x.*")}
        assert names == (set() if form in ("coco", "label-studio") else {"a", "b"})


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    a_run(tmp_path / "run", "retinanet")
    for name in ("x.png", "x.jpg"):
        drawn(40, 60).save(tmp_path / name)
    given = (tmp_path / "x.png", tmp_path / "x.jpg")
    with pytest.raises(BadOption, match=r"x.png and .*x.jpg would have one label file"):
        featherbone.predict(tmp_path / "run", given, out=tmp_path / "out", save=("yolo",))
    with pytest.raises(BadOption, match="save applies only to pictures without --rows"):
        featherbone.predict(tmp_path / "run", given, out=tmp_path / "out", save=("yolo",), rows="jsonl")
    assert not (tmp_path / "out").exists()


def test_an_object_without_pixels_keeps_its_box(tmp_path, truths):
    empty = rle.encode(np.zeros((20, 30), bool))
    record = Instances(20, 30, ((3.0, 4.0, 13.0, 9.0),), (0,), (truths[2].classes[0],), (0.5,), masks=(empty,))
    save(("yolo",), tmp_path, [tmp_path / "x.png"], [Prediction(tmp_path / "x.png", record, None)], truths[2])
    values = (tmp_path / "yolo/labels/x.txt").read_text().split()
    assert np.allclose(np.array(values[1:], float).reshape(-1, 2) * (30, 20), [[3, 4], [13, 4], [13, 9], [3, 9]])
