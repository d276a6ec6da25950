import sys

import numpy as np
import pytest

import featherbone
from featherbone.adapters.hugging_face import to_parquet
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


def test_what_is_not_a_dataset(tmp_path, monkeypatch):
    with pytest.raises(BadData, match="save_to_disk"):
        to_parquet(tmp_path / "nothing", tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="pip install datasets"):
        to_parquet(tmp_path, tmp_path / "parquet")
