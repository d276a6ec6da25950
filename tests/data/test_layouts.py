"""A folder says which tasks it serves, and what it lacks."""

import pytest

from featherbone.data.layouts import LAYOUTS, find_task, find_tasks, names_of, split_folders, split_of
from featherbone.errors import BadData, BadOption

SERVED = {
    ("train/cat/", "val/cat/"): ("classification",),
    ("cat/", "dog/"): ("classification",),
    ("train-00000.parquet",): ("classification",),
    ("data/validation-0.parquet",): ("classification",),
    ("annotations/instances_train.json", "train/"): ("detection", "instance"),
    ("annotations/instances_train2017.json", "train2017/"): ("detection", "instance"),
    ("annotations/panoptic_val.json",): ("detection", "instance", "semantic", "panoptic"),
    ("images/train/", "masks/train/"): ("semantic",),
    ("images/Training/", "masks/Training/"): ("semantic",),
    ("data.yaml", "images/"): ("detection",),
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


def test_what_is_no_layout_is_refused_with_the_layouts(tmp_path):
    (tmp_path / "notes.txt").touch()
    for path, what in ((tmp_path, "no data layout"), (tmp_path / "notes.txt", "a file"), (tmp_path / "no", "nothing")):
        with pytest.raises(BadData, match=what) as refusal:
            find_tasks(path)
        assert LAYOUTS in str(refusal.value)
