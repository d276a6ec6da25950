"""Files that operating systems leave in folders are in no list, and links never lead in circles."""

import os

import pytest
from PIL import Image

from featherbone.data.formats import open_split
from featherbone.data.listing import is_junk, list_files, list_folder, list_folders, list_images
from featherbone.errors import BadData
from featherbone.files import write_json
from featherbone.predictor import find_images

JUNK = ("._0.jpg", "._0.png", "._0.txt", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.jpg")


def litter(*folders):
    for folder in folders:
        for name in JUNK:
            (folder / name).write_bytes(b"\0\x05\x16\x07" + b"\0" * 80)  # AppleDouble
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "0.jpg").write_bytes(b"")


def draw(*paths):
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if path.suffix == ".png" else "RGB", (8, 8), number % 2).save(path)


def test_junk_is_known_by_its_name():
    assert all(map(is_junk, (*JUNK, "__MACOSX", "THUMBS.DB", "@eaDir", "$RECYCLE.BIN", ".git")))
    assert not any(map(is_junk, ("a.jpg", "_a.jpg", "thumbs.png", "desktop", "MACOSX", "a._b.jpg")))


def test_class_folders(tmp_path):
    draw(*(tmp_path / "train" / name / f"{i}.JPG" for name in ("a", "b") for i in range(2)))
    litter(tmp_path, tmp_path / "train", tmp_path / "train" / "a")
    opened = open_split(tmp_path, "classification", "train")
    images = opened.images
    assert images.classes == ("a", "b") and opened.findings == ()
    assert tuple(images.paths) == ("train/a/0.JPG", "train/a/1.JPG", "train/b/0.JPG", "train/b/1.JPG")


def test_pictures_that_coco_does_not_list(tmp_path):
    draw(tmp_path / "train" / "0.jpg", tmp_path / "train" / "1.jpg")
    litter(tmp_path / "train")
    images = [{"id": 1, "file_name": "0.jpg", "height": 8, "width": 8}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "red"}]}
    write_json(tmp_path / "annotations" / "instances_train.json", content)
    assert open_split(tmp_path, "detection", "train").unlisted == ("train/1.jpg",)


def test_masks(tmp_path):
    draw(tmp_path / "images" / "train" / "0.jpg", tmp_path / "masks" / "train" / "0.png")
    litter(tmp_path / "images" / "train", tmp_path / "masks" / "train")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    opened = open_split(tmp_path, "semantic", "train")
    assert [*opened.images.paths, *opened.images.maps] == ["images/train/0.jpg", "masks/train/0.png"]
    assert opened.findings == ()


def test_pictures_to_predict(tmp_path):
    draw(tmp_path / "a" / "0.jpg")
    litter(tmp_path, tmp_path / "a")
    assert find_images([tmp_path]) == [tmp_path / "a" / "0.jpg"]
    assert find_images([tmp_path / "._0.jpg"]) == [tmp_path / "._0.jpg"]  # named by the user


def test_stacks_are_images_and_no_folders(tmp_path):
    draw(tmp_path / "a" / "0.stack" / "r.png", tmp_path / "a" / "1.STACK" / "r.png", tmp_path / "a" / "2.png")
    found = [tmp_path / "a" / name for name in ("0.stack", "1.STACK", "2.png")]
    assert list_images(tmp_path) == list_files(tmp_path) == list_folder(tmp_path / "a") == found
    assert list_folders(tmp_path / "a") == [] and find_images([tmp_path, found[0]]) == found


def test_links_are_followed_once(tmp_path):
    draw(tmp_path / "elsewhere" / "1.jpg", tmp_path / "data" / "0.jpg")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "round").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    found = [path.relative_to(tmp_path / "data").as_posix() for path in list_images(tmp_path / "data")]
    assert found == ["0.jpg", "broken.jpg", "linked/1.jpg"]


def test_lists_are_sorted_and_end_as_asked(tmp_path):
    for name in ("b/2.TXT", "b/1.txt", "a/3.txt", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_files(tmp_path, (".txt",))] == ["3.txt", "1.txt", "2.TXT"]
    assert [path.name for path in list_folders(tmp_path)] == ["a", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "a").mkdir(mode=0)
    with pytest.raises(BadData, match=r"a: cannot be listed .* pass a readable folder"):
        list_files(tmp_path)
