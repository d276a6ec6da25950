"""The Python of docs/adapters.md, run as it stands."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import featherbone
from adapters.perfect import perfect
from exporting import a_run
from featherbone.draw import save_picture
from runs import SHORT
from scenes import write_classification

TEXT = (Path(__file__).parents[2] / "docs/adapters.md").read_text(encoding="utf-8")


def code(heading):
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(r"```python\n(.*?)```", section, re.S)
    return compile(found, f"docs/adapters.md, {heading}", "exec")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with what the examples name."""
    a_run(tmp_path / "runs/shapes", "mask_rcnn")
    images, _ = perfect(tmp_path / "set", "instance", 2)
    save_picture(images.image(0), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(find_spec("supervision") is None, reason="supervision is not installed")
def test_supervision(folder):
    names = {}
    exec(code("supervision"), names)
    assert names["record"].height == names["picture"].shape[0] and names["drawn"].shape == names["picture"].shape


@pytest.mark.skipif(find_spec("fiftyone") is None, reason="FiftyOne is not installed")
def test_fiftyone(folder, monkeypatch):
    """With a list in place of the dataset, which needs a database."""
    import fiftyone

    added = []
    monkeypatch.setattr(fiftyone, "Dataset", lambda name: type("Set", (), {"add_samples": staticmethod(added.extend)}))
    exec(code("FiftyOne"), {"predictor": featherbone.load("runs/shapes"), "paths": ["photo.jpg"]})
    assert [sample.filepath for sample in added] == [str(folder / "photo.jpg")]


def test_hugging_face(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    write_classification(folder / "flowers", 12, 6, (32, 32))
    parts = {}
    for split, name in (("train", "train"), ("val", "validation")):
        paths = sorted((folder / "flowers" / split).rglob("*/*.*"))
        rows = {"image": [*map(str, paths)], "label": [path.parent.name for path in paths]}
        names = datasets.ClassLabel(names=sorted({*rows["label"]}))
        features = datasets.Features({"image": datasets.Image(), "label": names})
        parts[name] = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict(parts).save_to_disk("saved")
    trained = []
    short = {**SHORT, "epochs": 1, "warmup_epochs": 0, "pretrained": False, "out": folder / "run"}
    real = featherbone.train
    monkeypatch.setattr(featherbone, "train", lambda *given: trained.append(real(given[0], "test_resnet", **short)))
    exec(code("Hugging Face datasets"), {})
    assert (trained[0].run / "card.json").exists()
