"""labelme's files as tools store them, and what is refused."""

import json

import numpy as np
import pytest

import label_files
from featherbone.data.dataset import open_data
from featherbone.data.formats import open_split
from featherbone.errors import BadData
from featherbone.ops import rle
from label_files import labelme_json, labelme_shape, noise, png, refused_by_both, write_pictures

SQUARE = [[10, 5], [60, 5], [60, 35], [10, 35]]


def write(folder, file="{split}/{number}.json", picture="{split}/{number}.jpg", path="{number}.jpg"):
    def content(**place):
        return labelme_json(path.format(**place), (40, 80), [labelme_shape("cat", SQUARE)])

    write_pictures(folder, file, picture, content)


@pytest.fixture
def data(tmp_path):
    write(tmp_path)
    return tmp_path


def shapes(data, *given, file="train/train0.json", **more):
    content = json.loads((data / file).read_text())
    (data / file).write_text(json.dumps({**content, "shapes": list(given), **more}))


def sound(folder, train=3, val=2):
    return label_files.sound(folder, ("detection", "instance"), [10, 5, 60, 35], train, val, ("cat",))


@pytest.mark.parametrize(
    ("file", "picture", "path"),
    [
        ("{split}/{number}.json", "{split}/{number}.jpg", "{number}.jpg"),
        ("{split}/{number}.json", "{split}/{number}.jpg", "..\\\\{split}\\\\{number}.jpg"),
        ("{split}/{number}.json", "{split}/{number}.jpg", "C:\\\\Users\\\\me\\\\{number}.jpg"),
        ("{split}/jsons/{number}.json", "{split}/images/{number}.png", "../images/{number}.png"),
        ("annotations/{split}/{number}.json", "images/{split}/{number}.png", "../../images/{split}/{number}.png"),
        ("{split}/{number}.json", "{split}/{number}.png", "renamed.jpg"),
    ],
)
def test_splits_are_folders(tmp_path, file, picture, path):
    write(tmp_path, file, picture, path.replace("\\\\", "\\"))
    assert sound(tmp_path).notices == ()


@pytest.mark.parametrize("folder", ["", "session 7/", "images/"])
def test_without_splits_some_are_held_out(tmp_path, folder):
    write(tmp_path, folder + "{number}.json", folder + "{number}.jpg")
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncat\n")
    assert "held out 1 of 5" in sound(tmp_path, 4, 1).notices[0]


def test_every_shape(data):
    mask = np.random.default_rng(0).random((12, 9)) > 0.4
    mask[[0, -1]] = mask[:, [0, -1]] = True
    shapes(
        data,
        labelme_shape("box", [[60, 35], [10, 5]], "rectangle"),
        labelme_shape("box", [[10, 5], [60, 5], [60, 35], [10, 35]], "rectangle"),  # X-AnyLabeling
        labelme_shape("disc", [[30, 20], [33, 24]], "circle"),
        labelme_shape("blob", [[40, 20], [48, 31]], "mask", mask=png(mask)),
        labelme_shape("edge", [[0, 0], [9, 9]], "line"),
        labelme_shape("spot", [[3, 3]], "point"),
    )
    splits = open_data(data, "detection")
    of = splits.train.truth(0)
    assert splits.classes == ("blob", "box", "cat", "disc")
    assert of.boxes.tolist() == [[10, 5, 60, 35], [10, 5, 60, 35], [25, 15, 35, 25], [40, 20, 49, 32]]
    assert of.labels.tolist() == [1, 1, 3, 0]
    assert np.array_equal(rle.decode(of.masks[3])[20:32, 40:49], mask) and rle.decode(of.masks[3]).sum() == mask.sum()
    assert abs(rle.decode(of.masks[2]).sum() - np.pi * 25) < 4
    assert splits.notices == ("train: 2 points, lines and other shapes that are not objects are not read",)
    with pytest.raises(BadData, match="2 objects of 8 without a mask"):
        open_data(data, "instance")


