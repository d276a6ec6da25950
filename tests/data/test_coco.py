"""COCO's annotation files as tools write them: where they are, what they may hold, and what is refused."""

import codecs
import gzip
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from examined import picture
from featherbone.data.dataset import open_data
from featherbone.data.doctor.examine import examine
from featherbone.data.formats import find_tasks, open_split
from featherbone.data.formats.format import Reading
from featherbone.errors import BadData, BadImage
from featherbone.ops import rle

WIDTH, HEIGHT = 96, 80
BOX = [10, 20, 30, 40]
POLYGON = [10, 20, 40, 20, 40, 60, 10, 60]


def content(count=3, first=1, **extra):
    """A file of `count` images with an object each, of two classes."""
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(first, first + count)]
    rows = [
        {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": BOX, "area": 1200, "segmentation": [POLYGON]}
        | {"iscrowd": 0}
        for i in range(first, first + count)
    ]
    categories = [{"id": 1, "name": "oak", "supercategory": "tree"}, {"id": 2, "name": "pine"}]
    return {"info": {"year": 2026}, "images": images, "annotations": rows, "categories": categories}


def write(root, file, value, images):
    """The annotation file and its images in a folder."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    (root / images).mkdir(parents=True, exist_ok=True)
    if not isinstance(value, bytes):
        for image in value["images"]:
            name = image["file_name"].replace("\\", "/").rsplit("/", 1)[-1]
            picture(image["id"], (WIDTH, HEIGHT)).save(root / images / name)


@pytest.fixture
def data(tmp_path):
    """Both splits, and `change(edit, split)` to edit the file of one."""
    root = tmp_path / "data"
    write(root, "annotations/instances_train.json", content(), "train")
    write(root, "annotations/instances_val.json", content(2, 101), "val")

    def change(edit, split="train"):
        path = root / f"annotations/instances_{split}.json"
        value = json.loads(path.read_text())
        edit(value)
        path.write_text(json.dumps(value))

    return SimpleNamespace(root=root, change=change, path=root / "annotations/instances_train.json")


def refused(root, task="detection"):
    """The message of training, and that the doctor has errors, too."""
    with pytest.raises(BadData) as refusal:
        open_data(root, task)
    examination = examine(root, task, 64)
    assert examination.spoiled, examination
    return str(refusal.value)


def accepted(root, task="detection", **options):
    """What training opens, and that the doctor finds no error beside those of small numbers."""
    opened = open_data(root, task, **options)
    errors = [one for one in examine(root, task, 64).findings if one.severity == "error"]
    assert not errors, errors
    return opened


LAYOUTS = {
    "coco": ({"annotations/instances_{}2017.json": "{}2017"}, ("train", "val")),
    "coco in images": ({"annotations/instances_{}.json": "images/{}"}, ("train", "val")),
    "roboflow": ({"{}/_annotations.coco.json": "{}"}, ("train", "valid")),
    "any case": ({"annotations/instances_{}.json": "{}"}, ("Train", "Validation")),
    "plain at the top": ({"{}.json": "images"}, ("train", "val")),
    "plain in annotations": ({"annotations/{}.json": "images"}, ("train", "val")),
    "custom_train.json": ({"annotations/trees_{}_annotations.json": "{}"}, ("train", "val")),
    "beside its images": ({"{}/annotations.json": "{}/images"}, ("train", "val")),
    "fiftyone by split": ({"{}/labels.json": "{}/data"}, ("train", "validation")),
    "cvat": ({"annotations/instances_default.json": "images"}, ("",)),
    "cvat, subset folder": ({"annotations/instances_default.json": "images/default"}, ("",)),
    "label studio": ({"result.json": "images"}, ("",)),
    "fiftyone": ({"labels.json": "data"}, ("",)),
    "roboflow without splits": ({"_annotations.coco.json": "."}, ("",)),
    "any name": ({"annotations/my trees.JSON": "pictures/2026"}, ("",)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    places, splits = LAYOUTS[name]
    for first, split in zip((1, 101), splits, strict=False):
        for file, images in places.items():
            write(tmp_path, file.format(split), content(3, first), images.format(split))
    assert find_tasks(tmp_path) == ("detection", "instance")
    opened = accepted(tmp_path, "instance")
    ids = [sorted(entry.image_id for entry in images.entries) for images in (opened.train, opened.val)]
    assert ids == [[1, 2, 3], [101, 102, 103]] if len(splits) > 1 else sorted(ids[0] + ids[1]) == [1, 2, 3]
    notices = [notice for notice in opened.notices if "no validation split" not in notice]
    assert len(opened.notices) - len(notices) == (len(splits) == 1) and opened.classes == ("oak", "pine")
    assert len(notices) == (name == "any name") and all("as pictures/2026/1.png for '1.png'" in n for n in notices)
    assert not any("unlisted" in one.code for one in examine(tmp_path, "detection", 64).findings)


def test_a_test_file_is_a_split_of_its_own(data):
    write(data.root, "annotations/instances_test.json", content(1, 900), "test")
    write(data.root, "annotations/captions_train.json", b'{"images": [], "annotations": []}', "train")
    assert len(open_data(data.root, "detection").train) == 3
    assert [entry.image_id for entry in open_split(data.root, "detection", "test").images.entries] == [900]


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["annotations/instances_train.json", "annotations/instances_train2017.json"], "train"),
        (["train/_annotations.coco.json", "annotations/instances_train.json"], "train"),
        (["train.json", "training.json"], "train"),
        (["labels.json", "result.json"], "train"),
        (["annotations/instances_train.json", "annotations/val.json", "val.json"], "val"),
    ],
)
def test_several_files_of_a_split_are_refused_by_name(tmp_path, names, split):
    for name in names:
        write(tmp_path, name, content(), "images")
    assert "detection" in find_tasks(tmp_path)
    message = refused(tmp_path)
    assert f"several annotation files for {split}: " in message and "keep one, or join them" in message
    assert all(name in message for name in names if split != "val" or "val" in name)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"images": 1}', b"", b'{"annotations": [1], "version": 2}', b"\xff\xfe"]
)
def test_other_json_is_not_taken_for_annotations(tmp_path, text):
    write(tmp_path, "cats/info.json", text, "cats")
    write(tmp_path, "info.json", text, "dogs")
    picture(1, (9, 9)).save(tmp_path / "cats/1.png")
    picture(2, (9, 9)).save(tmp_path / "dogs/2.png")
    assert find_tasks(tmp_path) == ("classification",)


@pytest.mark.parametrize("size", [0, 70_000, 140_000])
def test_a_file_is_recognised_however_long(tmp_path, size):
    value = content()
    value["info"]["text"] = "x" * size
    write(tmp_path, "labels.json", value, "data")
    write(tmp_path, "late/labels.json", dict(reversed(value.items())), "late")
    assert "detection" in find_tasks(tmp_path) and "detection" in find_tasks(tmp_path / "late")


@pytest.mark.parametrize(
    "form",
    [
        "C:\\Users\\me\\trees\\{}.png",
        "/home/me/trees/{}.png",
        "./{}.png",
        "../../label-studio/data/media/upload/1/{}.png",
        "no/such/folder/{}.png",
        "images\\{}.png",
        "https://host.org/trees/{}.png?size=1",
    ],
)
def test_names_of_files_as_tools_write_them(data, form):
    def rename(value):
        for image in value["images"]:
            image["file_name"] = form.format(image["id"])

    data.change(rename)
    opened = accepted(data.root)
    assert [entry.path for entry in opened.train.entries] == [f"train/{i}.png" for i in (1, 2, 3)]
    assert len(opened.notices) == (form != "./{}.png")
    assert all("3 images found by the plain name only, as train/1.png for" in notice for notice in opened.notices)


def test_no_file_outside_the_folder_is_read(data):
    picture(9, (WIDTH, HEIGHT)).save(data.root.parent / "secret.png")
    for name in ("../../secret.png", "..\\..\\secret.png", str(data.root.parent / "secret.png")):
        data.change(lambda value, name=name: value["images"][0].update(file_name=name))
        opened = open_split(data.root, "detection", "train")
        assert opened.missing == (name,) and len(opened.images) == 2


def test_an_image_that_may_be_one_of_two_is_refused(tmp_path):
    value = content(1)
    write(tmp_path, "labels.json", value, "a")
    write(tmp_path, "labels.json", value, "b")
    assert "file_name '1.png' may be a/1.png or b/1.png; write paths below" in refused(tmp_path)


def set_first(key, value):
    return lambda file: file["annotations"][0].update({key: value})


def set_all(key, value):
    return lambda file: [row.update({key: value}) for row in file["annotations"]]


EXPECTED = {"bbox": BOX, "area": 1200, "segmentation": [POLYGON], "iscrowd": False, "label": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: [image.update(id=str(image["id"])) for image in v["images"]], {}),
        (lambda v: [row.update(image_id=float(row["image_id"])) for row in v["annotations"]], {}),
        (lambda v: [c.update(id=f"{c['id']}", extra=[{}]) for c in v["categories"]], {}),
        (set_first("category_id", "2"), {}),
        (set_all("iscrowd", "0"), {}),
        (set_all("iscrowd", None), {}),
        (set_all("iscrowd", False), {}),
        (set_all("iscrowd", 0.0), {}),
        (set_first("iscrowd", "1"), {"iscrowd": True}),
        (set_first("iscrowd", True), {"iscrowd": True}),
        (set_first("id", "b0f1-77"), {"id": "b0f1-77"}),
        (lambda v: v["annotations"][0].pop("id"), {}),
        (set_first("attributes", {"occluded": False}), {}),
        (set_first("bbox", ["10", "20", "30", "40"]), {}),
        (lambda v: [image.update(width="96", height=80.0) for image in v["images"]], {}),
        (lambda v: [image.update(width=0, height=None) for image in v["images"]], {}),
        (lambda v: [image.pop("width") for image in v["images"]], {}),
        (lambda v: v["categories"][1].update(name=" pine "), {}),
    ],
)
def test_what_tools_write_in_another_way_is_the_same(data, change, expected):
    data.change(change)
    entry = accepted(data.root, "instance").train.entries[0]
    assert (entry.height, entry.width) == (HEIGHT, WIDTH)
    found = {"bbox": entry.boxes_xywh[0].tolist(), "area": entry.stated_areas[0], "iscrowd": bool(entry.crowd[0])}
    found |= {"segmentation": entry.shape(0), "label": entry.labels[0], "id": entry.ids[0]}
    assert {key: value for key, value in found.items() if key in EXPECTED | expected} == EXPECTED | expected


@pytest.mark.parametrize("area", [None, float("nan"), float("inf"), 0, -5, "NaN"])
def test_an_area_that_is_none_is_that_of_the_mask_or_the_box(data, area):
    triangle = [10, 20, 40, 20, 10, 60]

    def change(value):
        value["annotations"][0].update(area=area, segmentation=[triangle])
        value["annotations"][1].update(area=area, segmentation=[])

    data.change(change)
    train = accepted(data.root).train
    mask = rle.decode(rle.from_coco([triangle], HEIGHT, WIDTH))
    assert train.truth(0).areas.tolist() == [mask.sum()] and 550 < mask.sum() < 650
    assert train.truth(1).areas.tolist() == [1200] and train.truth(2).areas.tolist() == [1200]


@pytest.mark.parametrize("form", ["polygon", "runs", "text"])
def test_a_box_that_is_missing_is_that_of_the_mask(data, form):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 10:40] = True
    text = rle.encode(mask)
    runs = [20 + 80 * 10, *[40, 40] * 29, 40, 80 * 96 - 80 * 39 - 60]
    shape = {"polygon": [POLYGON], "text": text, "runs": {"size": [HEIGHT, WIDTH], "counts": runs}}[form]
    for box in ("null", "absent"):
        data.change(set_first("segmentation", shape))
        data.change(set_first("bbox", None) if box == "null" else lambda v: v["annotations"][0].pop("bbox"))
        assert accepted(data.root, "instance").train.truth(0).boxes.tolist() == [[10, 20, 40, 60]]
        data.change(set_first("bbox", BOX))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_first("image_id", True), "annotations[0].image_id is true; write a whole number from 0 to 2^63 - 1"),
        (set_first("image_id", 1.5), "annotations[0].image_id is 1.5; write a whole number"),
        (set_first("image_id", "one"), 'annotations[0].image_id is "one"; write a whole number'),
        (set_first("image_id", None), "annotations[0].image_id is null; write a whole number"),
        (lambda v: v["annotations"][1].pop("image_id"), "annotations[1] has no image_id; write a whole number"),
        (lambda v: v["annotations"][1].pop("category_id"), "annotations[1] has no category_id; write a whole"),
        (set_first("category_id", [1]), "annotations[0].category_id is [1]; write a whole number"),
        (set_first("category_id", -1), "annotations[0].category_id is -1; write a whole number from 0"),
        (set_first("category_id", 2**63), "annotations[0].category_id is 9223372036854775808; write"),
        (set_first("category_id", 7), "class ids that are not listed: 7; list the classes, or remove the objects"),
        (
            set_first("bbox", [1, 2, 3]),
            "annotations[0].bbox is [1.0, 2.0, 3.0]; write x, y, width and height in pixels",
        ),
        (set_first("bbox", [1, 2, "wide", 3]), 'annotations[0].bbox is [1, 2, "wide", 3]; write x, y, width'),
        (set_first("bbox", "10 20 30 40"), 'annotations[0].bbox is "10 20 30 40"; write x, y, width'),
        (set_first("bbox", [1, 2, None, 3]), "annotations[0].bbox is [1, 2, null, 3]; write x, y, width"),
        (set_first("bbox", [1, 2, float("nan"), 3]), "annotations[0].bbox is [1.0, 2.0, nan, 3.0]; write x, y"),
        (set_first("bbox", [1, 2, 1e300, 3]), "annotations[0].bbox is [1.0, 2.0, 1e+300, 3.0]; write x, y, width"),
        (set_first("image_id", "\ud800"), r'annotations[0].image_id is "\ud800"; write a whole number'),
        (set_first("bbox", [1, 2, float("inf"), 3]), "annotations[0].bbox is [1.0, 2.0, inf, 3.0]; write x, y"),
        (lambda v: v["annotations"][0].update(bbox=None, segmentation=[]), "annotations[0].bbox is missing, and so is"),
        (
            lambda v: v["annotations"][0].update(bbox=None, segmentation=[[1, 2]]),
            "its mask cannot be read: a polygon of 1",
        ),
        (set_first("iscrowd", 2), "annotations[0].iscrowd is 2; write 0 or 1"),
        (set_first("iscrowd", "maybe"), 'annotations[0].iscrowd is "maybe"; write 0 or 1'),
        (set_first("area", "large"), 'annotations[0].area is "large"; write a number of pixels'),
        (lambda v: v["annotations"].insert(1, None), 'annotations[1] is null; write values with names, {"id": 1'),
        (lambda v: v["annotations"].insert(1, []), "annotations[1] is []; write values with names"),
        (lambda v: v.update(annotations={}), "annotations is {}; write a list of values with names"),
        (lambda v: v.pop("annotations"), "the file has no annotations; write a list"),
        (lambda v: v.pop("images"), "the file has no images; write a list"),
        (lambda v: v["images"][2].update(id=-1), "images[2].id is -1; write a whole number"),
        (lambda v: v["images"][2].pop("file_name"), "images[2] has no file_name; write the path of the image as text"),
        (lambda v: v["images"][2].update(file_name=5), "images[2].file_name is 5; write the path of the image as text"),
        (lambda v: v["images"][0].update(width="wide"), 'images[0].width is "wide"; write whole pixels'),
        (lambda v: v["images"][0].update(width=95.5), "images[0].width is 95.5; write whole pixels"),
        (lambda v: v["images"][2].update(id=1), "images[0] and images[2] have the id 1, an id given to two images"),
        (lambda v: v["categories"][1].update(id=1), "an id given to two categories; renumber them"),
        (lambda v: v["categories"][1].pop("name"), "categories[1] has no name; write the name of the class as text"),
        (lambda v: v["categories"][1].update(name=" "), "categories[1].name is empty; write the name"),
        (lambda v: v["categories"][1].update(name=None), "categories[1].name is null; write the name"),
        (lambda v: v["categories"][1].update(name="oak "), "categories 1 and 2 have the name 'oak', which one class"),
        (lambda v: v.update(categories=[]), "no categories; list the classes"),
    ],
)
def test_all_else_is_refused_with_place_value_and_remedy(data, change, message):
    data.change(change)
    text = refused(data.root)
    assert message in text and "\n" not in text.split(message)[0]


def test_a_file_is_text_of_any_system(data):
    plain = data.path.read_bytes()
    expected = open_data(data.root, "detection").fingerprint()
    crlf = json.dumps(json.loads(plain), indent=1).replace("\n", "\r\n")
    for text in (codecs.BOM_UTF8 + plain, crlf.encode(), codecs.BOM_UTF8 + crlf.encode(), crlf.encode("utf-16")):
        data.path.write_bytes(text)
        assert accepted(data.root).fingerprint() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"images": [],}', "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xd8\xff", "not JSON"),
        (gzip.compress(b"{}", mtime=0), "compressed with gzip; unpack it with: gunzip"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"x": ' * 100_000, "nested too deeply"),
        (b"[]", "the file is []; write values with names"),
        (b"7", "the file is 7; write values with names"),
    ],
)
def test_a_file_that_is_something_else_is_named(data, text, message):
    data.path.write_bytes(text)
    assert f"annotations/instances_train.json: {message}" in refused(data.root)


def test_a_pipe_is_not_waited_for(data):
    data.path.unlink()
    os.mkfifo(data.path)
    assert "annotations/instances_train.json: not a file; give a file" in refused(data.root)


def test_the_unused_root_of_roboflow_is_no_class(data):
    def change(value):
        value["categories"] = [
            {"id": 0, "name": "red", "supercategory": "none"},
            {"id": 1, "name": "red", "supercategory": "red"},
            {"id": 2, "name": "green", "supercategory": "red"},
        ]

    for split in ("train", "val"):
        data.change(change, split)
    opened = accepted(data.root)
    assert (opened.classes, opened.train.category_ids) == (("red", "green"), (1, 2))
    assert len(opened.notices) == 2 and "train: category 0, red, is the group of the others" in opened.notices[0]
    data.change(set_first("category_id", 0))
    assert "categories 0 and 1 have the name 'red', which one class may have; rename one" in refused(data.root)


def test_a_class_without_a_group_is_no_root(data):
    def change(value):
        for category in value["categories"]:
            category["supercategory"] = "none"
        value["categories"].append({"id": 3, "name": "elm", "supercategory": "none"})

    for split in ("train", "val"):
        data.change(change, split)
    assert accepted(data.root).classes == ("oak", "pine", "elm")


def test_classes_of_validation_are_found_by_name(data):
    before = open_data(data.root, "detection")

    def change(value):
        value["categories"] = [{"id": 0, "name": "pine"}, {"id": 9, "name": "oak"}, {"id": 1, "name": "unused"}]
        for row in value["annotations"]:
            row["category_id"] = {1: 9, 2: 0}[row["category_id"]]

    data.change(change, "val")
    after = accepted(data.root)
    assert after.train.classes == after.val.classes == ("oak", "pine") and after.val.category_ids == (9, 0)
    assert [entry.labels[0] for entry in after.val.entries] == [entry.labels[0] for entry in before.val.entries]
    assert any("matched by name" in notice for notice in after.notices)
    data.change(lambda v: v.update(categories=[{"id": 0, "name": "pine"}, {"id": 9, "name": "Oak"}]), "val")
    assert "objects of classes that training does not list: Oak; the training classes are oak, pine" in refused(
        data.root
    )
    data.change(lambda v: v.update(categories=[{"id": 0, "name": "pine"}], annotations=v["annotations"][:1]), "val")
    data.change(set_first("category_id", 0), "val")
    assert accepted(data.root).val.category_ids == (1, 0)


def test_masks_of_crowds_can_be_objects(data):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 10:40] = True
    for split in ("train", "val"):
        data.change(set_all("iscrowd", 1), split)
        data.change(set_all("segmentation", rle.encode(mask)), split)
    asking = "3 of 3 annotations are crowds (iscrowd 1)"
    message = refused(data.root, "instance")
    assert "no object on any of 3 images of train, but 3 crowds" in message and "pass --crowds objects" in message
    findings = {one.code: one for one in examine(data.root, "instance", 64).findings}
    assert findings["no-objects-in-train"].severity == "error" and asking in findings["read-in-train"].message
    taken = open_data(data.root, "instance", reading=Reading(crowds="objects"))
    assert taken.notices == () and taken.train.has_masks and taken.train.truth(0).crowd.tolist() == [False]
    assert not examine(data.root, "instance", 64, reading=Reading(crowds="objects")).spoiled


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([[1, 2, 3, 4]], "a polygon of 2 points; the minimum is 3"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon with an odd number of coordinates"),
        ([[[1, 2], [3, 4], [5, 6]]], "a polygon with coordinates that are not numbers"),
        ([1, 2, 3, 4, 5, 6], "neither polygons [[x, y, x, y, ...], ...] nor run lengths"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([[1, 2, 3, 4, 5, 1e12]], "not finite or beyond"),
        ([[1, 2, 10**400, 4, 5, 6]], "not finite or beyond"),
        ([[0, 0, 9e7, 1, 0, 2]], "a perimeter of"),
        ({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, "run lengths for a mask of size [96, 80], not of"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "run lengths of 3 pixels in an image of 7680"),
        ({"size": [HEIGHT, WIDTH], "counts": [-10, 7690]}, "run lengths that are not whole numbers from 0"),
        ({"size": [HEIGHT, WIDTH], "counts": "zzzz"}, "run lengths whose text is damaged"),
        ({"size": [HEIGHT, WIDTH]}, "run lengths without counts"),
        ({"size": [10**9, 10**9], "counts": "0"}, "run lengths for a mask of size [1000000000"),
        ("mask.png", "neither polygons"),
        (7, "neither polygons"),
    ],
)
def test_masks_that_cannot_be_read(data, shape, message):
    data.change(set_first("segmentation", shape))
    assert message in refused(data.root, "instance")
    findings = {one.code: one for one in examine(data.root, "instance", 64).findings}
    assert message in findings["unreadable-mask"].examples[0].note
    assert len(accepted(data.root).train) == 3  # boxes need no masks


def test_objects_without_masks_are_refused_where_masks_are_learned(data):
    data.change(set_first("segmentation", None))
    assert "1 object of 5 without a mask, which instance segmentation needs" in refused(data.root, "instance")
    accepted(data.root)


def test_a_stated_size_is_not_believed(data):
    def change(value):
        value["images"][0].update(width=10**9, height=10**9)
        value["annotations"][0]["segmentation"] = [[1, 1, 9 * 10**8, 1, 9 * 10**8, 9 * 10**8]]

    data.change(change)
    assert "a mask of 1000000000 x 1000000000 pixels; the maximum" in refused(data.root, "instance")
    data.change(lambda v: v["images"][0].update(width=30_000, height=30_000))
    data.change(set_first("segmentation", [POLYGON]))
    train = open_data(data.root, "instance").train
    for read in (train.image, train.check_size):
        with pytest.raises(BadImage, match=r"train/1\.png: 96x80 pixels, but annotated as 30000x30000; annotate"):
            read(0)
    assert "size-mismatch" in {one.code for one in examine(data.root, "instance", 64).findings}


def test_an_annotation_of_no_image(data):
    data.change(set_first("image_id", 77))
    assert "1 annotation for train of an image that is not listed, skipped; list the image" in refused(data.root)


def test_nothing_is_where_the_file_says(data):
    shutil.rmtree(data.root / "train")
    assert "3 images of 3 listed for train but not there" in refused(data.root)
