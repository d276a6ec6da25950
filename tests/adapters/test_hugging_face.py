import sys

import numpy as np
import pytest
from PIL import Image

import featherbone
from adapters.perfect import perfect
from featherbone.adapters.hugging_face import to_parquet, to_shards
from featherbone.data.formats import find_task, open_split
from featherbone.errors import BadData, MissingExtra
from runs import SHORT
from scenes import write_classification

datasets = pytest.importorskip("datasets")


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """An ImageFolder data set with named classes, as `load_dataset("imagefolder")` gives it, from files on disk."""
    write_classification(tmp_path / "set", 12, 6, (32, 32))
    names = sorted(path.name for path in (tmp_path / "set/train").iterdir())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})

    def split(name):
        paths = sorted((tmp_path / "set" / name).rglob("*.*"))
        rows = {"image": [str(path) for path in paths], "label": [path.parent.name for path in paths]}
        return datasets.Dataset.from_dict(rows, features)

    return datasets.DatasetDict({"train": split("train"), "validation": split("val")})


def same(folder, loaded):
    for ours, theirs in (("train", "train"), ("val", "validation")):
        images = open_split(folder, "classification", ours).images
        assert len(images) == len(loaded[theirs]) and [*images.classes] == loaded[theirs].features["label"].names
        for index, row in enumerate(loaded[theirs]):
            assert images.truth(index) == row["label"]
            np.testing.assert_array_equal(np.asarray(images.image(index)), np.asarray(row["image"].convert("RGB")))


def test_a_dataset_dict_is_trained_on(loaded, tmp_path):
    folder = to_parquet(loaded, tmp_path / "parquet")
    assert find_task(folder, None) == "classification"
    same(folder, loaded)
    settings = {**SHORT, "epochs": 1, "warmup_epochs": 0, "pretrained": False}
    result = featherbone.train(folder, "test_resnet", out=tmp_path / "run", **settings)
    assert 0 <= result.metrics["top1"] <= 1


def test_a_saved_folder_and_one_split(loaded, tmp_path):
    """The images are inside: the files that the dataset was made from may go."""
    loaded.save_to_disk(tmp_path / "saved")
    same(to_parquet(tmp_path / "saved", tmp_path / "parquet"), loaded)
    to_parquet(loaded["train"].select(range(5)), tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["train.parquet"]
    assert len(open_split(tmp_path / "one", "classification", "train").images) == 5


def fields(rows):
    """A list for each field, as `datasets` stores a `Sequence` of a dictionary."""
    return {name: [row[name] for row in rows] for name in ("bbox", "category", "area", "iscrowd")}


FORMS = {
    "fields": (fields, lambda row: {name: datasets.List(kind) for name, kind in row.items()}),
    "rows": (list, lambda row: datasets.List(row)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["numbers", "names"])
def test_objects_are_read(form, kind, tmp_path):
    """Boxes are x y width height in pixels, as on the hub; an image without objects has an empty list."""
    images, _ = perfect(tmp_path / "set", "detection")
    arrange, features = FORMS[form]
    number = datasets.ClassLabel(names=list(images.classes)) if kind == "numbers" else datasets.Value("string")
    box = datasets.List(datasets.Value("float32"), length=4)
    row = {"bbox": box, "category": number, "area": datasets.Value("int64"), "iscrowd": datasets.Value("bool")}
    columns = {"image": [], "objects": []}
    for index in range(len(images)):
        truth = images.truth(index)
        found = zip(truth.boxes_xywh.tolist(), truth.labels.tolist(), truth.stated_areas.tolist(), strict=True)
        rows = [{"bbox": b, "category": images.classes[n], "area": int(a), "iscrowd": n == 0} for b, n, a in found]
        columns["image"].append(str(images.root / images.name(index)))
        columns["objects"].append(arrange(rows))
    features = datasets.Features({"image": datasets.Image(), "objects": features(row)})
    folder = to_shards(datasets.Dataset.from_dict(columns, features), tmp_path / "shards")
    assert find_task(folder, None) == "detection"
    back = open_split(folder, "detection", "train").images
    assert len(back) == len(images) and set(back.classes) <= set(images.classes)
    for index in range(len(images)):
        one, other = back.truth(index), images.truth(index)
        np.testing.assert_allclose(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.stated_areas, other.stated_areas)
        np.testing.assert_array_equal(one.crowd, other.labels == 0)
        assert [back.classes[n] for n in one.labels] == [images.classes[n] for n in other.labels]
        assert back.encoded(index) == images.encoded(index)


@pytest.mark.parametrize("column", ["label", "semantic_segmentation", "what it shows"])
def test_label_maps_are_read(column, tmp_path):
    images, _ = perfect(tmp_path / "set", "semantic", 4)
    columns = {
        "image": [str(images.root / images.name(index)) for index in range(4)],
        column: [Image.fromarray(images.truth(index)) for index in range(4)],
    }
    dataset = datasets.Dataset.from_dict(columns, datasets.Features(dict.fromkeys(columns, datasets.Image())))
    with pytest.raises(BadData, match=rf"column {column} names no classes; pass classes="):
        to_shards(dataset, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    splits = datasets.DatasetDict({"train": dataset, "validation": dataset.select([2])})
    folder = to_shards(splits, tmp_path / "shards", images.classes)
    back = open_split(folder, "semantic", "train").images
    assert back.classes == images.classes and len(back) == 4 and len(open_split(folder, "semantic", "val").images) == 1
    for index in range(4):
        np.testing.assert_array_equal(back.truth(index), images.truth(index))
        assert back.encoded(index) == images.encoded(index)


def test_columns_that_are_not_read(tmp_path):
    labels = datasets.Dataset.from_dict({"label": [1]})
    with pytest.raises(BadData, match="columns label: detection needs image and objects"):
        to_shards(labels, tmp_path / "shards")
    picture = Image.new("RGB", (32, 32))
    for objects, message in (
        ([{"bbox": [0.0, 1.0, 2.0], "category": "a"}], "row 0 of train: an object has no bbox"),
        ([{"bbox": [0.0, 1.0, 2.0, 3.0]}], "row 0 of train: an object has no bbox or no category"),
    ):
        dataset = datasets.Dataset.from_dict({"image": [picture], "objects": [objects]})
        dataset = dataset.cast_column("image", datasets.Image())
        with pytest.raises(BadData, match=message):
            to_shards(dataset, tmp_path / "shards", ["a"])
    assert not (tmp_path / "shards").exists()


def test_what_is_not_a_dataset(tmp_path, monkeypatch):
    with pytest.raises(BadData, match="save_to_disk"):
        to_parquet(tmp_path / "nothing", tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="pip install datasets"):
        to_parquet(tmp_path, tmp_path / "parquet")
