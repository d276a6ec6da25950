"""Folders of maps, opened for training: our layout, ADE20K's, Cityscapes', and COCO's panoptic files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherbone.data.dataset import open_data
from featherbone.data.doctor.examine import examine
from featherbone.data.formats import find_tasks, open_split
from featherbone.data.formats.format import Reading
from featherbone.data.formats.masks import check_two_classes
from featherbone.data.map_files import panoptic_annotation, panoptic_categories, panoptic_image, write_panoptic
from featherbone.errors import BadData, BadImage
from featherbone.tasks.panoptic import PanopticKind
from scenes import write_masks
from scenes import write_panoptic as write_panoptic_scenes

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="real pictures are not there")


@pytest.fixture
def masks(tmp_path):
    write_masks(tmp_path / "data", 6, 3, (32, 40))
    return tmp_path / "data"


@pytest.fixture
def parted(tmp_path):
    write_panoptic_scenes(tmp_path / "data", 6, 3, (32, 40))
    return tmp_path / "data"


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def edit(data, change, split="train"):
    path = data / f"annotations/panoptic_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_masks_are_what_was_drawn(masks):
    splits = open_data(masks, "semantic")
    assert (len(splits.train), len(splits.val)) == (6, 3) and find_tasks(masks) == ("semantic",)
    for i in range(len(splits.train)):
        stored = np.asarray(Image.open(masks / splits.train.maps[i]))
        np.testing.assert_array_equal(splits.train.truth(i), stored)
        assert splits.train.size(i) == stored.shape and splits.train.read(i)[0].size == stored.shape[::-1]


def test_both_layouts_draw_the_same_classes(masks, tmp_path):
    write_panoptic_scenes(tmp_path / "panoptic", 6, 3, (32, 40))
    one, other = open_data(masks, "semantic").train, open_data(tmp_path / "panoptic", "semantic").train
    assert one.classes == other.classes
    for i in range(len(one)):
        np.testing.assert_array_equal(one.truth(i), other.truth(i))


def test_a_share_is_held_out_by_the_seed(masks):
    shutil.rmtree(masks / "masks/val")
    one, same, other = (open_data(masks, "semantic", 0.34, seed) for seed in (0, 0, 1))
    assert len(one.val) == 2 and "held out 2 of 6" in one.notices[-1]
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_the_fingerprint_knows_pixels_and_not_the_place(masks, tmp_path):
    before = open_data(masks, "semantic").fingerprint()
    shutil.copytree(masks, tmp_path / "moved")
    assert open_data(tmp_path / "moved", "semantic").fingerprint() == before
    path = next((masks / "masks/train").iterdir())
    save(path, np.asarray(Image.open(path)) * 0)
    assert open_data(masks, "semantic").fingerprint() != before


def test_images_without_masks_are_told(masks):
    next((masks / "masks/train").iterdir()).unlink()
    next((masks / "images/val").iterdir()).unlink()
    splits = open_data(masks, "semantic")
    assert (len(splits.train), len(splits.val)) == (5, 2)
    assert (
        "1 of 6 images for train without a mask" in splits.notices[0] and "1 mask for val without" in splits.notices[1]
    )


def test_a_value_that_is_no_class_is_refused_by_name(masks):
    path = sorted((masks / "masks/train").iterdir())[2]
    values = np.asarray(Image.open(path)).copy()
    values[0, :3] = 77
    save(path, values)
    with pytest.raises(BadData, match=rf"{path.name}: 3 pixels of value 77.*--ignore-index"):
        open_data(masks, "semantic").train.truth(2)
    labels = open_data(masks, "semantic", reading=Reading(ignore_index=77)).train.truth(2)
    assert (labels[0, :3] == 255).all()


def test_colours_without_a_table_are_refused(masks):
    path = sorted((masks / "masks/train").iterdir())[0]
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(BadData, match="lists no colours"):
        open_data(masks, "semantic").train.truth(0)


def test_a_mask_of_another_size_is_left_out(masks):
    path = sorted((masks / "masks/train").iterdir())[0]
    save(path, np.asarray(Image.open(path))[:-1])
    with pytest.raises(BadImage, match="40x32 pixels, but 40x31"):
        open_data(masks, "semantic").train.read(0)


def test_ade20k_is_read(tmp_path):
    for split in ("training", "validation"):
        save(tmp_path / "images" / split / "a.jpg", np.zeros((4, 4, 3), np.uint8))
        save(tmp_path / "annotations" / split / "a.png", np.array([[0, 1, 2, 150]] * 4, np.uint8))
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(150)))
    images = open_data(tmp_path, "semantic", reading=Reading(zero_ignored=True)).val
    assert find_tasks(tmp_path) == ("semantic",) and images.truth(0)[0].tolist() == [255, 0, 1, 149]


def cityscapes(root):
    """One picture a split: road, a car, a second car beside it, a crowd of cars, and what is ignored."""
    ids = np.array([[7, 7, 26, 26, 26, 26, 1, 23]] * 4, np.uint8)
    instances = np.array([[7, 7, 26000, 26000, 26001, 26, 1, 23]] * 4, np.uint16)
    for split in ("train", "val"):
        save(root / f"leftImg8bit/{split}/town/town_0_leftImg8bit.png", np.zeros((4, 8, 3), np.uint8))
        save(root / f"gtFine/{split}/town/town_0_gtFine_labelIds.png", ids)
        save(root / f"gtFine/{split}/town/town_0_gtFine_instanceIds.png", instances)
    return root


def test_cityscapes_is_read(tmp_path):
    root = cityscapes(tmp_path)
    assert find_tasks(root) == ("semantic", "panoptic")
    images = open_data(root, "semantic").train
    assert images.truth(0)[0].tolist() == [0, 0, 13, 13, 13, 13, 255, 10]
    parted = open_data(root, "panoptic").train
    assert parted.truth(0).labels()[0].tolist() == [0, 0, 13, 13, 13, 13, 255, 10]
    assert [parted.classes[i] for i in parted.things][:3] == ["person", "rider", "car"] and len(parted.things) == 8
    objects = parted.objects(parted.truth(0))
    assert sorted(objects.boxes.tolist()) == [[2, 0, 4, 4], [4, 0, 5, 4], [5, 0, 6, 4]]
    assert objects.crowd.sum() == 1 and set(objects.labels.tolist()) == {2}
    assert parted.stuff_labels(parted.truth(0))[0].tolist() == [1, 1, 0, 0, 0, 0, 255, 11]


def test_cityscapes_names_serve_our_layout(tmp_path):
    root = cityscapes(tmp_path / "from")
    for split in ("train", "val"):
        for old, new in (("leftImg8bit", "images"), ("gtFine", "masks")):
            for file in (root / old / split / "town").iterdir():
                if "instanceIds" not in file.name:
                    (tmp_path / "to" / new / split).mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, tmp_path / "to" / new / split)
    assert open_data(tmp_path / "to", "semantic").train.truth(0)[0].tolist()[:3] == [0, 0, 13]


def test_panoptic_files_come_back(parted, tmp_path):
    """What is read, written as another tool's results, and read again, is the same."""
    images = open_data(parted, "panoptic").train
    records = [PanopticKind().truth_record(images.truth(i), images) for i in range(len(images))]
    out = tmp_path / "again"
    rows = [(Path(images.name(i)).name, f"{i}.png", record) for i, record in enumerate(records)]
    (out / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = {
            "images": [panoptic_image(record, i, name) for i, (name, _, record) in enumerate(rows)],
            "annotations": [
                panoptic_annotation(record, i, name, images.category_ids) for i, (_, name, record) in enumerate(rows)
            ],
            "categories": panoptic_categories(images.classes, images.things, images.category_ids),
        }
        (out / f"annotations/panoptic_{split}.json").write_text(json.dumps(content))
        shutil.copytree(parted / "train", out / split)
        for _, name, record in rows:
            write_panoptic(out / f"panoptic_{split}" / name, record.ids)
    again = open_data(out, "panoptic").train
    assert (again.classes, again.things) == (images.classes, images.things)
    for i, record in enumerate(records):
        np.testing.assert_array_equal(again.truth(i).labels(), images.truth(i).labels())
        assert [s.box for s in PanopticKind().truth_record(again.truth(i), again).segments] == [
            s.box for s in record.segments
        ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "the file has no images; write a list"),
        (lambda c: c["categories"][0].pop("isthing"), "has no isthing; write 1 for a class that can be counted"),
        (lambda c: c["categories"].append(dict(c["categories"][0])), "given to two categories"),
        (lambda c: c["annotations"][0].update(image_id=99), "image 99, which it does not list"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=99), "category 99"),
        (lambda c: c["annotations"][0].update(file_name=3), r"annotations\[0\].file_name is 3; write the path"),
        (lambda c: c["annotations"][0].pop("segments_info"), r"annotations\[0\] has no segments_info; write a list"),
        (lambda c: c["annotations"].append(dict(c["annotations"][0])), r"annotations\[6\] is of image .* join the two"),
        (
            lambda c: c["annotations"][0]["segments_info"].append(dict(c["annotations"][0]["segments_info"][0])),
            "an id given to two segments; give each a different id",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(id=1 << 24),
            r"id is 16777216, but maps hold .* number the segments of an image from 1 to 2\^24 - 1",
        ),
        (lambda c: c["annotations"][0]["segments_info"][0].update(bbox=[1, 2]), "bbox is .*; write x, y, width"),
        (lambda c: c["annotations"][0].update(file_name="../../x.png"), "leads out of"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id="x"), 'id is "x"; write a whole number'),
        (
            lambda c: [a.update(file_name="no.png") for a in c["annotations"]],
            "6 of 6 images and maps listed for train but not there",
        ),
        (lambda c: c["categories"][0].update(name="other"), "list the same in both"),
    ],
)
def test_panoptic_files_are_refused_with_a_reason(parted, change, message):
    edit(parted, change)
    with pytest.raises(BadData, match=message):
        open_data(parted, "panoptic")


