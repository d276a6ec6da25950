"""The registry of formats: which folder is in which, and one scene in all of them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from featherbone.data.dataset import open_data
from featherbone.data.doctor.examine import examine
from featherbone.data.formats import FORMATS, find_format, find_tasks, register_format
from featherbone.data.formats.class_folders import FolderSplit
from featherbone.data.formats.format import Format, Opened
from featherbone.errors import BadData
from label_files import noise, to_stacks, write_cvat, write_labelme, write_voc
from scenes import write_classification, write_coco, write_masks, write_panoptic, write_yolo

FOLDERS = {"COCO": "coco", "YOLO": "yolo", "Pascal VOC": "voc", "labelme": "labelme", "CVAT": "cvat"}


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
    splits = open_data(data, "instance" if masks else "detection")
    rows = []
    for images in (splits.train, splits.val):
        for of in (images.truth(index) for index in range(len(images))):
            names = [images.classes[label] for label in of.labels]
            shapes = [shape["counts"] for shape in of.masks] if masks else [""] * len(names)
            rows.append(sorted(zip(names, of.boxes.round(3).tolist(), shapes, strict=True)))
    return rows


def test_names_are_unique():
    assert len({one.name for one in FORMATS}) == len(FORMATS)


def test_every_format_is_matched_by_itself_only(written, tmp_path):
    for name, folder in FOLDERS.items():
        assert [one.name for one in FORMATS if not one.fallback and one.tasks(written / folder)] == [name]
    others = {"class folders": write_classification, "masks": write_masks, "COCO panoptic": write_panoptic}
    for name, write in others.items():
        write(tmp_path / name, 2, 1, (32, 32))
        for task in find_tasks(tmp_path / name):
            assert find_format(tmp_path / name, task).name == name
    assert find_format(written / "gone", "detection") is None


class Lines(Format):
    """A toy format: a line `name colour` per image in a text file of each split."""

    name = "lines"

    def tasks(self, folder):
        return frozenset(("classification",) if (folder / "train.lines").is_file() else ())

    def open(self, folder, task, split, reading):
        rows = [line.split() for line in (folder / f"{split}.lines").read_text().splitlines()]
        classes = sorted({colour for _, colour in rows})
        labels = np.array([classes.index(colour) for _, colour in rows])
        return Opened(FolderSplit(folder, tuple(name for name, _ in rows), labels, tuple(classes)))


def test_a_format_is_added_by_one_call(tmp_path, monkeypatch):
    monkeypatch.setattr("featherbone.data.formats.FORMATS", list(FORMATS))
    register_format(Lines())
    for split, count in (("train", 8), ("val", 4)):
        names = [f"{split}{i}.png" for i in range(count)]
        for i, name in enumerate(names):
            Image.new("RGB", (8, 8), ("red", "blue")[i % 2]).save(tmp_path / name)
        (tmp_path / f"{split}.lines").write_text(
            "".join(f"{n} {('red', 'blue')[i % 2]}\n" for i, n in enumerate(names))
        )
    assert find_tasks(tmp_path) == ("classification",)
    splits = open_data(tmp_path, "classification")
    assert splits.classes == ("blue", "red") and [splits.val.truth(i) for i in range(4)] == [1, 0, 1, 0]


@pytest.mark.parametrize(("name", "masks"), [("yolo", False), ("voc", False), ("labelme", True), ("cvat", True)])
def test_one_scene_is_the_same_in_every_format(written, name, masks):
    assert find_tasks(written / name) == (("detection", "instance") if masks else ("detection",))
    expected, found = objects(written / "coco", masks), objects(written / name, masks)
    assert len(found) == len(expected) == 9
    for one, other in zip(found, expected, strict=True):
        assert [row[::2] for row in one] == [row[::2] for row in other]
        boxes = [np.array([row[1] for row in rows]).reshape(-1, 4) for rows in (one, other)]
        np.testing.assert_allclose(*boxes, atol=1e-3)
    assert open_data(written / name, "detection").notices == ()


@pytest.mark.parametrize("name", [name for name in FOLDERS.values() if name != "coco"])
def test_the_doctor_finds_the_same_scene_as_sound_as_in_coco(written, name):
    task = "instance" if name in ("labelme", "cvat") else "detection"
    found, expected = (examine(written / one, task, 64) for one in (name, "coco"))
    assert not found.spoiled and found.objects.images == expected.objects.images == {"train": 6, "val": 3}
    assert found.objects.median == expected.objects.median and found.objects.most == expected.objects.most
    counts = [dict(zip(one.classes, one.counts["train"], strict=True)) for one in (found, expected)]
    used = {class_name: count for class_name, count in counts[1].items() if count}
    assert {class_name: count for class_name, count in counts[0].items() if count} == used


def write_labels(folder):
    names = [f"images/{split}/{i}.jpg" for split in ("train", "val") for i in range(3)]
    for i, name in enumerate(names):
        noise(folder / name, i)
    rows = [f"{name},{'cat;dog' * (i % 2)}" for i, name in enumerate(names)]
    (folder / "labels.csv").write_text("\n".join(["image,label", *rows]))


def write_metadata(folder):
    for split in ("train", "val"):
        for i in range(2):
            noise(folder / split / f"{i}.jpg", i)
        rows = (f'{{"file_name": "{i}.jpg", "label": "{"ab"[i]}"}}\n' for i in range(2))
        (folder / split / "metadata.jsonl").write_text("".join(rows))


def beside_images(folder):
    """Masks beside their images."""
    write_masks(folder, 3, 2, (32, 32))
    for mask in sorted(folder.glob("masks/*/*.png")):
        place = folder / mask.parent.name / f"{mask.stem}_mask.png"
        place.parent.mkdir(exist_ok=True)
        mask.rename(place)
        (folder / "images" / mask.parent.name / f"{mask.stem}.jpg").rename(place.with_name(f"{mask.stem}.jpg"))
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "masks")


OTHERS = {
    "class folders": ("classification", lambda folder: write_classification(folder, 4, 2, (32, 32))),
    "metadata.jsonl": ("classification", write_metadata),
    "labels.csv": ("multilabel", write_labels),
    "masks": ("semantic", lambda folder: write_masks(folder, 3, 2, (32, 32))),
    "masks beside images": ("semantic", beside_images),
    "panoptic": ("panoptic", lambda folder: write_panoptic(folder, 3, 2, (32, 32))),
}


def seen(data, task):
    """Name, size and annotations of each image, and what was noticed."""
    splits = open_data(data, task)
    rows = []
    for images in (splits.train, splits.val):
        for index in range(len(images)):
            truth = images.truth(index)
            values = getattr(truth, "boxes", getattr(truth, "ids", truth))
            rows.append((images.name(index).rsplit(".", 1)[0], images.size(index), np.asarray(values).tolist()))
    return rows, splits.notices


@pytest.mark.parametrize("name", [*FOLDERS.values(), *OTHERS])
def test_stacks_are_images_in_every_format(written, name, tmp_path):
    task, write = OTHERS.get(name, ("detection", lambda folder: shutil.copytree(written / name, folder)))
    write(tmp_path / "data")
    expected = seen(tmp_path / "data", task)
    to_stacks(tmp_path / "data")
    assert seen(tmp_path / "data", task) == expected
    splits = open_data(tmp_path / "data", task)
    assert splits.val.name(0).endswith(".stack") and splits.val.image(0, 3).values.shape[2] == 3


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
