"""Several labels per image, from tables and from metadata."""

import json

import numpy as np
import pytest
from PIL import Image

import featherbone
from featherbone.data.dataset import open_data
from featherbone.data.formats import find_task, find_tasks
from featherbone.errors import BadData, BadOption

ROWS = {
    "train": {"a.png": ["cat", "dog"], "b.png": [], "c.png": ["dog"]},
    "val": {"d.png": ["bird"], "e.png": ["dog", "cat"]},
}
"""Images and their labels, by split."""


def pictures(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (32, 32), (9 * number, 50, 80)).save(folder / name)


def table(folder, separator=";", prefix="images/{}/", columns="image,label", rows=ROWS):
    lines = [columns]
    for split, images in rows.items():
        pictures(folder / "images" / split, images)
        lines += [f"{prefix.format(split)}{name},{separator.join(labels)}" for name, labels in images.items()]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def repeated(folder):
    table(folder)
    lines = ["file_name,label"]
    for split, images in ROWS.items():
        lines += [f"{split}/{name},{label}" for name, labels in images.items() for label in labels or [""]]
    (folder / "labels.csv").write_text("\n".join(lines))


def metadata(folder, write):
    for split, images in ROWS.items():
        pictures(folder / split, images)
        write(folder / split, images)


def jsonl(folder, images):
    rows = [json.dumps({"file_name": name, "labels": labels}) for name, labels in images.items()]
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def csv(folder, images):
    rows = [f"{name},{'|'.join(labels)}" for name, labels in images.items()]
    (folder / "metadata.csv").write_text("\n".join(["file_name,labels", *rows]))


def json_in_csv(folder, images):
    rows = [f'{name},"{json.dumps(labels).replace(chr(34), 2 * chr(34))}"' for name, labels in images.items()]
    (folder / "metadata.csv").write_text("\n".join(["file_name,labels", *rows]))


def one_jsonl(folder):
    for split, images in ROWS.items():
        pictures(folder / split, images)
    rows = [{"file_name": f"{s}/{name}", "labels": labels} for s, of in ROWS.items() for name, labels in of.items()]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


LAYOUTS = {
    "table": table,
    "bars": lambda folder: table(folder, separator=" | "),
    "names": lambda folder: table(folder, prefix=""),
    "below-images": lambda folder: table(folder, prefix="{}/", columns="filename,labels"),
    "repeated": repeated,
    "jsonl": lambda folder: metadata(folder, jsonl),
    "csv": lambda folder: metadata(folder, csv),
    "json-in-csv": lambda folder: metadata(folder, json_in_csv),
    "one-jsonl": one_jsonl,
}


def labels_of(images):
    return {
        images.name(i).rpartition("/")[2]: {images.classes[k] for k in np.flatnonzero(images.truth(i))}
        for i in range(len(images))
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_labels(layout, tmp_path):
    LAYOUTS[layout](tmp_path)
    assert find_tasks(tmp_path) == ("multilabel",)
    assert find_task(tmp_path, "classification") == find_task(tmp_path, None) == "multilabel"
    data = open_data(tmp_path, "multilabel")
    assert sorted(data.classes) == ["bird", "cat", "dog"] and data.val.classes == data.classes
    for split in ("train", "val"):
        images = getattr(data, split)
        assert labels_of(images) == {name: set(labels) for name, labels in ROWS[split].items()}
        assert images.image(0).size == (32, 32)
        shown = {(i, images.classes[k]) for i, k in zip(*images.shown_classes(), strict=True)}
        assert len(shown) == sum(map(len, ROWS[split].values()))
        back = images.take([2 % len(images), 0])
        assert labels_of(back) == {k: v for k, v in labels_of(images).items() if k in labels_of(back)}
    assert data.fingerprint() != open_data(tmp_path, "multilabel").val.fingerprint()
    with pytest.raises(BadOption, match="serves multilabel, not detection"):
        find_task(tmp_path, "detection")


def test_one_label_per_image_stays_classification(tmp_path):
    for split in ("train", "val"):
        pictures(tmp_path / "meta" / split, ["a.png", "b.png"])
        (tmp_path / "meta" / split / "metadata.csv").write_text("file_name,labels\na.png,x\nb.png,y\n")
    assert find_tasks(tmp_path / "meta") == ("classification",)
    table(tmp_path / "table", rows={"train": {"a.png": ["x"], "b.png": ["y"]}})
    with pytest.raises(BadData, match=r"every image in labels\.csv has one label; .* write a metadata\.csv"):
        open_data(tmp_path / "table", "multilabel")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("image,label\nnone.png,a;b\n", r"labels\.csv, line 2: there is no image 'none\.png'"),
        ("image,label\nx.png,a;b\n", r"line 2: several images are called 'x\.png'; write their paths"),
        ('image,label\na.png,"[1, {}]"\n', r"line 2: labels \[1, \{\}\]; write a list"),
        ('image,label\na.png,"[1, "\n', "line 2: labels '.1,' are no JSON list"),
    ],
)
def test_rows_that_mean_nothing_are_named(content, why, tmp_path):
    table(tmp_path)
    for split in ROWS:
        pictures(tmp_path / "images" / split, ["x.png"])
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(BadData, match=why):
        open_data(tmp_path, "multilabel")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"file_name": "../a.png", "labels": []}, r"write the path of an image below the folder of metadata\.jsonl"),
        ({"file_name": "none.png", "labels": []}, r"there is no none\.png"),
        ({"file_name": "a.png", "labels": [True]}, "write a list of names or numbers"),
        ({"file_name": "a.png", "labels": ["a", " "]}, "a label without a name"),
    ],
)
def test_metadata_that_means_nothing_is_named(row, why, tmp_path):
    metadata(tmp_path, jsonl)
    (tmp_path / "train/metadata.jsonl").write_text(json.dumps(row))
    with pytest.raises(BadData, match=f"train/metadata.jsonl, line 1: .*{why}"):
        open_data(tmp_path, "multilabel")


def test_numbers_are_ordered_by_value(tmp_path):
    table(tmp_path, rows={"train": {"a.png": ["10", "9"], "b.png": []}, "val": {"c.png": ["2"], "d.png": ["10"]}})
    assert open_data(tmp_path, "multilabel").classes == ("2", "9", "10")


def test_classes_are_matched_by_name(tmp_path):
    metadata(tmp_path, jsonl)
    data = open_data(tmp_path, "multilabel")
    other = data.val.named(("dog", "bird", "cat", "cow"))
    assert labels_of(other) == labels_of(data.val)
    with pytest.raises(BadData, match="class 'cat' is none of the run's classes dog"):
        data.train.named(("dog",))


def test_the_doctor_counts_labels_and_names_what_is_odd(tmp_path):
    table(tmp_path)
    pictures(tmp_path / "images/train", ["unlisted.png"])
    Image.open(tmp_path / "images/train/a.png").save(tmp_path / "images/val/d.png")
    examined = featherbone.doctor(tmp_path, out=tmp_path / "page.html").examination
    assert examined.classes == ("bird", "cat", "dog")
    assert examined.counts == {"train": (0, 1, 2), "val": (1, 1, 1)}
    found = {finding.code: finding for finding in examined.findings}
    assert found["unlisted-images"].count == 1 and "add a row for each" in found["unlisted-images"].message
    assert found["class-only-in-val"].count == 1
    assert ("images/train/a.png", "images/val/d.png") in [one.names for one in found["label-conflict"].examples]
