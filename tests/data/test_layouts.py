"""A folder says which tasks it serves, and what it lacks."""

import pytest

from featherbone.data.formats import find_task, find_tasks
from featherbone.data.layouts import LAYOUTS, names_of, split_folders, split_of
from featherbone.errors import BadData, BadOption

SERVED = {
    ("train/cat/", "val/cat/"): ("classification",),
    ("Training/cat/", "Testing/cat/"): ("classification",),
    ("bus/1.jpg", "car/1.jpg", "train/1.jpg"): ("classification",),
    ("seg_train/seg_train/cat/", "seg_test/seg_test/cat/", "seg_pred/seg_pred/1.jpg"): ("classification",),
    ("train/metadata.csv", "train/1.jpg"): ("classification",),
    ("metadata.jsonl", "1.jpg"): ("classification",),
    ("cat/", "dog/"): ("classification",),
    ("train-00000.parquet",): ("classification",),
    ("data/validation-0.parquet",): ("classification",),
    ("annotations/instances_train.json", "train/"): ("detection", "instance"),
    ("annotations/instances_train2017.json", "train2017/"): ("detection", "instance"),
    ("annotations/panoptic_val.json",): ("detection", "instance", "semantic", "panoptic"),
    ("images/train/a.jpg", "masks/train/a.png"): ("semantic",),
    ("images/Training/a.jpg", "masks/Training/a.png"): ("semantic",),
    ("data.yaml", "images/"): ("detection",),
    ("train/images/1.jpg", "train/masks/1.png"): ("semantic",),
    ("JPEGImages/1.jpg", "SegmentationClass/1.png"): ("semantic",),
    ("train/img_dir/1.jpg", "train/ann_dir/1.png"): ("semantic",),
}


NAMES = {
    "train": ("train", "Train", "TRAINING", "train2017", "seg_train", "train_set", "TrainSet", "train-00000-of-00001"),
    "val": ("val", "Valid", "validation", "dev", "val_images", "valdata"),
    "test": ("test", "Testing", "seg_test", "test2017"),
    None: ("trains", "trainer", "train_masks", "masks", "test-dev", "contest", "data", "images", "2017", "", ".train"),
}


@pytest.mark.parametrize(("split", "names"), NAMES.items())
def test_names_of_splits(split, names):
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)


def test_the_plainest_name_of_a_split_comes_first(tmp_path):
    build(tmp_path, ("Validation/", "val/", "dev/", "seg_train/", "Training/", "test", ".val/"))
    assert [folder.name for folder in split_folders(tmp_path, "val")] == ["val", "dev", "Validation"]
    assert [folder.name for folder in split_folders(tmp_path, "train")] == ["Training", "seg_train"]
    assert split_folders(tmp_path, "test") == split_folders(tmp_path / "none", "val") == []
    assert names_of("train", ["TRAIN", "val", "train"]) == ["train", "TRAIN"]


def build(root, entries):
    for entry in entries:
        path = root / entry
        (path if entry.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not entry.endswith("/"):
            path.touch()


@pytest.mark.parametrize(("entries", "tasks"), SERVED.items())
def test_layouts_serve_their_tasks(tmp_path, entries, tasks):
    build(tmp_path, entries)
    assert find_tasks(tmp_path) == tasks
    for task in tasks:
        assert find_task(tmp_path, task) == task
    with pytest.raises(BadOption, match=f"serves {', '.join(tasks)}, not juggling"):
        find_task(tmp_path, "juggling")
    if len(tasks) == 1:
        assert find_task(tmp_path, None) == tasks[0]
    else:
        with pytest.raises(BadOption, match="choose one with --task"):
            find_task(tmp_path, None)


REFUSED = {
    ("notes.md",): "no data layout known",
    (): "no files in the folder",
    (".DS_Store", "__MACOSX/._a.jpg"): "no files in the folder",
    ("1.jpg", "2.jpg"): "1.jpg is pictures without classes; move each to a folder of its class",
    ("1.jpg", "labels.csv"): "labels.csv is a table; .* or name it metadata.csv, with the columns file_name and label",
    ("train.zip", "val.zip"): "train.zip is an archive; unpack it",
    ("a.tfrecord",): "TFRecord .*; write its images as files into train/CLASS",
    ("data.mdb", "lock.mdb"): "LMDB; write its images as files",
    ("train.npz",): "arrays in one file; write them as PNG",
    ("set.parquet",): "name the files train\\*.parquet",
    ("labels.json", "1.jpg"): "JSON; for COCO's name it annotations/instances_train.json",
    ("wrap/train/cat/1.jpg", "wrap/train/dog/1.jpg"): "the data set is in its folder wrap; pass .*wrap",
    ("train/1.jpg",): "pictures in train have no class; move each into .* or write a metadata.csv",
    (
        "first/a/1.jpg",
        "first/b/1.jpg",
        "second/a/1.jpg",
        "second/b/1.jpg",
    ): "same subfolders, a, b, .*; rename",
    ("cat/train/1.jpg", "cat/val/1.jpg", "dog/train/1.jpg", "dog/val/1.jpg"): "put the splits on top, as train/cat",
    ("train/images/1.jpg", "train/truth/1.png", "train/labels/1.csv"): "images and labels .* not classes",
    ("images/1.jpg", "labels/1.txt"): "images and labels hold images and labels, not classes",
}


@pytest.mark.parametrize(("entries", "message"), REFUSED.items())
def test_what_is_no_layout_is_named_with_the_way_to_convert(tmp_path, entries, message):
    build(tmp_path, entries)
    with pytest.raises(BadData, match=message):
        find_tasks(tmp_path)


@pytest.mark.parametrize("name", ["labels.json", "set.zip", "train.parquet", "notes.md", "1.jpg", "data.xml"])
def test_a_file_in_place_of_a_folder_is_named(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(BadData, match="a file there, ") as refusal:
        find_tasks(tmp_path / name)
    assert LAYOUTS in str(refusal.value)


def test_nothing_there_is_refused_with_the_layouts(tmp_path):
    with pytest.raises(BadData, match="nothing there") as refusal:
        find_tasks(tmp_path / "no")
    assert LAYOUTS in str(refusal.value)
