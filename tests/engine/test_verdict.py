"""Training refuses a data set exactly where the doctor finds an error that needs no look at the pictures."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from examined import picture
from featherbone.commands import doctor
from featherbone.data.formats import find_task
from featherbone.data.skipped import Reader, Unreadable
from featherbone.engine.job import Job
from featherbone.engine.settings import complete
from featherbone.errors import BadData, FeatherboneError
from scenes import write_coco, write_masks, write_panoptic, write_yolo

PICTURES = {
    *("unreadable", "leakage", "label-conflict", "unreadable-map", "size-mismatch", "annotated-sideways"),
    *("smooth-borders", "box-off-mask", "empty-mask", "absent-segments", "unknown-values"),
}
"""Errors that only the doctor finds, for it compares pictures, or that training skips image by image."""


def read_all(job: Job) -> None:
    """Meet what training meets until it has read every image."""
    for split, images in job.splits.items():
        reader = Reader(images, 0, training=False)
        for index in range(len(images)):
            with suppress(Unreadable):
                reader(0, index)
            job.skip(split, reader.take_met())


def agree(data: Path, task: str, out: Path, **reading) -> str:
    """The message of training, "" if it starts, after the doctor came to the same verdict."""
    try:
        findings = doctor(data, task=task, out=out, **reading).examination.findings
        found = {one.code for one in findings if one.severity == "error"} - PICTURES
    except FeatherboneError as error:
        found = {str(error)}
    try:
        read_all(Job(find_task(data, task), data, complete(task=task, workers=0, **reading)))
        refusal = ""
    except FeatherboneError as error:
        refusal = str(error)
    assert bool(refusal) == bool(found), (refusal, found)
    return refusal


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_classes(root: Path, splits=(("train", 4), ("val", 2)), classes=("oak", "pine")) -> Path:
    for i, (split, count) in enumerate(splits):
        for k, name in enumerate(classes):
            for n in range(count):
                save(root / split / name / f"{n}.png", picture(1000 * i + 100 * k + n, (24, 24)))
    return root


def parquet(labels, names=None):
    """A change that puts Parquet in the place of the folders."""

    def change(root):
        content = (root / "train/oak/0.png").read_bytes()
        images = pa.array([{"bytes": content, "path": ""}] * len(labels))
        shutil.rmtree(root / "train")
        shutil.rmtree(root / "val")
        pq.write_table(pa.table({"image": images, "label": labels}), root / "train.parquet")
        if names:
            (root / "classes.txt").write_text("\n".join(names))

    return change


def empty(*patterns):
    return lambda root: [path.write_bytes(b"") for pattern in patterns for path in root.glob(pattern)]


def remove(*patterns):
    """A change that removes files and folders."""

    def change(root):
        for path in [path for pattern in patterns for path in root.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def move(*pairs):
    """A change of names."""

    def change(root):
        for old, new in pairs:
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            (root / old).rename(root / new)

    return change


CLASSES = [
    (lambda root: None, ""),
    (remove("val"), ""),
    (remove("val", "train/*/[1-9].png"), "none of 2 training images can be held out"),
    (remove("val", "train/pine", "train/oak/[1-9].png"), "can be held out"),
    (remove("*/pine"), "one class only, oak"),
    (remove("train/pine/*"), "one class only, oak"),
    (remove("*/pine/*"), "one class only, oak"),
    (remove("val/*/*"), "no image in the validation split"),
    (remove("val/pine"), ""),
    (move(("val/pine", "val/Pine")), "1 class in validation only.*: Pine"),
    (move(("train", "Training"), ("val", "Testing")), ""),
    (move(("train", "first"), ("val", "second")), "have the same subfolders"),
    (move(("train/oak", "train/images"), ("train/pine", "train/masks")), "serves semantic, not classification"),
    (remove("train"), "no training images"),
    (
        lambda root: empty("train/pine/*")(write_classes(root, (("train", 6), ("val", 2)))),
        "5 of 12 train images cannot",
    ),
    (empty("val/*/*"), "none of 4 val images tried can be read"),
    (empty("train/pine/0.png"), ""),
    (lambda root: save(root / "train/loose.png", picture(7)), ""),
    (parquet([0, 1] * 4), ""),
    (parquet([0] * 7 + [2**40]), "number the classes from 0"),
    (parquet([1, 2] * 4), "labels run from 1 to 2"),
    (parquet([0, 1, -1] * 3), "labels run from -1"),
    (parquet([0, 1, 5] * 3, ["oak", "pine"]), "labels run from 0 to 5"),
    (parquet([0, None] * 4), "4 rows without a label"),
    (parquet(["oak", "pine"] * 4), ""),
    (parquet(["oak"] * 8), "one class only"),
]


@pytest.mark.parametrize(("change", "message"), CLASSES)
def test_classes(tmp_path, change, message):
    change(write_classes(tmp_path / "data"))
    check(tmp_path, "classification", message)


def check(tmp_path: Path, task: str, message: str, **reading) -> None:
    refusal = agree(tmp_path / "data", task, tmp_path / "page.html", **reading)
    if message:
        with pytest.raises(BadData, match=message):
            raise BadData(refusal)
    else:
        assert not refusal


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A set of each layout."""
    folder = tmp_path_factory.mktemp("drawn")
    for name, write in (("coco", write_coco), ("yolo", write_yolo), ("masks", write_masks), ("parts", write_panoptic)):
        write(folder / name, 8, 4, (48, 64), seed=3)
    return folder