def test_text_ids_a_mark_of_windows_and_files_of_macos_change_nothing(parted):
    before = open_data(parted, "panoptic").fingerprint()
    path = parted / "annotations/panoptic_train.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["image_id"] = str(row["image_id"])
        for segment in row["segments_info"]:
            segment.update(id=str(segment["id"]), category_id=float(segment["category_id"]), iscrowd="0")
    path.write_text("\ufeff" + json.dumps(content).replace("\n", "\r\n"), encoding="utf-8")
    (parted / "annotations/._panoptic_train.json").write_bytes(b"\0")
    assert open_data(parted, "panoptic").fingerprint() == before


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_panoptic_maps_with_transparency_or_a_palette_are_the_same(parted, mode):
    """As programs write them that save space; the colours are the ids."""
    before = open_data(parted, "panoptic").train
    expected = [before.truth(i).labels() for i in range(len(before))]
    for path in (parted / "panoptic_train").iterdir():
        image = Image.open(path).convert("RGB")
        image = image.convert("RGBA") if mode == "RGBA" else image.quantize(256)
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(Image.open(path).convert("RGB")))
        image.save(path)
    after = open_data(parted, "panoptic").train
    for i, labels in enumerate(expected):
        np.testing.assert_array_equal(after.truth(i).labels(), labels)