def test_one_group_is_one_object(data):
    left, right = [[0, 0], [10, 0], [10, 10], [0, 10]], [[50, 20], [60, 20], [60, 30], [50, 30]]
    full = png(np.ones((10, 10), bool))
    shapes(
        data,
        labelme_shape("cat", left, group_id=1),
        labelme_shape("cat", right, group_id=1),
        labelme_shape("dog", right, group_id=1),
        labelme_shape("cat", left, group_id=2),
        labelme_shape("cat", [[50, 20], [59, 29]], "mask", group_id=2, mask=full),
        labelme_shape("cat", left),
    )
    of = open_data(data, "instance").train.truth(0)
    whole = [0, 0, 60, 30]
    assert of.boxes.tolist() == [whole, [50, 20, 60, 30], whole, [0, 0, 10, 10]]
    assert [rle.decode(mask).sum() for mask in of.masks] == [200, 100, 200, 100]
    assert of.masks[0] == of.masks[2]


def test_sizes_may_be_missing_and_files_carry_a_bom(data):
    shapes(data, labelme_shape("cat", SQUARE), imageHeight=None, imageWidth=None)
    file = data / "train/train1.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_text().replace("\n", "\r\n").encode())
    sound(data)


def test_old_files_and_images_without_objects(data):
    square = {"label": "cat", "line_color": None, "points": SQUARE}
    old = {"flags": {}, "shapes": [square], "lineColor": [0, 255, 0, 128]}
    (data / "train/train0.json").write_text(json.dumps({**old, "imagePath": "train0.jpg", "imageData": None}))
    sound(data)
    shapes(data, file="train/train1.json")
    noise(data / "train/new.jpg", 5)
    (data / "train/train2.jpg").unlink()
    opened = open_split(data, "detection", "train")
    assert [len(entry) for entry in opened.images.entries] == [1, 0]
    assert opened.unlisted == ("train/new.jpg",) and opened.missing == ("train2.jpg",)


def test_other_json_files_are_no_labels(data):
    (data / "train/notes.json").write_text('{"author": "me"}')
    (data / "info.json").write_text("[1, 2]")
    assert sound(data).notices == ()
    (data / "old.json").write_text(labelme_json("train0.jpg", (40, 80), []))
    assert open_data(data, "detection").notices == ("train: 1 JSON files outside of the splits are not read",)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (labelme_shape("cat", [[1, 1], [5, 5]]), "shape 1: a polygon of 2 points; draw three or more"),
        (labelme_shape(" ", SQUARE), "shape 1: no label; write the class"),
        (labelme_shape("cat", [[1, 1]], "rectangle"), "a 'rectangle' of 1 points, which is not read; draw it as"),
        (labelme_shape("cat", SQUARE, "cuboid"), "a 'cuboid' of 4 points, which is not read; draw it as polygon"),
        (labelme_shape("cat", [[1, 1], [5, 5]], "mask"), "a 'mask' of 2 points, which is not read"),
        (labelme_shape("cat", [[1, 1], [5, 5]], "mask", mask="?"), "not Base64; save the file"),
        (labelme_shape("cat", [[1, 1], [5, 5]], "mask", mask="AAAA"), "shape 1: "),
        (labelme_shape("cat", [[1, 1], [5, 5]], "mask", mask=png(np.ones((4, 5)))), "a mask of 5x4 pixels in a box"),
        (
            labelme_shape("cat", [[78, 1], [82, 5]], "mask", mask=png(np.ones((5, 5)))),
            "not inside the image of 80x40",
        ),
        (labelme_shape("cat", [[1e12, 1], [5, 5], [3, 3]]), "no places in an image; draw the shape again"),
        (labelme_shape("cat", [["a", 1], [5, 5], [3, 3]]), "save it with labelme again"),
        (labelme_shape("cat", [[1], [5, 5], [3, 3]]), "save it with labelme again"),
        (labelme_shape(None, SQUARE), "save it with labelme again"),
        ("cat", "save it with labelme again"),
    ],
)
def test_what_cannot_be_read_is_a_finding_and_a_refusal_of_the_same_text(data, shape, message):
    shapes(data, shape)
    refused_by_both(data, rf"train/train0\.json.*{message}", "instance")


def test_a_file_that_is_cut_off_is_named(data):
    file = data / "train/train1.json"
    file.write_text(file.read_text()[:-40])
    example, _ = refused_by_both(data, r"train/train1\.json: not JSON", "instance")
    assert example.names == ("train/train1.jpg",)