def edit(how, split="train", kind="instances"):
    """A change of a COCO file."""

    def change(root):
        path = root / f"annotations/{kind}_{split}.json"
        content = json.loads(path.read_text())
        how(content)
        path.write_text(json.dumps(content))

    return change


def both(*changes):
    return lambda root: [change(root) for change in changes]


def first(**fields):
    return edit(lambda content: content["annotations"][0].update(fields))


def every(how, **where):
    return edit(lambda content: [how(annotation) for annotation in content["annotations"]], **where)


def scale(annotation):
    annotation["bbox"] = [side / 64 for side in annotation["bbox"]]


def to_corners(annotation):
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [x, y, x + w, y + h]


def lose(count):
    return edit(lambda content: [image.update(file_name="no.jpg") for image in content["images"][:count]])


def keep(count, kind="instances"):
    """Without validation, and of training the first images only."""

    def change(content):
        content["images"] = content["images"][:count]
        known = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in known]

    return both(edit(change, kind=kind), remove(f"annotations/{kind}_val.json"))


OBJECTS = [
    (lambda root: None, ""),
    (remove("annotations/instances_val.json"), ""),
    (keep(1), "none of 1 training image can be held out"),
    (keep(2), ""),
    (first(bbox=None), ""),  # its mask has it
    (first(bbox=None, segmentation=None), "1 annotation of .* cannot be read"),
    (first(bbox=[1, 1, 0, 5]), "without width or height"),
    (first(bbox=[900, 900, 5, 5]), "wholly outside the image"),
    (first(category_id=99), "class ids that are not listed: 99"),
    (first(image_id=10_000), "of an image that is not listed"),
    (first(segmentation=None), ""),
    (first(segmentation=[[1, 2]]), ""),
    (lose(1), ""),
    (lose(8), "8 images of 8 listed for train but not there"),
    (every(scale), "every box is between 0 and 1"),
    (every(to_corners), "look like x1 y1 x2 y2|outside|beyond"),
    (edit(lambda content: content.update(annotations=[])), "no object on any of 8 images of train"),
    (edit(lambda content: content.update(annotations=[]), split="val"), "no object on any of 4 images of val"),
    (every(lambda annotation: annotation.update(iscrowd=1)), "no object on any of 8 images of train"),
    (edit(lambda content: content["categories"][0].update(name="other")), "training images do not list|same in both"),
    (edit(lambda content: content.pop("images")), "images"),
    (edit(lambda content: content["images"].extend(content["images"])), "given to two images"),
    (
        edit(lambda c: c["images"].extend([image | {"id": 900 + image["id"]} for image in c["images"]])),
        "listed more than once",
    ),
    (empty("train/0000[0-3].jpg"), ""),
    (empty("val/*.jpg"), "none of 4 val images tried can be read"),
]


@pytest.mark.parametrize(("change", "message"), OBJECTS)
def test_objects(drawn, tmp_path, change, message):
    shutil.copytree(drawn / "coco", tmp_path / "data")
    change(tmp_path / "data")
    check(tmp_path, "detection", message)


MASKS_OF_OBJECTS = [
    (lambda root: None, ""),
    (first(segmentation=None), "1 object of .* without a mask"),
    (first(segmentation=None, iscrowd=1), ""),
    (first(segmentation=[[1, 2]]), "1 mask of .* cannot be read"),
    (first(segmentation={"size": [1, 1], "counts": "0"}), "1 mask of .* cannot be read"),
]


@pytest.mark.parametrize(("change", "message"), MASKS_OF_OBJECTS)
def test_masks_of_objects(drawn, tmp_path, change, message):
    shutil.copytree(drawn / "coco", tmp_path / "data")
    change(tmp_path / "data")
    check(tmp_path, "instance", message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", ""),
        ("0 0.5 0.5 0.2 0.2 0.98", "cannot be read.*six values"),
        ("0,0.5,0.5,0.2,0.2", "cannot be read.*commas"),
        ("0 nan 0.5 0.1 0.1", "cannot be read.*not a number"),
        ("99 0.5 0.5 0.1 0.1", "class ids that are not listed: 99"),
        ("0 0.5 0.5 0 0.1", "without width or height"),
    ],
)
def test_lines_of_yolo(drawn, tmp_path, line, message):
    shutil.copytree(drawn / "yolo", tmp_path / "data")
    (tmp_path / "data/labels/train/00000.txt").write_text(line)
    check(tmp_path, "detection", message)