def test_cityscapes_beside_files_of_macos_is_the_same(tmp_path):
    root = cityscapes(tmp_path)
    for path in list(root.rglob("*_instanceIds.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\x05\x16\x07")
    splits = open_data(root, "panoptic")
    assert (len(splits.train), splits.notices) == (1, ())


def test_ids_that_are_not_listed_are_refused(parted):
    edit(parted, lambda c: c["annotations"][0]["segments_info"].pop())
    with pytest.raises(BadData, match="ids that segments_info does not list"):
        open_data(parted, "panoptic").train.read(0)


def test_a_missing_map_is_told(parted):
    next((parted / "panoptic_train").iterdir()).unlink()
    splits = open_data(parted, "panoptic")
    assert len(splits.train) == 5 and "1 of 6 images and maps listed for train but not there" in splits.notices[0]


@needs_shared
def test_real_panoptic_maps_are_the_semantic_ones_beside_them():
    for split in ("train", "val"):
        images = getattr(open_data(SHARED / "coco_cc", "panoptic"), split)
        for i, path in list(enumerate(images.maps))[::5]:
            beside = Image.open(SHARED / "coco_cc" / f"semantic_{split}" / Path(path).name)
            np.testing.assert_array_equal(images.truth(i).labels(), np.asarray(beside))


@needs_shared
def test_camvid_is_read_without_a_word():
    splits = open_data(SHARED / "camvid", "semantic")
    assert (len(splits.train), len(splits.val), len(splits.classes)) == (367, 101, 11)
    assert {*np.unique(splits.val.truth(0)).tolist()} <= {*range(11), 255}


LAYOUTS = {
    "splits in folders": ("images/{s}/{i}.jpg", "masks/{s}/{i}.png"),
    "folders in splits": ("{s}/images/{i}.jpg", "{s}/masks/{i}.png"),
    "in capitals": ("{s}/Images/{i}.JPG", "{s}/Masks/{i}_Mask.PNG"),
    "mmsegmentation": ("img_dir/{s}/{i}.jpg", "ann_dir/{s}/{i}.png"),
    "CamVid": ("{s}/{i}.png", "{s}_labels/{i}_L.png"),
    "SegNet": ("{s}/{i}.png", "{s}annot/{i}.png"),
    "Carvana": ("{s}/{i}.jpg", "{s}_masks/{i}_mask.gif"),
    "Roboflow": ("{s}/{i}_jpg.rf.0.jpg", "{s}/{i}_jpg.rf.0_mask.png"),
    "DeepGlobe": ("{s}/{i}_sat.jpg", "{s}/{i}_mask.png"),
}
WHOLE = {
    "folders": ("images/{i}.jpg", "masks/{i}.png"),
    "suffix": ("images/{i}.jpg", "masks/{i}_mask.png"),
    "other words": ("imgs/{i}.jpg", "labels/{i}-seg.png"),
    "one folder": ("{i}.jpg", "{i}_gt.png"),
    "ISIC": ("Images/{i}.jpg", "GT/{i}_segmentation.png"),
}


def pairs(images):
    """Each image and its mask."""
    return list(zip(images.paths, images.maps, strict=True))


def draw(root, image, mask, split, count=6):
    """Images of grey i and masks whose upper half is class 1."""
    for i in range(count):
        save(root / image.format(s=split, i=i), np.full((8, 8, 3), 10 * i, np.uint8))
        values = np.zeros((8, 8), np.uint8)
        values[:4] = 1
        save(root / mask.format(s=split, i=i), values)


@pytest.mark.parametrize(("image", "mask"), LAYOUTS.values(), ids=LAYOUTS)
def test_masks_in_folders_of_splits(tmp_path, image, mask):
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        draw(tmp_path, image, mask, split, count)
    (tmp_path / "classes.txt").write_text("\ufeffbackground\r\nobject\r\n", encoding="utf-8")
    assert find_tasks(tmp_path) == ("semantic",)
    splits = open_data(tmp_path, "semantic")
    expected = [(image.format(s="train", i=i), mask.format(s="train", i=i)) for i in range(4)]
    assert pairs(splits.train) == expected and splits.notices == () and splits.classes == ("background", "object")
    assert list(splits.val.paths) == [image.format(s="val", i=i) for i in range(2)]
    assert pairs(open_split(tmp_path, "semantic", "test").images) == [
        (image.format(s="test", i=0), mask.format(s="test", i=0))
    ]
    assert splits.train.truth(3)[:, 0].tolist() == [1] * 4 + [0] * 4


@pytest.mark.parametrize(("image", "mask"), WHOLE.values(), ids=WHOLE)
def test_masks_without_splits_are_held_out_by_the_seed(tmp_path, image, mask):
    draw(tmp_path, image, mask, "")
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    assert find_tasks(tmp_path) == ("semantic",)
    splits, other = open_data(tmp_path, "semantic", 0.34), open_data(tmp_path, "semantic", 0.34, 1)
    assert "held out 2 of 6" in splits.notices[-1] and (len(splits.train), len(splits.val)) == (4, 2)
    assert {*pairs(splits.train), *pairs(splits.val)} == {(image.format(i=i), mask.format(i=i)) for i in range(6)}
    assert pairs(splits.val) != pairs(other.val)


def test_pascal_voc_is_read_with_its_lists(tmp_path):
    draw(tmp_path, "JPEGImages/{i}.jpg", "SegmentationClass/{i}.png", "")
    lists = {"train": "\ufeff0\r\n2\r\n9\r\n", "val": "1\n", "trainval": "0\n1\n2\n"}
    for split, text in lists.items():
        (tmp_path / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/Segmentation/{split}.txt").write_text(text, encoding="utf-8")
    splits = open_data(tmp_path, "semantic")
    assert find_tasks(tmp_path) == ("semantic",) and len(splits.classes) == 21
    assert list(splits.train.paths) == ["JPEGImages/0.jpg", "JPEGImages/2.jpg"]
    assert pairs(splits.val) == [("JPEGImages/1.jpg", "SegmentationClass/1.png")]
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:1,1,1::\n")
    assert open_data(tmp_path, "semantic").classes == ("background", "car")


@pytest.mark.parametrize("names", [("with_mask", "without_mask"), ("cat", "dog"), ("seg", "images")])
def test_class_folders_are_no_masks(tmp_path, names):
    for name in names:
        for split in ("train", "val"):
            save(tmp_path / split / name / "0.jpg", np.zeros((8, 8, 3), np.uint8))
    assert find_tasks(tmp_path) == ("classification",)


def test_an_image_has_the_mask_of_its_very_name(tmp_path):
    draw(tmp_path, "images/{i}.jpg", "masks/{i}.png", "", 2)
    save(tmp_path / "masks/0_mask.png", np.ones((8, 8), np.uint8))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    opened = open_split(tmp_path, "semantic", "train")
    assert pairs(opened.images)[0] == ("images/0.jpg", "masks/0.png")
    assert [one.examples[0].names for one in opened.findings] == [("masks/0_mask.png",)]


@pytest.mark.parametrize(
    ("change", "classes", "remedy"),
    [
        (lambda m: m * 255, "background\nobject\n", "`background #000000` and `object #ffffff` to classes.txt"),
        (lambda m: m * 255, "object\n", "`background #000000` and `object #ffffff` to classes.txt"),
        (lambda m: m * 0, "background\nobject\n", "show one class only, background; two or more are needed"),
        (lambda m: m * 0 + 255, "background\nobject\n", "no pixel of the train images has a class"),
    ],
)
def test_masks_of_one_class_are_refused_by_both(tmp_path, change, classes, remedy):
    for split in ("train", "val"):
        draw(tmp_path, "images/{s}/{i}.jpg", "masks/{s}/{i}.png", split)
        for path in (tmp_path / "masks" / split).iterdir():
            save(path, change(np.asarray(Image.open(path))).astype(np.uint8))
    (tmp_path / "classes.txt").write_text(classes)
    with pytest.raises(BadData, match=remedy):
        check_two_classes(open_data(tmp_path, "semantic").train, tmp_path)
    examination = examine(tmp_path, "semantic")
    if "`" in remedy:
        assert examination.spoiled and any(remedy in finding.message for finding in examination.findings)


def test_255_may_be_the_object(tmp_path):
    for split in ("train", "val"):
        draw(tmp_path, "images/{s}/{i}.jpg", "masks/{s}/{i}.png", split)
        for path in (tmp_path / "masks" / split).iterdir():
            save(path, np.asarray(Image.open(path)) * 255)
    (tmp_path / "classes.txt").write_text("background #000000\nobject #ffffff\n")
    train = open_data(tmp_path, "semantic").train
    check_two_classes(train, tmp_path)
    assert train.truth(0)[:, 0].tolist() == [1] * 4 + [0] * 4
    assert not {"zero-and-255", "one-class"} & {finding.code for finding in examine(tmp_path, "semantic").findings}
