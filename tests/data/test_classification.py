"""Folders and Parquet files open alike, and what would spoil training is refused with a remedy."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from featherbone.data.dataset import open_data
from featherbone.data.formats import open_split
from featherbone.data.split import hold_out
from featherbone.errors import BadData, BadImage

CLASSES = ("ash", "birch", "cedar")
SIZES = {"train": 4, "val": 2}
FEW = (
    "3 classes with fewer than 10 training images; add more or join classes: ash (4 images), birch (4 images), "
    "cedar (4 images)"
)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def value(split: str, label: int, index: int) -> int:
    return 100 * (split == "val") + 10 * label + index


def write_folder(root, splits=("train", "val")):
    for split in splits:
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(SIZES[split]):
                (root / split / name / f"{index}.png").write_bytes(png(value(split, label, index)))
    return root


def write_parquet(root, files=("train.parquet", "val.parquet"), first=0, metadata=None):
    for file in files:
        split = "train" if file.startswith("train") else "val"
        rows = [(label, index) for label in range(len(CLASSES)) for index in range(SIZES[split])]
        images = [{"bytes": png(value(split, *row)), "path": None} for row in rows]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {"image": pa.array(images, kind), "label": [label + first for label, _ in rows]}
        table = pa.table(columns)
        pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, root / file)
    return root


def contents(images) -> list[tuple[int, str]]:
    """Grey value and class name of every image."""
    pairs = zip(range(len(images)), images.labels.tolist(), strict=True)
    return [(images.image(i).getpixel((0, 0))[0], images.classes[label]) for i, label in pairs]


def opened(data, split="train"):
    """The images of a split."""
    return open_split(data, "classification", split).images


def sizes(data):
    """Numbers of training and validation images."""
    splits = open_data(data, "classification")
    return [len(splits.train), len(splits.val)]


def test_folder_and_parquet_give_the_same_images(tmp_path):
    folder, parquet = tmp_path / "folder", tmp_path / "parquet"
    parquet.mkdir()
    (parquet / "classes.txt").write_text("\n".join(CLASSES))
    both = [open_data(write_folder(folder), "classification"), open_data(write_parquet(parquet), "classification")]
    for split, size in SIZES.items():
        expected = [(value(split, k, i), CLASSES[k]) for k in range(len(CLASSES)) for i in range(size)]
        for splits in both:
            images = getattr(splits, split)
            assert contents(images) == expected
            assert contents(images.take([3, 0])) == [expected[3], expected[0]]
            assert len(images.take([])) == 0
            assert [Image.open(io.BytesIO(images.encoded(i))).getpixel((0, 0))[0] for i in (0, 1)] == [
                grey for grey, _ in expected[:2]
            ]
    assert both[0].classes == both[1].classes == CLASSES
    assert both[0].notices == both[1].notices == ()
    assert both[0].warnings == both[1].warnings == (FEW,)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_names_of_the_validation_split(tmp_path, name):
    folder, parquet = write_folder(tmp_path / "folder"), tmp_path / "parquet"
    (folder / "val").rename(folder / name)
    parquet.mkdir()
    write_parquet(parquet, ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", f"{name}-00000.parquet"))
    assert sizes(folder) == [12, 6]
    assert sizes(parquet) == [24, 6]  # each file once


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("Train", "Test"), ("seg_train", "seg_test"), ("train_set", "test_set")],
)
def test_splits_by_other_names_are_not_classes_and_test_is_neither_trained_on_nor_validated_on(tmp_path, train, test):
    write_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / train)
    (tmp_path / "val").rename(tmp_path / test)
    splits = open_data(tmp_path, "classification")
    assert splits.classes == CLASSES and (len(splits.train), len(splits.val)) == (9, 3)
    assert {name.split("/")[0] for name in (*splits.train.paths, *splits.val.paths)} == {train}
    assert {name.split("/")[0] for name in opened(tmp_path, "test").paths} == {test}


def test_parquet_classes_come_from_hugging_face_metadata_or_are_numbers(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    features = {"info": {"features": {"label": {"names": list(CLASSES)}}}}
    assert (
        open_data(
            write_parquet(tmp_path / "a", metadata={"huggingface": json.dumps(features)}), "classification"
        ).classes
        == CLASSES
    )
    assert open_data(write_parquet(tmp_path / "b"), "classification").classes == ("0", "1", "2")


def test_without_validation_some_of_each_class_is_held_out(tmp_path):
    write_folder(tmp_path, ["train"])
    everything = sorted(contents(opened(tmp_path)))
    held_out = []
    for splits_folder in (True, False):
        if not splits_folder:  # the classes alone
            for name in CLASSES:
                shutil.move(tmp_path / "train" / name, tmp_path / name)
            (tmp_path / "train").rmdir()
        splits = open_data(tmp_path, "classification", val_share=0.25)
        assert np.bincount(splits.train.labels).tolist() == [3, 3, 3]
        assert np.bincount(splits.val.labels).tolist() == [1, 1, 1]
        assert splits.notices[-1] == "no validation split: held out 3 of 12 images"
        held_out.append(contents(splits.val))
        assert sorted(contents(splits.train) + held_out[-1]) == everything
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_holding_out_divides_every_class_and_leaves_some_of_each(tmp_path, share):
    images = opened(write_folder(tmp_path))
    images = images.take([0, 1, 2, 3, 4, 5, 8])  # 4, 2 and 1
    train, val = hold_out(images, share, seed=3)
    assert sorted([*train.paths, *val.paths]) == sorted(images.paths)
    assert (np.bincount(train.labels, minlength=3) >= 1).all()
    assert np.bincount(val.labels, minlength=3).tolist() == [min(max(round(4 * share), 1), 3), 1, 0]
    assert [*hold_out(images, share, seed=3)[1].paths] == [*val.paths]
    assert any([*hold_out(images, share, seed)[1].paths] != [*val.paths] for seed in range(4, 12))


def test_fingerprint_follows_names_labels_and_splits_not_the_place(tmp_path):
    first = open_data(write_folder(tmp_path / "here"), "classification").fingerprint()
    copied = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "here", copied)
    assert open_data(copied, "classification").fingerprint() == first
    seen = {first}
    for source, target in (("train/ash/0.png", "train/ash/zero.png"), ("train/birch/0.png", "train/cedar/b.png")):
        (copied / source).rename(copied / target)
        seen.add(open_data(copied, "classification").fingerprint())
    seen |= {
        open_data(write_folder(tmp_path / "flat", ["train"]), "classification", seed=seed).fingerprint()
        for seed in (0, 1)
    }
    assert len(seen) == 5


def test_what_was_left_out_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train/ash/notes.txt").touch()
    (tmp_path / "val/ash/sub").mkdir()
    (tmp_path / "val/ash/sub/deep.PNG").write_bytes(png(7))
    for hidden in ("train/ash/.DS_Store", "train/ash/.checkpoints/0.png", "train/.git/0.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(png(9))
    shutil.rmtree(tmp_path / "val/cedar")
    splits = open_data(tmp_path, "classification")
    assert (len(splits.train), len(splits.val)) == (12, 5)
    assert splits.notices == (
        "1 file in class folders not named like pictures, skipped; remove or convert them: train/ash/notes.txt",
    )
    assert splits.warnings == (
        "1 class without a validation image, so not evaluated; add some: cedar (4 images)",
        FEW,
    )


def test_what_spoils_training_is_refused_with_a_remedy(tmp_path):
    def refused(remedy):
        with pytest.raises(BadData, match=remedy):
            open_data(tmp_path, "classification")

    (tmp_path / "train").mkdir()
    refused("no training images; the layouts are\n  classification   train/CLASS")
    write_folder(tmp_path)
    (tmp_path / "train/elm").mkdir()
    refused("1 class without a readable image; add some or remove the class: elm")
    (tmp_path / "train/elm").rmdir()
    (tmp_path / "val/birch").rename(tmp_path / "val/Birch")
    refused("1 class in validation only; add training images or remove them: Birch")
    with pytest.raises(BadData, match=r"class 'Birch' is none of the run's classes .*; did you mean birch"):
        opened(tmp_path, "val").named(CLASSES)
    (tmp_path / "val/Birch").rename(tmp_path / "val/birch")
    for name in CLASSES[1:]:
        shutil.rmtree(tmp_path / "train" / name)
        shutil.rmtree(tmp_path / "val" / name)
    refused("training images of one class only, ash; two or more are needed, one folder per class")


def test_masks_beside_images_are_not_images_of_the_class(tmp_path):
    write_folder(tmp_path, ["train"])
    for image in sorted((tmp_path / "train").glob("*/*.png")):
        image.with_name(f"{image.stem}_mask.png").write_bytes(png(5))
    with pytest.raises(
        BadData, match=r"12 of 24 files in class folders are masks of the others, as train/ash/.*_mask;"
    ):
        open_data(tmp_path, "classification")
    for image in (tmp_path / "train").glob("*/*_mask.png"):
        image.unlink()
    assert len(open_data(tmp_path, "classification").train)


def test_parquet_labels_are_checked(tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    write_parquet(tmp_path, first=1)
    with pytest.raises(BadData, match="labels run from 1 to 3; they start at 0, so subtract 1"):
        open_data(tmp_path, "classification")
    assert opened(tmp_path).labels.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    image = pa.array([{"bytes": png(0), "path": ""}] * 2)
    for labels, reason in (
        ([0, None], "1 rows without a label; add the labels"),
        ([0.5, 1.0], "truncated"),
        ([[0], [1]], "several labels an image"),
        ([True, False], "labels of type bool; write whole numbers or names"),
        ([0, -1], "labels run from -1 to 0, but 3 class names allow 0 to 2"),
        ([0, 2**40], "labels run from 0 to 1099511627776, but 3 class names"),
    ):
        pq.write_table(pa.table({"image": image, "label": labels}), tmp_path / "train.parquet")
        with pytest.raises(BadData, match=reason):
            open_data(tmp_path, "classification")
    for content in (b"", b"PAR1 but no more"):
        (tmp_path / "train.parquet").write_bytes(content)
        with pytest.raises(BadData, match=r"train\.parquet: not Parquet with columns"):
            open_data(tmp_path, "classification")


def test_a_huge_label_makes_no_names(tmp_path):
    image = pa.array([{"bytes": png(0), "path": ""}] * 8)
    for label in (2**40, 8):
        pq.write_table(pa.table({"image": image, "label": [label] + [0] * 7}), tmp_path / "train.parquet")
        with pytest.raises(BadData, match=f"a label of {label:,} on one of 8 images; number the classes from 0"):
            open_data(tmp_path, "classification")


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def column(**columns):
    """Eight rows of pictures with the columns given."""
    image = pa.array([{"bytes": png(i), "path": ""} for i in range(8)])
    return pa.table({"image": image} | columns)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (column(fine_label=[0, 1] * 4, coarse_label=[0] * 8), "fine_label and coarse_label may be the label; rename"),
        (column(kind=[0, 1] * 4), "no label among the columns image, kind; add one called label"),
        (pa.table({"path": ["a"] * 4, "label": [0, 1] * 2}), r"image \{bytes, path\}.*it has path string"),
        (pa.table({"a": [b"x"] * 4, "b": [b"y"] * 4, "label": [0, 1] * 2}), "a and b hold pictures; rename"),
        (
            pa.table({"image": pa.array([{"bytes": None, "path": "a"}] * 4, IMAGE), "label": [0] * 4}),
            "no picture is in column image, only paths",
        ),
    ],
)
def test_columns_that_may_mean_anything_are_refused(tmp_path, table, reason):
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(BadData, match=reason):
        open_data(tmp_path, "classification")


def test_labels_may_be_text_and_files_as_hugging_face_names_them(tmp_path):
    names = ["oak", "pine"] * 4
    for folder, file, table in (
        ("data", "train-00000-of-00001-a09b74b3ef9c3b56.parquet", column(label=names)),
        ("train", "0000.parquet", column(label=pa.array(names).dictionary_encode())),
        (".", "training.parquet", column(label=names, coarse_label=[0] * 8)),
        (".", "train_a.parquet", column(fine_label=names)),
    ):
        root = tmp_path / file
        (root / folder).mkdir(parents=True)
        pq.write_table(table, root / folder / file)
        images = opened(root)
        assert images.classes == ("oak", "pine") and images.labels.tolist() == [0, 1] * 4
        pq.write_table(column(label=["elm"] * 8), root / folder / file)
        with pytest.raises(BadData, match="class 'elm' is none of the run's classes oak, pine"):
            opened(root).named(("oak", "pine"))
    for folder in ("a", "b"):
        (tmp_path / "two" / folder).mkdir(parents=True)
        pq.write_table(column(label=names), tmp_path / "two" / folder / "train.parquet")
    with pytest.raises(BadData, match="Parquet files for train in a and b; pass the folder of one set"):
        open_data(tmp_path / "two", "classification")


def test_names_of_windows_have_no_mark_and_no_carriage_return(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(CLASSES).encode() + b"\r\n")
    assert open_data(write_parquet(tmp_path), "classification").classes == CLASSES


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("place", ["train", ""])
def test_metadata_names_the_classes(tmp_path, kind, place):
    write_folder(tmp_path)
    paths = sorted((tmp_path / "train").rglob("*.png")) + sorted((tmp_path / "val").rglob("*.png"))
    for folder in ("train", "val") if place else ("",):
        top = tmp_path / folder
        rows = [(p.relative_to(top).as_posix(), p.parent.name.upper()) for p in paths if p.is_relative_to(top)]
        if kind == "csv":
            text = "\ufefffile_name,label\r\n" + "".join(f"{path},{label}\r\n" for path, label in rows)
        else:
            text = "".join(json.dumps({"file_name": path, "label": label}) + "\n" for path, label in rows)
        (top / f"metadata.{kind}").write_bytes(text.encode())
    splits = open_data(tmp_path, "classification")
    assert splits.classes == ("ASH", "BIRCH", "CEDAR") and (len(splits.train), len(splits.val)) == (12, 6)
    assert [name.lower() for _, name in contents(splits.val)] == [p.parent.name for p in paths[12:]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"file_name": "a.png", "label": "x"}\n{', "line 2: not JSON"),
        ("[1]", "line 1: '.1.'; write an object"),
        ('{"label": "x"}', "line 1: no file_name"),
        ('{"file_name": "a.png", "text": "x"}', "no label among the columns file_name, text"),
        ('{"file_name": "a.png", "objects": {"bbox": []}}', "objects with boxes.*convert them to COCO"),
        ('{"file_name": "../a.png", "label": "x"}', "leads out of the folder"),
        ('{"file_name": "no.png", "label": "x"}', r"line 1: there is no no.png \(1 of 1"),
        ('{"file_name": "a.png", "label": null}', "label None; write the name or the number"),
        (
            '{"file_name": "a.png", "label": "x"}\n{"file_name": "a.png", "label": 1}',
            "numbers and labels that are",
        ),
        ("[" * 100_000, "line 1: not JSON"),
    ],
)
def test_metadata_is_refused_by_line(tmp_path, text, reason):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.png").write_bytes(png(0))
    (tmp_path / "train/metadata.jsonl").write_text(text)
    with pytest.raises(BadData, match=f"train/metadata.jsonl.*{reason}"):
        open_data(tmp_path, "classification")


def test_nothing_to_hold_out_is_refused(tmp_path):
    for name in CLASSES[:2]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(0))
    with pytest.raises(BadData, match=r"none of 2 training images can be held out.*add images, or a val split"):
        open_data(tmp_path, "classification")


def test_an_unreadable_image_is_called_by_its_place(tmp_path):
    splits = open_data(write_folder(tmp_path / "folder"), "classification")
    (tmp_path / "folder/train/birch/1.png").write_bytes(b"")
    with pytest.raises(BadImage, match=r"^train/birch/1\.png: an empty file"):
        splits.train.image(5)
    pq.write_table(
        pa.table({"image": [{"bytes": png(0)}, {"bytes": None}], "label": [0, 1]}), tmp_path / "train.parquet"
    )
    images = opened(tmp_path)
    with pytest.raises(BadImage, match=r"^train\.parquet row 1: an empty file"):
        images.image(1)