def paint(pattern, how):
    """A change of the masks of that pattern."""

    def change(root):
        for path in root.glob(pattern):
            save(path, Image.fromarray(how(np.asarray(Image.open(path)).copy())))

    return change


def test_a_value_is_ignored_by_both(drawn, tmp_path):
    shutil.copytree(drawn / "masks", tmp_path / "data")
    paint("masks/train/00000.png", lambda v: np.where(np.arange(v.shape[1]) < 5, 77, v).astype(np.uint8))(
        tmp_path / "data"
    )
    for reading, skipped in (({}, ["images/train/00000.jpg"]), ({"ignore_index": 77}, [])):
        check(tmp_path, "semantic", "", **reading)
        job = Job("semantic", tmp_path / "data", complete(task="semantic", **reading))
        read_all(job)
        assert list(job.skipped) == skipped and all("value 77" in reason for reason in job.skipped.values())


MAPS = [
    (lambda root: None, ""),
    (remove("masks/val", "images/val"), ""),
    (remove("masks/val", "images/val", "images/train/*[1-9].*", "masks/train/*[1-9].png"), "can be held out"),
    (remove("masks/train/00000.png"), ""),
    (remove("masks/train/0000[0-6].png"), "7 of 8 images for train without a mask"),
    (paint("masks/train/*", lambda v: np.full_like(v, 255)), "no pixel of the train images has a class"),
    (paint("masks/val/*", lambda v: np.full_like(v, 255)), "no pixel of the val images has a class"),
    (paint("masks/train/*", np.zeros_like), "one class only"),
    (paint("masks/*/*", lambda v: (v > 6).astype(np.uint8) * 255), "0 and 255"),
    (paint("masks/train/*", lambda v: np.stack([v * 20] * 3, -1)), "colour"),
    (paint("masks/val/*", lambda v: v[:-1]), "none of 4 val images tried can be read"),
    (empty("masks/val/*"), "none of the val maps can be read"),
]


@pytest.mark.parametrize(("change", "message"), MAPS)
def test_maps(drawn, tmp_path, change, message):
    shutil.copytree(drawn / "masks", tmp_path / "data")
    change(tmp_path / "data")
    check(tmp_path, "semantic", message)


def segments(how, split="train"):
    """A change of the segments of a panoptic file."""
    return edit(
        lambda content: [how(row) for a in content["annotations"] for row in a["segments_info"]], split, "panoptic"
    )


def categories(how, split="train"):
    return edit(lambda content: [how(category) for category in content["categories"]], split, "panoptic")


def split_things(category):
    category["isthing"] = 1 - category["isthing"]


PARTS = [
    (lambda root: None, "panoptic", ""),
    (lambda root: None, "detection", ""),
    (lambda root: None, "semantic", ""),
    (segments(lambda row: row.pop("bbox", None)), "detection", ""),
    (segments(lambda row: row.pop("bbox", None)), "instance", ""),
    (segments(lambda row: row.update(category_id=99)), "panoptic", "category that is not listed"),
    (segments(lambda row: row.update(id=7)), "panoptic", "id given to two segments|does not list"),
    (both(*(categories(lambda c: c.update(isthing=0), s) for s in ("train", "val"))), "panoptic", "no things"),
    (both(*(categories(lambda c: c.update(isthing=0), s) for s in ("train", "val"))), "semantic", ""),
    (both(*(categories(lambda c: c.update(isthing=0), s) for s in ("train", "val"))), "detection", "no thing on an"),
    (both(*(categories(lambda c: c.update(isthing=1), s) for s in ("train", "val"))), "panoptic", ""),
    (categories(split_things), "panoptic", "a thing in one split and stuff in the other"),
    (categories(lambda c: c.update(name=c["name"] + "s")), "panoptic", "list the same in both"),
    (
        edit(lambda c: [a.update(segments_info=[]) for a in c["annotations"]], "train", "panoptic"),
        "panoptic",
        "not list",
    ),
    (remove("panoptic_train/0000[0-6].png"), "panoptic", "7 of 8 images and maps listed"),
    (remove("panoptic_train/00000.png"), "panoptic", ""),
    (keep(1, "panoptic"), "panoptic", "can be held out"),
]


@pytest.mark.parametrize(("change", "task", "message"), PARTS)
def test_segments(drawn, tmp_path, change, task, message):
    shutil.copytree(drawn / "parts", tmp_path / "data")
    change(tmp_path / "data")
    check(tmp_path, task, message)
