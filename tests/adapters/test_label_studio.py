"""Pre-annotations for Label Studio, exported by its own converter and read as training data.

The converter is tested where it is installed; see docs/adapters.md.
"""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from adapters.perfect import perfect
from exporting import a_model
from featherbone.adapters import label_studio
from featherbone.adapters.label_studio import labeling_config, to_task
from featherbone.data.formats import open_split
from featherbone.ops import rle
from featherbone.results import Classification, Detections, Instances, LabelSet

converter = pytest.mark.skipif(find_spec("label_studio_sdk") is None, reason="label-studio-sdk is not installed")


def test_a_task_has_the_documented_form():
    """https://labelstud.io/guide/predictions: percent of the picture, and names that are in the config."""
    record = Detections(100, 200, ((20.0, 10.0, 60.0, 40.0),), (1,), ("dog",), (0.75,))
    task = to_task("/data/local-files/?d=in/x.jpg", record, "lvt")
    (prediction,) = task["predictions"]
    assert task["data"] == {"image": "/data/local-files/?d=in/x.jpg"}
    assert (prediction["model_version"], prediction["score"]) == ("lvt", 0.75)
    assert prediction["result"] == [
        {
            "id": "object-0",
            "from_name": "label",
            "to_name": "image",
            "type": "rectanglelabels",
            "original_width": 200,
            "original_height": 100,
            "image_rotation": 0,
            "score": 0.75,
            "value": {"x": 10, "y": 10, "width": 20, "height": 30, "rotation": 0, "rectanglelabels": ["dog"]},
        }
    ]
    config = ET.fromstring(labeling_config(("cat", "dog & co"), Detections))
    assert [(child.tag, child.attrib) for child in config] == [
        ("Image", {"name": "image", "value": "$image"}),
        ("RectangleLabels", {"name": "label", "toName": "image"}),
    ]
    assert [label.attrib["value"] for label in config[1]] == ["cat", "dog & co"]


@pytest.mark.parametrize(("kind", "choice"), [(Classification, "single"), (LabelSet, "multiple")])
def test_classes_are_choices(kind, choice):
    config = ET.fromstring(labeling_config(("cat", "dog"), kind))
    assert config[1].tag == "Choices" and config[1].attrib["choice"] == choice
    (prediction,) = to_task("x", kind((1, 0), ("dog", "cat"), (0.75, 0.6)))["predictions"]
    assert prediction["result"][0]["value"] == {"choices": ["dog"] if kind is Classification else ["dog", "cat"]}
    assert to_task("x", LabelSet((), (), ()))["predictions"][0]["result"] == []


def test_an_instance_is_one_polygon():
    mask = np.zeros((50, 80), bool)
    mask[10:30, 20:40] = True
    mask[35:45, 60:70] = True
    record = Instances(50, 80, ((20.0, 10.0, 70.0, 45.0),), (0,), ("cat",), (0.5,), masks=(rle.encode(mask),))
    (row,) = to_task("x", record)["predictions"][0]["result"]
    points = np.array(row["value"]["points"]) * (0.8, 0.5)
    back = rle.from_coco([points.ravel().tolist()], 50, 80)
    assert rle.iou([back], [rle.encode(mask)])[0, 0] > 0.95
    empty = Instances(50, 80, ((20.0, 10.0, 70.0, 45.0),), (0,), ("cat",), (0.5,), masks=(rle.encode(mask & False),))
    assert to_task("x", empty)["predictions"][0]["result"][0]["value"]["points"][0] == [25.0, 20.0]


def corrected(folder, images, records, card, exported):
    """What Label Studio exports when an annotator has accepted every prediction; its pictures are in `folder`."""
    from label_studio_sdk.converter import Converter

    names = [images.root / images.name(index) for index in range(len(records))]
    given = [(path.relative_to(path.parent), record) for path, record in zip(names, records, strict=True)]
    label_studio.write(folder / "pre", names[0].parent, given, card)
    tasks = json.loads((folder / "pre/tasks.json").read_text())
    rows = []
    for number, (task, path) in enumerate(zip(tasks, names, strict=True), 1):
        assert task["data"]["image"] == f"/data/local-files/?d={path.parent.name}/{path.name}"
        results = task["predictions"][0]["result"]
        annotation = {"id": number, "result": results, "was_cancelled": False, "lead_time": 1, "completed_by": 1}
        annotation |= {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
        rows.append({"id": number, "data": {"image": str(path)}, "annotations": [annotation], "predictions": []})
    (folder / "export.json").write_text(json.dumps(rows))
    making = Converter((folder / "pre/config.xml").read_text(), project_dir=None, download_resources=False)
    out = folder / "out"
    if exported == "csv":
        making.convert_to_csv(str(folder / "export.json"), str(out), is_dir=False)
        return out
    shutil.copytree(names[0].parent, out / "images")
    if exported == "coco":
        making.convert_to_coco(
            str(folder / "export.json"), str(out), output_image_dir=str(out / "images"), is_dir=False
        )
    else:
        making.convert_to_yolo(
            str(folder / "export.json"), str(out), output_image_dir=str(out / "images"), is_dir=False
        )
    return out


@converter
@pytest.mark.parametrize("exported", ["coco", "yolo"])
@pytest.mark.parametrize("task", ["detection", "instance"])
def test_the_corrected_export_is_read(task, exported, tmp_path):
    images, records = perfect(tmp_path / "set", task)
    out = corrected(tmp_path, images, records, replace(a_model("mask_rcnn")[0], classes=images.classes), exported)
    opened = open_split(out, task, "train")
    back, compared = opened.images, 0
    for index in range(len(back)):
        truth, record = back.truth(index), records[int(back.name(index)[-9:-4])]
        order = np.lexsort(truth.boxes.T), np.lexsort(np.reshape(record.boxes, (-1, 4)).T)
        limit = 1.0 if task == "instance" else 0.01
        np.testing.assert_allclose(truth.boxes[order[0]], np.reshape(record.boxes, (-1, 4))[order[1]], atol=limit)
        assert [back.classes[truth.labels[i]] for i in order[0]] == [record.names[i] for i in order[1]]
        for i, j in zip(*order, strict=True) if task == "instance" else ():
            assert rle.iou([truth.masks[i]], [record.masks[j]])[0, 0] > 0.9
        compared += len(record)
    assert compared == sum(map(len, records)) > 8
