"""Every problem of masks and panoptic sets is found, named and counted, and a sound set has no findings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examined import Page, picture
from featherbone.data.dataset import inspect_data
from featherbone.data.doctor.examine import examine, examine_splits
from featherbone.data.doctor.table import blur_of
from featherbone.data.formats.format import Reading
from featherbone.report.doctor import write_doctor_page
from scenes import write_masks, write_panoptic

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
NAMES = ("sky", "oak", "pine")


@pytest.fixture
def maps(tmp_path):
    """Twelve pictures to train and four to validate, all of three classes."""
    root, seed = tmp_path / "data", 0
    for split, count in {"train": 12, "val": 4}.items():
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            seed += 1
            picture(seed).save(root / f"images/{split}/{i}.jpg")
            labels = np.zeros((80, 96), np.uint8)
            labels[20:60, 10 + seed : 40 + seed] = 1
            labels[50:70, 50:90] = 2
            Image.fromarray(labels).save(root / f"masks/{split}/{i}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "data"
    write_panoptic(folder, 12, 6, (48, 64), seed=5)
    return folder


@pytest.fixture
def parted(written, tmp_path):
    return shutil.copytree(written, tmp_path / "data")


def change(root, name, how):
    path = root / "masks" / name
    labels = np.asarray(Image.open(path)).copy()
    Image.fromarray(how(labels)).save(path)


def every(root, how):
    for path in sorted((root / "masks").rglob("*.png")):
        change(root / "masks", path, how)


def codes(examination, *severities):
    return {f.code for f in examination.findings if f.severity in (severities or ("error", "warning"))}


def found(examination, code):
    return next(f for f in examination.findings if f.code == code)


def edit(data, how, split="train"):
    path = data / f"annotations/panoptic_{split}.json"
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


def test_sound_masks_have_no_findings(maps):
    examination = examine(maps, "semantic")
    assert not codes(examination) and not examination.spoiled
    assert examination.classes == NAMES and examination.counts == {"train": (12,) * 3, "val": (4,) * 3}


def test_values_that_are_no_class_are_shown(maps):
    def spoil(labels):
        labels[:5, :5] = 9
        return labels

    change(maps, "train/3.png", spoil)
    examination = examine(maps, "semantic")
    finding = found(examination, "unknown-values")
    assert finding.severity == "error" and finding.count == 1 and "not a class: 9;" in finding.message
    assert finding.examples[0].note == "25 pixels of 1 unknown value" and finding.examples[0].pictures[0]
    assert not codes(examine(maps, "semantic", reading=Reading(ignore_index=9)))


def test_smooth_borders_are_reported(maps):
    (maps / "classes.txt").write_text("\n".join((*NAMES, "extra")))
    every(maps, lambda labels: np.where(labels == 2, 3, labels).astype(np.uint8) * 40)
    every(maps, lambda labels: np.asarray(Image.fromarray(labels).resize((48, 40), 2).resize((96, 80), 2)))
    examination = examine(maps, "semantic")
    assert found(examination, "smooth-borders").count == 16
    labels = np.zeros((4, 9), np.int32)
    labels[:, 5:] = 2
    assert blur_of(labels) == 0
    labels[:, 4] = 1
    assert blur_of(labels) == 0.5


def test_zero_and_255_are_not_two_classes(maps):
    every(maps, lambda labels: (labels > 0).astype(np.uint8) * 255)
    finding = found(examine(maps, "semantic"), "zero-and-255")
    assert finding.severity == "error" and finding.count == 16 and "save 1" in finding.message


def test_sizes_files_and_pairs(maps):
    change(maps, "train/0.png", lambda labels: labels[:-1])
    (maps / "masks/train/1.png").write_bytes(b"no")
    (maps / "masks/train/2.png").unlink()
    (maps / "images/val/3.jpg").unlink()
    (maps / "images/train/4.jpg").write_bytes(b"no")
    examination = examine(maps, "semantic")
    expected = {"size-mismatch", "unreadable-map", "unmapped-in-train", "orphans-in-val", "unreadable"}
    assert expected <= codes(examination)
    assert all(found(examination, code).count == 1 for code in expected)
    assert found(examination, "size-mismatch").examples[0].note == "96 x 80, its map 96 x 79"
    assert found(examination, "unreadable-map").examples[0].names == ("images/train/1.jpg",)


def test_classes_that_are_not_there(maps):
    for path in (maps / "masks/train").iterdir():
        change(maps, f"train/{path.name}", lambda labels: np.where(labels == 2, 0, labels).astype(np.uint8))
    (maps / "classes.txt").write_text("\n".join((*NAMES, "elm")))
    examination = examine(maps, "semantic")
    assert found(examination, "class-only-in-val").examples[0].names == ("pine",)
    assert found(examination, "empty-class").examples[0].names == ("elm",)


def test_void_is_measured(maps):
    change(maps, "train/0.png", lambda labels: np.full_like(labels, 255))
    change(maps, "train/1.png", lambda labels: np.where(np.arange(96) < 72, 255, labels).astype(np.uint8))
    examination = examine(maps, "semantic")
    assert found(examination, "all-void").examples[0].names == ("images/train/0.jpg",)
    assert found(examination, "much-void").examples[0].note == "75% unlabelled"
    assert found(examination, "void").message.startswith(f"{1.75 / 16:.1%} of the pixels")


def test_copies_with_other_maps_and_leaks(maps):
    for place in ("train/1", "val/0"):
        (maps / f"images/{place}.jpg").write_bytes((maps / "images/train/0.jpg").read_bytes())
    (maps / "masks/val/0.png").write_bytes((maps / "masks/train/0.png").read_bytes())
    change(maps, "train/1.png", lambda labels: 2 - labels)
    examination = examine(maps, "semantic")
    assert {"leakage", "copies-mapped-differently"} <= codes(examination)


def test_colours_need_a_table(maps):
    every(maps, lambda labels: np.stack([labels * 50, labels, labels], -1))
    assert found(examine(maps, "semantic"), "colours-unknown").severity == "error"
    table = [f"{name} {50 * i} {i} {i}" for i, name in enumerate(NAMES)]
    (maps / "classes.txt").write_text("\n".join(table))
    assert not codes(examine(maps, "semantic"))


def test_drawn_masks_and_a_page(tmp_path):
    write_masks(tmp_path / "data", 20, 8, (48, 48))
    examination = examine(tmp_path / "data", "semantic")
    assert not examination.spoiled
    write_doctor_page(examination, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert not page.open and all(address.startswith("data:") for address in page.addresses)


def test_sound_panoptic_sets_have_no_findings(parted):
    examination = examine(parted, "panoptic")
    assert not examination.spoiled and not codes(examination) - {"few-images", "class-missing-in-val", "leakage"}


def first_segment(content):
    return next(a for a in content["annotations"] if a["segments_info"])["segments_info"][0]


@pytest.mark.parametrize(
    ("how", "code", "severity"),
    [
        (lambda c: c["annotations"][0]["segments_info"].pop(0), "unlisted-ids", "error"),
        (lambda c: c["annotations"][0]["segments_info"].append({"id": 999, "category_id": 1}), "absent-segments", None),
        (lambda c: first_segment(c).update(category_id=99), "unknown-class", "error"),
        (lambda c: first_segment(c).update(area=1), "area-mismatch", "warning"),
        (lambda c: first_segment(c).update(bbox=[0, 0, 1, 1]), "box-mismatch", "warning"),
        (lambda c: c["categories"][0].update(isthing=1 - c["categories"][0]["isthing"]), "isthing-differs", "error"),
        (lambda c: c["categories"][0].update(name="other"), "classes-differ", "error"),
        (lambda c: c["annotations"][0]["segments_info"].append(first_segment(c)), "repeated-ids", "error"),
        (lambda c: c["annotations"][0].update(file_name="no.png"), "missing-in-train", None),
        (lambda c: c.pop("images"), "unreadable-split", "error"),
        (lambda c: [c["annotations"][0]["segments_info"][0].update(iscrowd=1)], "crowds", "note"),
    ],
)
def test_what_a_panoptic_json_says_is_checked(parted, how, code, severity):
    edit(parted, how)
    finding = found(examine(parted, "panoptic"), code)
    assert finding.count >= 1 and (severity is None or finding.severity == severity)


def test_several_segments_of_one_stuff_are_reported(parted):
    """Where all classes are stuff, two circles are two segments of it."""
    for split in ("train", "val"):
        edit(parted, lambda c: [category.update(isthing=0) for category in c["categories"]], split)
    examination = examine(parted, "panoptic")
    assert {"several-stuff", "no-things-in-train", "no-things-in-val"} <= codes(examination)
    assert found(examination, "no-things-in-train").severity == "error"


def test_a_map_of_another_size_is_reported(parted):
    path = next((parted / "panoptic_train").iterdir())
    Image.open(path).crop((0, 0, 30, 30)).save(path)
    assert found(examine(parted, "panoptic"), "size-mismatch").count == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="real pictures are not there")
def test_real_sets():
    examination = examine(SHARED / "coco_cc", "panoptic")
    assert codes(examination, "error") == set() and "class-only-in-val" in codes(examination, "warning")
    assert found(examination, "crowds").count == 3 and found(examination, "grey").count == 1
    splits, findings = inspect_data(SHARED / "camvid", "semantic")
    some = {split: images.take(range(0, len(images), 24)) for split, images in splits.items()}
    assert not examine_splits("camvid", some, "semantic", findings=findings).spoiled
