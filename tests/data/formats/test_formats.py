"""The registry of formats: which folder is in which, and one scene in all of them."""

import numpy as np
import pytest
from PIL import Image

from featherbone.data.detection import open_detection
from featherbone.data.doctor_objects import examine_objects
from featherbone.data.formats import FORMATS, find_format
from featherbone.data.layouts import find_tasks
from featherbone.errors import BadData
from featherbone.ops import rle
from label_files import write_cvat, write_labelme, write_voc
from scenes import write_classification, write_coco, write_masks, write_panoptic, write_yolo

FOLDERS = {"YOLO": "yolo", "Pascal VOC": "voc", "labelme": "labelme", "CVAT": "cvat"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same scenes in every format."""
    folder = tmp_path_factory.mktemp("formats")
    write_coco(folder / "coco", 6, 3, (48, 64))
    write_yolo(folder / "yolo", 6, 3, (48, 64))
    for name, write in (("voc", write_voc), ("labelme", write_labelme), ("cvat", write_cvat)):
        write(folder / "coco", folder / name)
    return folder


def objects(data, masks):
    """Of each image, sorted: class, box and mask of each object."""
    splits = open_detection(data, masks=masks)
    rows = []
    for images in (splits.train, splits.val):
        for of in (images.objects(index, masks) for index in range(len(images))):
            names = [images.classes[label] for label in of.labels]
            shapes = [shape["counts"] for shape in of.masks or ()] or [""] * len(names)
            rows.append(sorted(zip(names, of.boxes.round(3).tolist(), shapes, strict=True)))
    return rows


def test_names_are_unique():
    assert len({one.name for one in FORMATS}) == len(FORMATS)


def test_every_format_is_matched_by_itself_only(written, tmp_path):
    for one in FORMATS:
        assert [other.name for other in FORMATS if other.matches(written / FOLDERS[one.name])] == [one.name]
    for name, write in (("c", write_classification), ("m", write_masks), ("p", write_panoptic)):
        write(tmp_path / name, 2, 1, (32, 32))
        assert find_format(tmp_path / name) is None
    assert find_format(written / "coco") is None and find_format(written / "gone") is None


@pytest.mark.parametrize(("name", "masks"), [("yolo", False), ("voc", False), ("labelme", True), ("cvat", True)])
def test_one_scene_is_the_same_in_every_format(written, name, masks):
    assert find_tasks(written / name) == (("detection", "instance") if masks else ("detection",))
    expected, found = objects(written / "coco", masks), objects(written / name, masks)
    assert len(found) == len(expected) == 9
    for one, other in zip(found, expected, strict=True):
        assert [row[::2] for row in one] == [row[::2] for row in other]
        boxes = [np.array([row[1] for row in rows]).reshape(-1, 4) for rows in (one, other)]
        np.testing.assert_allclose(*boxes, atol=1e-3)
    assert open_detection(written / name).notices == ()


@pytest.mark.parametrize("name", FOLDERS.values())
def test_the_doctor_finds_the_same_scene_as_sound_as_in_coco(written, name):
    task = "instance" if name in ("labelme", "cvat") else "detection"
    found, expected = (examine_objects(written / one, task, 64) for one in (name, "coco"))
    assert not found.spoiled and found.objects.images == expected.objects.images == {"train": 6, "val": 3}
    assert found.objects.median == expected.objects.median and found.objects.most == expected.objects.most
    counts = [dict(zip(one.classes, one.counts["train"], strict=True)) for one in (found, expected)]
    used = {class_name: count for class_name, count in counts[1].items() if count}
    assert {class_name: count for class_name, count in counts[0].items() if count} == used


def test_masks_of_coco_are_those_of_the_scene(written):
    images = open_detection(written / "labelme", masks=True).train
    of = images.objects(0, masks=True)
    assert all(rle.decode(shape).any() for shape in of.masks)


UNREAD = {
    ("training/label_2/000001.txt", ""): ("KITTI", r"datum convert -i .*data -if kitti -f coco"),
    ("train/labelTxt/a.txt", ""): ("DOTA", "export it as YOLO OBB"),
    ("train/s1/gt/gt.txt", ""): ("MOT", "-if mot_seq"),
    ("train/labels/detections.csv", ""): ("Open Images", "-if open_images"),
    ("train/_annotations.createml.json", "[]"): ("CreateML", "export it as COCO or YOLO instead from Roboflow"),
    ("train/_darknet.labels", "cat\n"): ("YOLO Darknet of Roboflow", "export it as YOLOv8"),
    ("VOCdevkit/VOC2012/Annotations/a.xml", "<annotation/>"): ("Pascal VOC by year", "give the folder of one year"),
    ("ds0/ann/a.jpg.json", "{}"): ("Supervisely", "export it as COCO"),
    ("train/via_region_data.json", '{"a.jpg1": {"regions": [{"shape_attributes": {}}]}}'): ("VGG", "as COCO"),
    ("via.csv", "#filename,file_size,file_attributes,region_shape_attributes\n"): ("VGG", "as COCO"),
    ("tasks.json", '[{"annotations": [{"result": [{"from_name": "label"}]}]}]'): ("Label Studio", "export it as COCO"),
    ("annotations/train.json", '{"infos": {}, "categories": {}, "items": []}'): ("Datumaro", "-if datumaro"),
    ("labels.json", '[{"name": "a.jpg", "labels": [{"box2d": {}}]}]'): ("BDD100K", "convert it to COCO"),
    ("train_labels.csv", "filename,width,height,class,xmin,ymin\n"): ("TensorFlow's CSV", "to Pascal VOC"),
    ("labels/train/a.txt", "0 0.5 0.5 0.25 0.25\n"): ("YOLO's labels without a list", "write a data.yaml"),
}


@pytest.mark.parametrize(("file", "expected"), UNREAD.items())
def test_other_formats_are_named_with_the_way_to_convert_them(tmp_path, file, expected):
    path = tmp_path / "data" / file[0]
    path.parent.mkdir(parents=True)
    path.write_text(file[1])
    for name in ("images/train/a.jpg", "images/val/b.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / name)
    with pytest.raises(BadData, match=rf"is of {expected[0]}.*, which is not read; .*{expected[1]}"):
        find_tasks(tmp_path / "data")
