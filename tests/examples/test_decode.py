"""The decoders that users copy, fed with featherbone.json and raw outputs only, against the package's own records."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featherbone
from exporting import CLASSES, HEADS, a_model, drawn
from featherbone.data.images import read_image
from featherbone.data.transforms import Preprocessing
from featherbone.exporters.artifact import Form
from featherbone.exporters.contract import export_task
from featherbone.exporters.forms import Normalising, Picking, flatten
from featherbone.exporters.manifest import Manifest, describe
from featherbone.exporters.targets import find_target
from featherbone.ops import rle
from featherbone.tasks.card import Card
from featherbone.tasks.multilabel import LabelClassifier

FOLDER = Path(__file__).parents[2] / "examples" / "decode"
SIZES = [(50, 80), (197, 121), (64, 96)]
"""Heights and widths of pictures: enlarged, reduced, and as the input is."""
SHAPES = [(64, 96), (64, 64)]
"""Of inputs."""


@pytest.fixture(scope="module")
def decoders():
    """The examples' modules by name."""
    names = [path.stem for path in FOLDER.glob("*.py")]
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            del sys.modules[name]


def manifest_of(card, task, names=(), **form):
    """featherbone.json as it is read from a file."""
    return json.loads(json.dumps(describe(card, task, Form(find_target("onnx"), **form), names).to_json()))


def answers(card, task, about, decoders):
    """Of each picture, prepared by the example: outputs by name, its size on the input, and the package's own."""
    for height, width in SIZES:
        values, inner = decoders["picture"].prepare(drawn(height, width), about)
        with torch.inference_mode():
            raw = task(torch.from_numpy(values))
        outputs = {name: value.numpy() for name, value in flatten(raw).items()}
        yield outputs, inner, raw, card.preprocessing.frame(height, width)


def same(expected, got):
    """Objects, segments or classes are the same, in the same order, but for rounding."""
    assert [(row["label"], row["name"]) for row in got] == [(row["label"], row["name"]) for row in expected]
    for mine, theirs in zip(expected, got, strict=True):
        assert theirs["score"] == pytest.approx(mine["score"], abs=1e-6)
        np.testing.assert_allclose(theirs.get("box", ()), mine.get("box", ()), atol=1e-3)


@pytest.mark.parametrize("head", ["retinanet", "yolov3", "nms_free", "mask_rcnn", "nms_free_masks"])
def test_objects_are_those_of_the_package(head, decoders):
    """Boxes, scores, labels and masks in the same order, above the limit that users see and above the lowest one."""
    card, task = a_model(head)
    about = manifest_of(card, task)
    seen = 0
    for outputs, inner, raw, frame in answers(card, task, about, decoders):
        for score in (None, about["decode"]["score"]):
            (record,) = task.decoder(raw, [frame], score=about["decode"]["shown"] if score is None else score)
            got = decoders[about["decode"]["kind"]].decode(outputs, about, frame.size, inner, score)
            same(record.to_json()["objects"], got)
            for found, mask in zip(got, getattr(record, "masks", ()), strict=card.task == "instance"):
                np.testing.assert_array_equal(found["mask"], rle.decode(mask))
        seen += len(got)
    assert seen > 10, "there was something to decode"


def test_objects_of_a_file_with_nms_are_those_of_the_package(decoders):
    card, task = a_model("yolov3")
    about = manifest_of(card, task, with_nms=True)
    for outputs, inner, raw, frame in answers(card, Picking(task), about, decoders):
        (record,) = task.decoder(raw, [frame], score=about["decode"]["score"])
        assert len(record) > 3
        same(
            record.to_json()["objects"],
            decoders["found"].decode(outputs, about, frame.size, inner, about["decode"]["score"]),
        )


@pytest.mark.parametrize("head", ["segformer", "semantic_fpn"])
def test_maps_of_classes_are_those_of_the_package(head, decoders):
    card, task = a_model(head)
    about = manifest_of(card, task)
    for outputs, inner, raw, frame in answers(card, task, about, decoders):
        labels = task.decoder(raw, [frame])[0].labels
        assert len(np.unique(labels)) > 1
        np.testing.assert_array_equal(decoders["semantic"].decode(outputs, about, frame.size, inner), labels)


@pytest.mark.parametrize("head", ["panoptic_fpn_light", "nms_free_panoptic"])
def test_segments_are_those_of_the_package(head, decoders):
    card, task = a_model(head)
    about = manifest_of(card, task)
    things = stuff = 0
    for outputs, inner, raw, frame in answers(card, task, about, decoders):
        for score in (None, 0.3):
            (record,) = task.decoder(raw, [frame], score=score)
            ids, segments = decoders["panoptic"].decode(outputs, about, frame.size, inner, score)
            np.testing.assert_array_equal(ids, record.ids)
            expected = record.to_json()["segments"]
            for key in ("id", "label", "name", "thing", "area", "box"):
                assert [row[key] for row in segments] == [row[key] for row in expected]
            scores = [row["score"] for row in segments if row["thing"]]
            assert scores == pytest.approx([row["score"] for row in expected if row["thing"]], abs=1e-6)
        things, stuff = things + len(scores), stuff + len(segments) - len(scores)
    assert things > 3 and stuff, "there was something to decode"


