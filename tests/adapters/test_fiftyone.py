"""FiftyOne's labels and exporters, tested where it is installed; see docs/adapters.md.

None of this needs FiftyOne's database; adding samples to a dataset does, and is not tested.
"""

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from adapters.perfect import perfect
from featherbone.adapters.fiftyone import mask_targets, to_label, to_sample
from featherbone.data.formats import find_task, open_split
from featherbone.errors import MissingExtra
from featherbone.ops import rle
from featherbone.results import Classification, LabelSet
from scenes import write_classification

needed = pytest.mark.skipif(find_spec("fiftyone") is None, reason="FiftyOne is not installed")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingExtra, match="pip install fiftyone"):
        to_label(Classification((0,), ("a",), (1.0,)))


@needed
def test_labels_of_every_task(tmp_path):
    one = to_label(Classification((1, 0), ("b", "a"), (0.75, 0.25)))
    assert (one.label, one.confidence) == ("b", 0.75)
    assert [row.label for row in to_label(LabelSet((1, 0), ("b", "a"), (0.75, 0.5))).classifications] == ["b", "a"]
    for task in ("detection", "instance", "panoptic"):
        images, records = perfect(tmp_path / task, task)
        for record in records:
            rows = to_label(record).detections
            if task == "panoptic":
                names, boxes = zip(*((s.name, s.box) for s in record.segments), strict=True)
                masks = [record.ids == segment.id for segment in record.segments]
                assert [row.thing for row in rows] == [segment.thing for segment in record.segments]
            else:
                names, boxes = record.names, record.boxes
                masks = [*map(rle.decode, record.masks)] if task == "instance" else []
                assert [row.confidence for row in rows] == [*record.scores]
            assert [row.label for row in rows] == [*names]
            for row, (x1, y1, x2, y2) in zip(rows, boxes, strict=True):
                expected = [x1 / record.width, y1 / record.height, (x2 - x1) / record.width, (y2 - y1) / record.height]
                assert row.bounding_box == pytest.approx(expected, abs=1e-6)
            for row, mask in zip(rows if masks else [], masks, strict=True):
                whole = row.to_segmentation(frame_size=(record.width, record.height), target=1).mask
                assert (whole.astype(bool) == mask).all()
    images, records = perfect(tmp_path / "semantic", "semantic")
    mask = to_label(records[0]).mask
    assert (mask == records[0].labels.astype(int) + 1)[records[0].labels < 255].all()
    assert not mask[records[0].labels == 255].any()
    assert [*mask_targets(images.classes).values()] == [*images.classes] and min(mask_targets(images.classes)) == 1
    sample = to_sample(tmp_path / "x.jpg", records[0])
    assert sample.filepath == str(tmp_path / "x.jpg") and (sample.predictions.mask == mask).all()


@needed
@pytest.mark.parametrize("task", ["detection", "instance"])
@pytest.mark.parametrize("exporter", ["COCODetectionDataset", "YOLOv5Dataset"])
def test_exported_detections_are_read(task, exporter, tmp_path):
    """What FiftyOne's exporters write of our labels gives the same boxes and masks."""
    import fiftyone.utils.coco as fouc
    import fiftyone.utils.yolo as fouy

    images, records = perfect(tmp_path / "set", task)
    out, more = tmp_path / "out", {"classes": [*images.classes]}
    if exporter == "YOLOv5Dataset":
        if task == "instance":
            pytest.skip("it writes the boxes of detections with masks; of instances export COCO")
        chosen = fouy.YOLOv5DatasetExporter(export_dir=str(out), split="train", **more)
    else:
        chosen = fouc.COCODetectionDatasetExporter(export_dir=str(out), **more)
    with chosen:
        for index, record in enumerate(records):
            chosen.export_sample(str(images.root / images.name(index)), to_label(record))
    back = open_split(out, task, "train").images
    assert len(back) == len(records)
    for index in range(len(back)):
        truth, record = back.truth(index), records[int(back.name(index)[-9:-4])]
        order = np.lexsort(truth.boxes.T), np.lexsort(np.reshape(record.boxes, (-1, 4)).T)
        np.testing.assert_allclose(truth.boxes[order[0]], np.reshape(record.boxes, (-1, 4))[order[1]], atol=0.01)
        assert [back.classes[truth.labels[i]] for i in order[0]] == [record.names[i] for i in order[1]]
        for i, j in zip(*order, strict=True) if task == "instance" else ():
            assert rle.iou([truth.masks[i]], [record.masks[j]])[0, 0] > 0.6  # it approximates masks by polygons


@needed
def test_exported_class_folders_are_read(tmp_path):
    from fiftyone import Classification as Label
    from fiftyone.utils.data import ImageClassificationDirectoryTreeExporter

    write_classification(tmp_path / "set", 12, 6, (32, 32))
    for split in ("train", "val"):
        with ImageClassificationDirectoryTreeExporter(export_dir=str(tmp_path / "out" / split)) as exporter:
            for path in sorted((tmp_path / "set" / split).rglob("*.*")):
                exporter.export_sample(str(path), Label(label=path.parent.name))
    assert find_task(tmp_path / "out", None) == "classification"
    for split, count in (("train", 12), ("val", 6)):
        assert len(open_split(tmp_path / "out", "classification", split).images) == count
