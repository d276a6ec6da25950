"""COCO and YOLO folders: what they hold, what they share, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherbone.data.dataset import open_data
from featherbone.data.formats import open_split
from featherbone.data.formats.format import Reading
from featherbone.errors import BadData
from featherbone.ops import rle
from scenes import write_coco, write_panoptic, write_yolo

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The same scenes in both layouts."""
    folder = tmp_path_factory.mktemp("both")
    write_coco(folder / "coco", 8, 4, (48, 64))
    write_yolo(folder / "yolo", 8, 4, (48, 64))
    return folder


@pytest.fixture
def coco(drawn, tmp_path):
    shutil.copytree(drawn / "coco", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def yolo(drawn, tmp_path):
    shutil.copytree(drawn / "yolo", tmp_path / "data")
    return tmp_path / "data"


def edit(data, change, split="train"):
    """Change the json of a split."""
    path = data / f"annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_formats_hold_the_same(drawn):
    one, other = open_data(drawn / "coco", "detection"), open_data(drawn / "yolo", "detection")
    assert one.classes == other.classes and one.notices == other.notices == ()
    for mine, theirs in ((one.train, other.train), (one.val, other.val)):
        assert len(mine) == len(theirs) > 0
        negatives = 0
        for i in range(len(mine)):
            assert np.array_equal(np.asarray(mine.image(i)), np.asarray(theirs.image(i)))
            a, b = mine.truth(i), theirs.truth(i)
            np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-4)
            assert a.labels.tolist() == b.labels.tolist() and not a.crowd.any() and not b.crowd.any()
            negatives += not len(a.labels)
        assert negatives or len(mine) < 8  # every eighth scene has no things
    assert one.train.has_masks and not other.train.has_masks


def test_ids_are_mapped_once_and_kept(coco):
    numbers = {1: 90, 2: 7, 3: 18, 4: 3, 5: 1, 6: 44, 0: 2}

    def change(content):
        for category in content["categories"]:
            category["id"] = numbers[category["id"]]
        for a in content["annotations"]:
            a["category_id"] = numbers[a["category_id"]]

    before = open_data(coco, "detection")
    for split in ("train", "val"):
        edit(coco, change, split)
    after = open_data(coco, "detection")
    assert after.train.category_ids == tuple(sorted(after.train.category_ids))
    for old, new in zip(before.train.entries, after.train.entries, strict=True):
        names = [[x.classes[label] for label in y.labels] for x, y in ((before.train, old), (after.train, new))]
        assert names[0] == names[1]
        assert tuple(after.train.category_ids[label] for label in new.labels) == new.category_ids


def test_segmentations_of_every_form_and_crowds(coco):
    mask = np.zeros((48, 64), bool)
    mask[10:20, 30:50] = True
    runs = [10 + 48 * 30] + [10, 38] * 19 + [10, 48 * 64 - 48 * 49 - 20]
    forms = [[[30, 10, 50, 10, 50, 20, 30, 20]], rle.encode(mask), {"size": [48, 64], "counts": runs}]

    def change(content):
        first = content["images"][0]["id"]
        content["annotations"] = [
            {"id": i, "image_id": first, "category_id": 1, "bbox": [30, 10, 20, 10], "segmentation": form}
            for i, form in enumerate(forms)
        ]
        content["annotations"].append({**content["annotations"][0], "iscrowd": 1, "id": 9, "area": 50})

    edit(coco, change)
    images = open_data(coco, "instance").train
    objects = images.truth(0)
    assert objects.boxes.tolist() == [[30, 10, 50, 20]] * 4 and objects.crowd.tolist() == [False] * 3 + [True]
    assert objects.areas.tolist() == [200, 200, 200, 50]
    assert all((rle.decode(shape) == mask).all() for shape in objects.masks)


def test_boxes_are_cut_at_the_image_and_empty_ones_left_out(coco):
    def change(content):
        image = content["images"][0]["id"]
        boxes = [[-5, -5, 20, 20], [60, 40, 50, 50], [70, 10, 5, 5], [3, 3, 0, 9]]
        content["annotations"] = [
            {"id": i, "image_id": image, "category_id": 1, "bbox": b} for i, b in enumerate(boxes)
        ]

    edit(coco, change)
    assert open_split(coco, "detection", "train").images.truth(0).boxes.tolist() == [[0, 0, 15, 15], [60, 40, 64, 48]]


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_images_that_nobody_labelled(layout, request):
    data = request.getfixturevalue(layout)
    folder = data / ("train" if layout == "coco" else "images/train")
    Image.new("RGB", (30, 20)).save(folder / "new one.png")
    left_out = open_data(data, "detection")
    assert len(left_out.train) == 8 and "new one.png" in left_out.notices[0] and "--unlabelled" in left_out.notices[0]
    taken = open_data(data, "detection", reading=Reading(unlabelled="negative"))
    assert len(taken.train) == 9 and taken.notices == ()
    (entry,) = (e for e in taken.train.entries if e.path.endswith("new one.png"))
    assert (entry.height, entry.width, len(entry)) == (20, 30, 0)
    assert len({e.image_id for e in taken.train.entries}) == 9