def test_labels_are_those_of_the_package(decoders):
    card, classifier = a_model()
    task = LabelClassifier(classifier.backbone, card.classes).eval()
    about = manifest_of(replace(card, task="multilabel"), task)
    counts = set()
    for outputs, _, raw, _ in answers(card, task, about, decoders):
        for score in (0.2, 0.5, None):
            (record,) = task.decoder(raw, score=0.5 if score is None else score)
            same(record.to_json()["classes"], decoders["multilabel"].decode(outputs, about, score))
            counts.add(len(record.labels))
    assert len(counts) > 1, "the threshold matters"


@pytest.mark.parametrize("shape", [(64, 96), (64, 64)])
def test_classes_are_those_of_the_package(shape, decoders):
    """The input is made by the example, too, from pictures that are cut at their sides or above and below."""
    card, task = a_model()
    card = replace(card, preprocessing=Preprocessing(*shape))
    about = manifest_of(card, task)
    for outputs, _, raw, _ in answers(card, task, about, decoders):
        same(task.decoder(raw)[0].to_json()["classes"], decoders["classification"].decode(outputs, about))


@pytest.mark.parametrize("with_pre", [False, True])
@pytest.mark.parametrize("rule", ["crop", "fit"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pictures_are_prepared_as_the_package_does(rule, interpolation, with_pre, decoders):
    """To the bit, as values or as the bytes of a file that normalises them itself."""
    for height, width in SHAPES:
        p = Preprocessing(height, width, interpolation=interpolation, rule=rule)
        card = Card("classification", "test_resnet", CLASSES, p)
        about = json.loads(json.dumps(Manifest(card, "onnx", "model.onnx", (), {}, with_pre=with_pre).to_json()))
        for size in (*SIZES, (77, 1)):
            image = drawn(77, 60).crop((0, 0, 1, 77)) if 1 in size else drawn(*size)
            values, inner = decoders["picture"].prepare(image, about)
            expected = p.transform()(image)[None]
            if with_pre:
                assert values.shape == (1, height, width, 4 if rule == "fit" else 3) and values.dtype == np.uint8
                values = Normalising(torch.nn.Identity(), p)(torch.from_numpy(values)).numpy()
                np.testing.assert_allclose(values, expected, atol=1e-5)
            else:
                np.testing.assert_array_equal(values, expected)
            if rule == "fit":
                assert inner == p.frame(*size).inner


def test_pictures_are_read_as_the_package_does(decoders, tmp_path):
    """Upright, and white where they are transparent."""
    picture = drawn(40, 60)
    picture.save(
        tmp_path / "turned.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(tmp_path / "alpha.png")
    picture.convert("P").save(tmp_path / "palette.gif")
    for path in tmp_path.iterdir():
        mine, theirs = read_image(path), decoders["picture"].read(str(path))
        assert mine.size == theirs.size and mine.tobytes() == theirs.tobytes()
    assert read_image(tmp_path / "turned.jpg").size == (40, 60)


def test_an_export_runs_by_the_example_without_the_package(tmp_path):
    """As a user runs it: the folder of an export and a picture, in a process that never imports Featherbone."""
    card, task = a_model("yolov3")
    pictures = [drawn(*size) for size in SIZES[:2]]
    export_task(card, task, Form(find_target("onnx"), with_pre=True), tmp_path / "export", pictures)
    pictures[1].save(tmp_path / "picture.png")
    code = (
        "import runpy, sys; sys.modules['featherbone'] = sys.modules['torch'] = None; "
        f"sys.argv = ['run.py', {str(tmp_path / 'export')!r}, {str(tmp_path / 'picture.png')!r}]; "
        f"sys.path.insert(0, {str(FOLDER)!r}); runpy.run_path({str(FOLDER / 'run.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    predictor = featherbone.load(tmp_path / "export")
    same(predictor(tmp_path / "picture.png").to_json()["objects"], json.loads(done.stdout))


def keys_of(value):
    """Names of all fields of plain values."""
    if isinstance(value, dict):
        return {*value, *(key for item in value.values() for key in keys_of(item))}
    return {key for item in value for key in keys_of(item)} if isinstance(value, list) else set()


@pytest.mark.parametrize("head", HEADS)
def test_the_page_explains_every_field(head):
    """All of featherbone.json but formulas' own names, which are in the file itself, and the card."""
    text = (FOLDER.parents[1] / "docs" / "decoding.md").read_text(encoding="utf-8")
    card, task = a_model(head)
    about = manifest_of(card, task, ["logits"], with_pre=True)
    decode = about["decode"]
    formulas = keys_of(
        [decode.get(name, {}) for name in ("outputs", "formulas", "mask_formulas", "grid_formulas", "clip", "origin")]
    )
    fields = keys_of({**about, "card": {}, "versions": {}}) - formulas
    assert sorted(field for field in fields if f"`{field}`" not in text) == []
    assert f"`{decode['kind']}`" in text
