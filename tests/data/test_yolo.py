"""YOLO folders as tools write them: lists, places, label lines, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherbone.data.dataset import open_data
from featherbone.data.doctor.examine import examine
from featherbone.data.formats import find_tasks, open_split
from featherbone.data.formats.format import Reading
from featherbone.data.formats.yolo import labels_folders
from featherbone.data.formats.yolo_lines import may_be_keypoints, parse_row
from featherbone.errors import BadData
from featherbone.ops import rle
from label_files import noise, refused_by_both
from scenes import write_yolo

NAMES = "names: [red, green]\n"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "yolo"
    write_yolo(folder, 8, 4, (48, 64))
    return folder


@pytest.fixture
def yolo(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def pets(tmp_path):
    """Two training images and one to validate, one object each, of 40 x 20 pixels in an image of 80 x 40."""
    root = tmp_path / "pets"
    for split, count in (("train", 2), ("val", 1)):
        for number in range(count):
            image, label = root / f"images/{split}/{number}.jpg", root / f"labels/{split}/{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            noise(image, number + 10 * (split == "val"))
            label.write_text("1 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\n{NAMES}")
    return root


def objects(data):
    """Boxes and class names of every image of both splits."""
    splits = open_data(data, "detection")
    return [
        [(images.classes[label], *box) for label, box in zip(of.labels.tolist(), of.boxes.tolist(), strict=True)]
        for images in (splits.train, splits.val)
        for of in map(images.truth, range(len(images)))
    ]


PETS = [[("green", 20, 10, 60, 30)]] * 3


def codes(data, task="detection"):
    return {found.code: found for found in examine(data, task, 64).findings}


@pytest.mark.parametrize("name", ["dataset.yaml", "coco128.yaml", "data.yml", "DATA.YAML"])
def test_a_list_of_any_name(pets, name):
    (pets / "data.yaml").rename(pets / name)
    (pets / "notes.yaml").write_text("names: of no split\n")
    assert find_tasks(pets) == ("detection",) and objects(pets) == PETS


def test_a_list_given_directly_and_several(pets):
    (pets / "more.yaml").write_text(f"train: images/val\nval: images/train\n{NAMES}")
    with pytest.raises(BadData, match=r"data\.yaml and more\.yaml both .* pass one of them, as --data .*data\.yaml"):
        open_data(pets, "detection")
    assert find_tasks(pets / "data.yaml") == ("detection",) and objects(pets / "data.yaml") == PETS
    assert len(open_data(pets / "more.yaml", "detection").train) == 1


@pytest.mark.parametrize(
    "content",
    [
        "train: ../images/train\nval: ../images/val\n",
        "path: ../datasets/pets\ntrain: images/train\nval: images/val\n",
        "path: C:\\Users\\me\\pets\ntrain: images\\train\nval: images\\val\n",
        "train: C:\\Users\\me\\pets\\images\\train\nval: D:/pets/images/val\n",
        "train: /home/me/pets/images/train\nval: /home/me/pets/images/val/\n",
        "path: /content/pets\ntrain: train\nval: /somewhere/val\n",
        "train: [./images/train]\nvalid: [images/val]\n",
        "train: images/train\nvalidation: images/val\ntest: ../test/images\n",
        "Train: images/train\nVal: images/val\nnc: 2\ndownload: https://host.org/pets.zip\n",
    ],
)
def test_places_as_tools_and_other_machines_write_them(pets, content):
    for split in ("train", "val"):  # of `images/val` and `val` the longer one is meant
        (pets / split).symlink_to(pets / "images" / split) if "somewhere" in content else None
    if "somewhere" in content:
        for split in ("train", "val"):
            for file in (pets / "labels" / split).iterdir():
                shutil.copy(file, pets / "images" / split)
    (pets / "data.yaml").write_text(content + NAMES)
    assert objects(pets) == PETS


def test_roboflow(pets):
    for split, name in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (pets / name).mkdir(exist_ok=True)
            (pets / kind / split).rename(pets / name / kind)
    (pets / "images").rmdir(), (pets / "labels").rmdir()
    (pets / "README.dataset.txt").write_text("pets\n")
    (pets / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n{NAMES}\nroboflow:\n  url: x\n"
    )
    assert objects(pets) == PETS and open_data(pets, "detection").notices == ()


def test_nothing_outside_the_folder_is_read(pets, tmp_path):
    shutil.copytree(pets / "images/train", tmp_path / "secret")
    for source in (tmp_path / "secret", "../secret", "../pets/../secret", "/etc"):
        (pets / "data.yaml").write_text(f"train: {source}\nval: images/val\n{NAMES}")
        with pytest.raises(BadData, match=rf"there is no {source} in .* put data\.yaml into the folder that holds"):
            open_data(pets, "detection")
    (pets / "data.yaml").write_text(f"train: list.txt\nval: images/val\n{NAMES}")
    (pets / "list.txt").write_text(f"{tmp_path}/secret/0.jpg\n../secret/1.jpg\n/etc/hosts\nimages/train/0.jpg\n")
    (pets / "images/train/1.jpg").rename(pets / "images/train/2.jpg")
    for file in (pets / "images/val").iterdir():
        file.rename(file.with_name("v.jpg"))
    (pets / "labels/val/0.txt").rename(pets / "labels/val/v.txt")
    opened = open_split(pets, "detection", "train")
    assert [entry.path for entry in opened.images.entries] == ["images/train/0.jpg"]
    assert set(opened.missing) == {"../secret/1.jpg", "/etc/hosts"}


def test_images_behind_a_link_in_the_folder_are_read(pets, tmp_path):
    (pets / "images").rename(tmp_path / "disk")
    (pets / "images").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert objects(pets) == PETS


def test_two_splits_in_one_folder_are_refused_unless_the_list_says_so(pets):
    for train, val in (("images", "images/val"), ("images/train", "../elsewhere/images/train")):
        (pets / "data.yaml").write_text(f"train: {train}\nval: {val}\n{NAMES}")
        with pytest.raises(BadData, match="write separate folders, relative to the data folder"):
            open_data(pets, "detection")
    (pets / "data.yaml").write_text(f"train: images/train\nval: images/train\n{NAMES}")  # as coco128
    assert len(open_data(pets, "detection").val) == 2


def test_lists_of_images(pets):
    paths = [
        "./images/train/0.jpg",
        "images\\train\\1.jpg",
        "C:\\pets\\images\\train\\1.jpg",
        "/gone/images/train/9.jpg",
    ]
    (pets / "train.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*paths, "", ""]).encode())
    (pets / "val.txt").write_text("data/pets/images/val/0.jpg\n")
    (pets / "data.yaml").write_text(f"path: ./\ntrain: train.txt\nval: val.txt\n{NAMES}")
    assert objects(pets) == PETS
    assert open_split(pets, "detection", "train").missing == ("/gone/images/train/9.jpg",)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: [red, green]", ("red", "green")),
        ("names:\n  0: red\n  1: green", ("red", "green")),
        ('names:\n  "1": green\n  "0": red', ("red", "green")),
        ("names:\n- red\n- 'no'", ("red", "no")),
        ("names: [no, 1.0]", ("no", "1.0")),
        ("nc: 2\nnames: [ red,\n  green ]", ("red", "green")),
        ("nc: 2", ("class 0", "class 1")),
    ],
)
def test_names(pets, names, expected):
    text = f"train: images/train\r\nval: images/val\r\n{names}\r\n"
    (pets / "data.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    opened = open_data(pets, "detection")
    assert opened.classes == expected
    assert any("names no classes" in notice for notice in opened.notices) == ("names" not in names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", "not YAML"),
        ("train: images/train", "no names; write the class names"),
        ("names: {0: a, 2: b}\ntrain: images/train", "number them from 0 without gaps"),
        ("names: {red: 0, green: 1}\ntrain: images/train", "number them from 0 without gaps, as 0: red"),
        ("names: red, green\ntrain: images/train", "list the class names"),
        ("names: [red, [green]]\ntrain: images/train", "list the class names"),
        ("names: [red, green, red]\ntrain: images/train", "classes 0 and 2 are both called 'red'"),
        ("names: [red, green]\nnc: 3\ntrain: images/train", "nc 3, but 2 names"),
        ("nc: many\ntrain: images/train", "nc 'many'; write the number"),
        ("nc: 999999\ntrain: images/train", "from 1 to 100,000"),
        ("names: [a]\ntrain: images/nowhere", "there is no images/nowhere"),
        ("names: [a]\ntrain: {a: b}", "give a folder, a .txt"),
        ("names: [a]\nkpt_shape: 17\ntrain: images/train", r"as \[17, 3\]"),
        ("names: [red, green]\nval: images/val", "no training images"),
        ("names: !!python/object/apply:os.system ['true']\ntrain: x", "not YAML"),
        ("train: images/train\na: &a [x, x]\nb: &b [" + "*a, " * 9 + "]\n" + "names: *b", "list the class names"),
    ],
)
def test_lists_are_refused(pets, text, message):
    (pets / "data.yaml").write_text(text)
    with pytest.raises(BadData, match=message):
        open_data(pets, "detection")
    assert examine(pets, "detection", 64).spoiled


def test_aliases_that_multiply_are_refused(pets):
    rows = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    rows += [f"{c}: &{c} [{','.join(['*' + p] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True)]
    (pets / "data.yaml").write_text("train: images/train\nval: images/val\n" + "\n".join(rows) + "\nnames: *i\n")
    with pytest.raises(BadData, match=r"data\.yaml: not YAML \(aliases make it larger"):
        open_data(pets, "detection")


def test_darknet_as_cvat_exports_it(tmp_path):
    root = tmp_path / "task"
    (root / "obj_train_data").mkdir(parents=True)
    for number in range(3):
        noise(root / f"obj_train_data/{number}.png", number)
        (root / f"obj_train_data/{number}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (root / "obj.names").write_text("red\ngreen\n")
    (root / "obj.data").write_text("classes = 2\nnames = data/obj.names\ntrain = data/train.txt\nbackup = backup/\n")
    (root / "train.txt").write_text("".join(f"data/obj_train_data/{number}.png\n" for number in range(3)))
    assert find_tasks(root) == ("detection",) and objects(root) == PETS
    assert "held out 1 of 3" in open_data(root, "detection").notices[0]


def test_names_beside_labels_as_label_studio_and_labelimg_write_them(pets):
    (pets / "data.yaml").unlink()
    (pets / "classes.txt").write_text("red\r\ngreen\r\n")
    (pets / "notes.json").write_text("{}")
    assert find_tasks(pets) == ("detection",) and objects(pets) == PETS
    for number, file in enumerate(sorted(pets.rglob("*.jpg"))):
        file.rename(pets / f"{number}.jpg")
        (pets / f"{number}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    shutil.rmtree(pets / "images"), shutil.rmtree(pets / "labels")
    assert find_tasks(pets) == ("detection",) and objects(pets) == PETS


def test_a_list_of_classes_is_not_yolo_without_labels(tmp_path):
    for name in ("images/train/a.png", "masks/train/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    assert "detection" not in find_tasks(tmp_path)


def test_labels_are_under_the_last_images_below_the_folder_or_beside():
    root = Path("home/images/pets")
    assert labels_folders(root, root / "a/images/b/images/c")[0] == root / "a/images/b/labels/c"
    assert labels_folders(root, root / "train") == []


def test_labels_beside_images_in_upper_case(pets):
    for file in (pets / "labels").rglob("*.txt"):
        file.rename(pets / "images" / file.parent.name / f"{file.stem}.TXT")
    for file in (pets / "images").rglob("*.jpg"):
        file.rename(file.with_suffix(".JPG"))
    assert objects(pets) == PETS


def test_images_without_label_file_and_label_files_without_image(pets):
    (pets / "labels/train/1.txt").unlink()
    (pets / "labels/train/7.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    opened = open_split(pets, "detection", "train")
    assert opened.unlisted == ("images/train/1.jpg",) and opened.missing == ("labels/train/7.txt",)
    assert len(open_split(pets, "detection", "train", Reading(unlabelled="negative")).images) == 2


def test_files_of_macos_and_windows_are_ignored(pets):
    junk = b"\0\x05\x16\x07" + b"\0" * 80
    for name in ("images/train/._0.jpg", "labels/train/._0.txt", "._data.yaml", "images/train/Thumbs.db"):
        (pets / name).write_bytes(junk)
    (pets / "__MACOSX/images").mkdir(parents=True)
    assert find_tasks(pets) == ("detection",) and objects(pets) == PETS
    assert open_data(pets, "detection").notices == () and not examine(pets, "detection", 64).spoiled


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf1 0.5 0.5 0.5 0.5\r\n",
        "1 0.5 0.5 0.5 0.5\r\n".encode("utf-16"),
        b"\n  1\t0.5   5e-1 5.0E-1 .5  \n\n\n",
        b"1.000000e+00 5.000000e-01 5.000000e-01 5.000000e-01 5.000000e-01\n",
        b"1.0 +0.5 0.5 0.5 0.5",
        b"1 0.5 0.5 0.5 0.5 17\n",  # CVAT's track
        b"1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n",
        b"1 0.25 0.25 0.75 0.25 0.75 0.75 0.5 0.75 0.25 0.75 3\n",
        b"1 0.5 0.5 0.5 0.5 0.4 0.4 2 0.6 0.6 1 0 0 0\n",
    ],
)
def test_lines_as_tools_write_them(pets, content):
    for file in (pets / "labels").rglob("*.txt"):
        file.write_bytes(content)
    assert objects(pets) == PETS and not examine(pets, "detection", 64).spoiled


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "has 4 values; write class, centre"),
        ("0", "has 1 values; write class, centre"),
        ("cat 0.5 0.5 0.1 0.1", "'cat' is not a number; write class, centre"),
        ("0 nan 0.5 0.1 0.1", "'nan' is not a number"),
        ("0 inf 0.5 0.1 0.1", "'inf' is not a number"),
        ("0 1_0 0.5 0.1 0.1", "'1_0' is not a number"),
        ("0 1e999 0.5 0.1 0.1", "inf is not a share of the image"),
        ("1e999 0.5 0.5 0.1 0.1", "class 1e999 is too large"),
        ("0,0.5,0.5,0.2,0.2", "has commas; separate values by spaces"),
        ("0 0,5 0,5 0,2 0,2", "write decimals with a point"),
        ("0 0.5 0.5 0.2 0.2 0.98", "remove the last, or correct them first: they are not ground truth"),
        ("10 20 30 20 30 40 10 40 helmet 0", "export as YOLO OBB"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not a whole number; write one from 0 to 1"),
        ("0 30 20 10 10", "30 is not a share of the image; write shares from 0 to 1, not pixels"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.35", "has 8 values"),
    ],
)
def test_a_line_that_cannot_be_read_is_a_finding_and_a_refusal_of_the_same_text(pets, line, message):
    file = pets / "labels/train/1.txt"
    file.write_text(f"\n1 0.5 0.5 0.5 0.5\n{line}\n")
    example, found = refused_by_both(pets, rf"labels/train/1\.txt, line 3: .*{message}")
    assert example.names == ("images/train/1.jpg",)
    assert not {"unknown-class-in-train", "empty-box", "negatives"} & found.keys()


@pytest.mark.parametrize("label", ["-1", "2", "99", "-1.0"])
def test_a_class_that_is_not_listed(pets, label):
    (pets / "labels/train/0.txt").write_text(f"{label} 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5")
    with pytest.raises(BadData, match=r"class ids that are not listed: -1|not listed: 99|class ids run from 1 to 2"):
        open_data(pets, "detection")
    assert {"unknown-class-in-train", "ids-shifted-in-train"} & codes(pets).keys()


@pytest.mark.parametrize(("shape", "points"), [("[2, 2]", "0.45 0.5 0.55 0.5"), ("[2, 3]", "0.4 0.5 2 0.6 0.5 0")])
def test_keypoints_stated_by_the_list_are_not_read(pets, shape, points):
    text = (pets / "data.yaml").read_text()
    (pets / "data.yaml").write_text(f"{text}kpt_shape: {shape}\nflip_idx: [0, 1]\n")
    for file in (pets / "labels").rglob("*.txt"):
        file.write_text(f"1 0.5 0.5 0.5 0.5 {points}\n")
    assert find_tasks(pets) == ("detection",) and objects(pets) == PETS
    assert "keypoints of 2 objects are not read" in open_data(pets, "detection").notices[0]
    found = codes(pets)
    assert "keypoints of 2 objects" in found["read-in-train"].message and "unknown-class-in-train" not in found
    (pets / "labels/train/1.txt").write_text("1 0.5 0.5 0.5 0.5 0.5\n")
    with pytest.raises(BadData, match=r"1\.txt, line 1: .* has 6 values, but kpt_shape means"):
        open_data(pets, "detection")


def test_keypoints_with_visibility_are_recognised_without_the_list(pets):
    for file in (pets / "labels").rglob("*.txt"):
        file.write_text("1 0.5 0.5 0.5 0.5" + " 0.5 0.5 2" * 17)
    assert find_tasks(pets) == ("detection",) and objects(pets) == PETS


def poses(count, num_keypoints, seed=0):
    random = np.random.default_rng(seed)
    for _ in range(count):
        w, h = random.uniform(0.1, 0.4, 2)
        x, y = random.uniform((w / 2, h / 2), (1 - w / 2, 1 - h / 2))
        points = random.uniform((x - w / 2, y - h / 2), (x + w / 2, y + h / 2), (num_keypoints, 2))
        yield f"0 {x:.5f} {y:.5f} {w:.5f} {h:.5f} " + " ".join(f"{value:.5f}" for value in points.ravel())


def circles(count, num_corners, seed=0):
    random = np.random.default_rng(seed)
    turns = np.linspace(0, 2 * np.pi, num_corners, endpoint=False)
    for _ in range(count):
        radius, centre = random.uniform(0.02, 0.3), random.uniform(0.3, 0.7, 2)
        points = centre + radius * np.column_stack([np.cos(turns), np.sin(turns)])
        yield "0 " + " ".join(f"{value:.5f}" for value in points.ravel())


@pytest.mark.parametrize("number", [2, 3, 5, 17])
def test_keypoints_without_visibility_are_told_from_polygons(number):
    def rows(lines):
        return [parse_row(line, "", None) for line in lines]

    assert may_be_keypoints(rows(poses(30, number)))
    assert not may_be_keypoints(rows(circles(30, number + 2)))
    assert not may_be_keypoints(rows([*poses(30, number), *circles(1, 25)]))


def test_what_may_be_keypoints_or_polygons_is_refused_with_what_to_write(pets):
    (pets / "labels/train/0.txt").write_text("\n".join(poses(20, 5)))
    (pets / "labels/train/1.txt").write_text("")
    with pytest.raises(BadData, match=r"write kpt_shape: \[5, 2\] for keypoints, or kpt_shape: \[\] for polygons"):
        open_split(pets, "detection", "train")
    text = (pets / "data.yaml").read_text()
    (pets / "data.yaml").write_text(text + "kpt_shape: [5, 2]\n")
    assert not open_split(pets, "detection", "train").images.has_masks
    (pets / "data.yaml").write_text(text + "kpt_shape: []\n")
    assert open_split(pets, "detection", "train").images.has_masks


def test_rotated_boxes_are_polygons_with_a_note(pets):
    for file in (pets / "labels").rglob("*.txt"):
        file.write_text("1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n")
    assert objects(pets) == PETS
    assert "four corners, as rotated boxes have, are read as polygons" in open_data(pets, "detection").notices[0]
    assert open_data(pets, "instance").train.truth(0).masks


def test_polygons_are_masks(yolo):
    assert find_tasks(yolo) == ("detection",)
    for file in (yolo / "labels").rglob("*.txt"):
        rows = [line.split() for line in file.read_text().splitlines()]
        lines = []
        for label, x, y, w, h in ((row[0], *map(float, row[1:])) for row in rows):
            corners = (x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2)
            lines.append(" ".join([label, *(f"{c:.6f}" for c in corners)]))
        file.write_text("\n".join(lines))
    assert find_tasks(yolo) == ("detection", "instance")
    images = open_data(yolo, "instance").train
    for i in range(len(images)):
        of = images.truth(i)
        for box, shape in zip(of.boxes, of.masks, strict=True):
            x1, y1, x2, y2 = box.round().astype(int)
            expected = np.zeros((48, 64), bool)
            expected[y1:y2, x1:x2] = True
            assert (rle.decode(shape) == expected).all()


def test_a_message_names_a_file_that_may_not_be_read(pets):
    (pets / "labels/train/0.txt").unlink()
    (pets / "labels/train/0.txt").mkdir()
    with pytest.raises(BadData, match=r"labels/train/0\.txt: cannot be read"):
        open_data(pets, "detection")
    assert "unreadable-annotation" in codes(pets)


def test_json_is_yaml(yolo):
    names = open_data(yolo, "detection").classes
    content = {"train": "images/train", "val": "images/val", "names": dict(enumerate(names))}
    (yolo / "data.yaml").write_text(json.dumps(content))
    assert open_data(yolo, "detection").classes == names and re.search('"0":', (yolo / "data.yaml").read_text())