def test_listed_images_may_lack_a_size_or_be_gone(coco):
    (coco / "train/00001.jpg").unlink()
    edit(coco, lambda content: [image.pop("width") for image in content["images"]])
    opened = open_data(coco, "detection")
    assert len(opened.train) == 7 and "not there" in opened.notices[0] and "00001.jpg" in opened.notices[0]
    assert {(e.height, e.width) for e in opened.train.entries} == {(48, 64)}


def test_a_split_is_held_out_where_there_is_none(coco):
    (coco / "annotations/instances_val.json").unlink()
    one, same, other = (
        open_data(coco, "detection", 0.25, 1),
        open_data(coco, "detection", 0.25, 1),
        open_data(coco, "detection", 0.25, 2),
    )
    paths = [{e.path for e in images.entries} for images in (one.train, one.val)]
    assert len(paths[1]) == 2 and not paths[0] & paths[1] and len(paths[0] | paths[1]) == 8
    assert "held out 2 of 8" in one.notices[0]
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_the_fingerprint_knows_contents_not_places(drawn, coco):
    before = open_data(coco, "detection").fingerprint()
    assert before == open_data(drawn / "coco", "detection").fingerprint()

    def change(content):
        content["annotations"][0]["bbox"][0] += 1

    edit(coco, change)
    assert open_data(coco, "detection").fingerprint() != before


def first(key, value):
    return lambda content: content["annotations"][0].update({key: value})


def test_panoptic_files_give_the_objects_that_instance_files_give(tmp_path):
    write_panoptic(tmp_path / "panoptic", 6, 2, (48, 64))
    write_coco(tmp_path / "coco", 6, 2, (48, 64))
    parted, marked = (open_data(tmp_path / name, "instance").train for name in ("panoptic", "coco"))
    assert parted.classes == marked.classes
    for i in range(len(marked)):
        one, other = parted.truth(i), marked.truth(i)
        rows = [
            sorted(zip(o.labels.tolist(), o.boxes.tolist(), (m["counts"] for m in o.masks), strict=True))
            for o in (one, other)
        ]
        assert rows[0] == rows[1]


def test_a_mask_that_cannot_be_read_is_named(coco):
    edit(coco, first("segmentation", {"size": [1, 1], "counts": "0"}))
    with pytest.raises(BadData, match=r"1 mask of 35 cannot be read; .* \(annotation 1, .* run lengths"):
        open_data(coco, "instance")
    with pytest.raises(BadData, match=r"train/00000\.jpg: the mask of annotation 1: run lengths .*; correct or rem"):
        assert open_data(coco, "detection").train.truth(0).masks


def test_without_checks_all_that_is_wrong_is_kept(coco):
    edit(coco, first("category_id", 99))
    edit(coco, lambda content: content["annotations"][1].update(image_id=10_000))
    edit(coco, lambda content: content["annotations"][2].update(bbox="none"))
    opened = open_split(coco, "detection", "train")
    assert opened.orphans == 1 and opened.images.entries[0].labels[0] == -1
    assert [error for entry in opened.images.entries for error in entry.errors if 'bbox is "none"' in error]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared photos")
@pytest.mark.parametrize(
    ("name", "train", "val", "classes", "crowds"),
    [("nuts", 14, 4, 3, 0), ("pennfudan", 120, 50, 1, 0), ("coco_cc", 26, 27, 80, 3)],
)
def test_photographs(name, train, val, classes, crowds):
    opened = open_data(SHARED / name, "instance")
    assert (len(opened.train), len(opened.val), len(opened.classes), opened.notices) == (train, val, classes, ())
    parts = [images.truth(i) for images in (opened.train, opened.val) for i in range(len(images))]
    assert sum(part.crowd.sum() for part in parts) == crowds
    gaps = []
    for part in parts:
        for box, shape, area, crowd in zip(part.boxes, part.masks, part.areas, part.crowd, strict=True):
            rows, columns = np.nonzero(rle.decode(shape))
            around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            gaps.append(np.abs(np.array(around) - box).max())
            assert crowd or abs(len(rows) - area) <= max(0.1 * area, 16)
    assert np.quantile(gaps, 0.9) <= 2  # COCO's boxes are not all drawn round their masks
