"""Folders and Parquet files open alike, and what would spoil training is refused with a remedy."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from featherbone.data.classification import hold_out, open_split, open_splits
from featherbone.errors import BadData, BadImage

CLASSES = ("ash", "birch", "cedar")
SIZES = {"train": 4, "val": 2}


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
    return [(images.read(i).getpixel((0, 0))[0], images.classes[label]) for i, label in pairs]


def test_folder_and_parquet_give_the_same_images(tmp_path):
    folder, parquet = tmp_path / "folder", tmp_path / "parquet"
    parquet.mkdir()
    (parquet / "classes.txt").write_text("\n".join(CLASSES))
    opened = [open_splits(write_folder(folder)), open_splits(write_parquet(parquet))]
    for split, size in SIZES.items():
        expected = [(value(split, k, i), CLASSES[k]) for k in range(len(CLASSES)) for i in range(size)]
        for splits in opened:
            images = getattr(splits, split)
            assert contents(images) == expected
            assert contents(images.take([3, 0])) == [expected[3], expected[0]]
            assert len(images.take([])) == 0
            assert [Image.open(io.BytesIO(images.encoded(i))).getpixel((0, 0))[0] for i in (0, 1)] == [
                grey for grey, _ in expected[:2]
            ]
    assert opened[0].classes == opened[1].classes == CLASSES
    assert opened[0].notices == opened[1].notices == ()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_names_of_the_validation_split(tmp_path, name):
    folder, parquet = write_folder(tmp_path / "folder"), tmp_path / "parquet"
    (folder / "val").rename(folder / name)
    parquet.mkdir()
    write_parquet(parquet, ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", f"{name}-00000.parquet"))
    assert [len(open_splits(folder).train), len(open_splits(folder).val)] == [12, 6]
    assert [len(open_splits(parquet).train), len(open_splits(parquet).val)] == [24, 6]  # each file once


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("Train", "Test"), ("seg_train", "seg_test"), ("train_set", "test_set")],
)
def test_splits_by_other_names_are_not_classes_and_test_is_neither_trained_on_nor_validated_on(tmp_path, train, test):
    write_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / train)
    (tmp_path / "val").rename(tmp_path / test)
    splits = open_splits(tmp_path)
    assert splits.classes == CLASSES and (len(splits.train), len(splits.val)) == (9, 3)
    assert {name.split("/")[0] for name in (*splits.train.paths, *splits.val.paths)} == {train}
    assert {name.split("/")[0] for name in open_split(tmp_path, "test", CLASSES)[0].paths} == {test}


def test_parquet_classes_come_from_hugging_face_metadata_or_are_numbers(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    features = {"info": {"features": {"label": {"names": list(CLASSES)}}}}
    assert open_splits(write_parquet(tmp_path / "a", metadata={"huggingface": json.dumps(features)})).classes == CLASSES
    assert open_splits(write_parquet(tmp_path / "b")).classes == ("0", "1", "2")


def test_without_validation_some_of_each_class_is_held_out(tmp_path):
    write_folder(tmp_path, ["train"])
    everything = sorted(contents(open_split(tmp_path, "train")[0]))
    held_out = []
    for splits_folder in (True, False):
        if not splits_folder:  # the classes alone
            for name in CLASSES:
                shutil.move(tmp_path / "train" / name, tmp_path / name)
            (tmp_path / "train").rmdir()
        splits = open_splits(tmp_path, val_share=0.25)
        assert np.bincount(splits.train.labels).tolist() == [3, 3, 3]
        assert np.bincount(splits.val.labels).tolist() == [1, 1, 1]
        assert splits.notices == ("no validation split: held out 3 of 12 images",)
        held_out.append(contents(splits.val))
        assert sorted(contents(splits.train) + held_out[-1]) == everything
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_holding_out_divides_every_class_and_leaves_some_of_each(tmp_path, share):
    images, _ = open_split(write_folder(tmp_path), "train")
    images = images.take([0, 1, 2, 3, 4, 5, 8])  # 4, 2 and 1
    train, val = hold_out(images, share, seed=3)
    assert sorted(train.paths + val.paths) == sorted(images.paths)
    assert (np.bincount(train.labels, minlength=3) >= 1).all()
    assert np.bincount(val.labels, minlength=3).tolist() == [min(max(round(4 * share), 1), 3), 1, 0]
    assert hold_out(images, share, seed=3)[1].paths == val.paths
    assert any(hold_out(images, share, seed)[1].paths != val.paths for seed in range(4, 12))


def test_fingerprint_follows_names_labels_and_splits_not_the_place(tmp_path):
    first = open_splits(write_folder(tmp_path / "here")).fingerprint()
    copied = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "here", copied)
    assert open_splits(copied).fingerprint() == first
    seen = {first}
    for source, target in (("train/ash/0.png", "train/ash/zero.png"), ("train/birch/0.png", "train/cedar/b.png")):
        (copied / source).rename(copied / target)
        seen.add(open_splits(copied).fingerprint())
    seen |= {open_splits(write_folder(tmp_path / "flat", ["train"]), seed=seed).fingerprint() for seed in (0, 1)}
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
    splits = open_splits(tmp_path)
    assert (len(splits.train), len(splits.val)) == (12, 5)
    assert splits.notices == (
        "1 files are no pictures by their names and were left out: train/ash/notes.txt",
        "1 classes have no validation image, so nothing is known of them: cedar",
    )


def test_what_spoils_training_is_refused_with_a_remedy(tmp_path):
    def refused(remedy):
        with pytest.raises(BadData, match=remedy):
            open_splits(tmp_path)

    (tmp_path / "train").mkdir()
    refused("no images found; classification takes these layouts:\n  classification   train/CLASS")
    write_folder(tmp_path)
    (tmp_path / "train/elm").mkdir()
    refused("no training image in class elm; add some or remove the class")
    (tmp_path / "train/elm").rmdir()
    (tmp_path / "val/Birch").mkdir()
    refused("validation class 'Birch' is none of the 3 training classes; did you mean birch?")
    (tmp_path / "val/Birch").rmdir()
    for name in CLASSES[1:]:
        shutil.rmtree(tmp_path / "train" / name)
        shutil.rmtree(tmp_path / "val" / name)
    refused(r"one class only \(ash\); classification needs two or more class folders")


def test_parquet_labels_are_checked(tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    write_parquet(tmp_path, first=1)
    with pytest.raises(BadData, match="labels run from 1 to 3, but there are 3 class names; labels start at 0"):
        open_splits(tmp_path)
    assert open_split(tmp_path, "train", check=False)[0].labels.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    image = pa.array([{"bytes": png(0), "path": ""}] * 2)
    for labels, reason in (
        ([0, None], "1 rows without a label"),
        (["a", "b"], "string: 'b'"),
        ([0.5, 1.0], "truncated"),
    ):
        pq.write_table(pa.table({"image": image, "label": labels}), tmp_path / "train.parquet")
        with pytest.raises(BadData, match=rf"columns image \{{bytes, path\}} and label .*{reason}"):
            open_splits(tmp_path)
    for content in (b"", b"PAR1 but no more"):
        (tmp_path / "train.parquet").write_bytes(content)
        with pytest.raises(BadData, match=r"train\.parquet: not Parquet with columns"):
            open_splits(tmp_path)


def test_an_unreadable_image_is_called_by_its_place(tmp_path):
    splits = open_splits(write_folder(tmp_path / "folder"))
    (tmp_path / "folder/train/birch/1.png").write_bytes(b"")
    with pytest.raises(BadImage, match=r"^train/birch/1\.png: an empty file"):
        splits.train.read(5)
    pq.write_table(
        pa.table({"image": [{"bytes": png(0)}, {"bytes": None}], "label": [0, 1]}), tmp_path / "train.parquet"
    )
    images, _ = open_split(tmp_path, "train")
    with pytest.raises(BadImage, match=r"^train\.parquet row 1: an empty file"):
        images.read(1)
