"""What is measured is what was asked for: the split, its images and nothing else."""

import json
import shutil

import numpy as np
import pytest

from featherbone.cli import main
from featherbone.data.formats.class_folders import FolderSplit
from featherbone.data.layouts import has_splits
from featherbone.data.map_files import write_labels
from featherbone.engine.results import evaluate_results
from featherbone.engine.settings import complete
from featherbone.engine.train import evaluate_run, start_run
from featherbone.errors import BadData
from featherbone.tasks.card import Card
from scenes import write_coco, write_masks

NET = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def world(drawn, tmp_path_factory):
    """Runs on data with three splits, and on data with one folder of classes."""
    folder = tmp_path_factory.mktemp("measured")
    shutil.copytree(drawn, folder / "three")
    shutil.copytree(drawn / "val", folder / "three" / "Test")
    for path in sorted((folder / "three" / "Test").glob("*/*"))[::2]:
        path.unlink()
    shutil.copytree(drawn / "train", folder / "one")
    settings = complete(image_size=32, batch_size=8, epochs=1, warmup_epochs=0, device="cpu", workers=0)
    for name in ("three", "one"):
        start_run(folder / name, NET, None, folder / f"{name}-run", settings)
    return folder


@pytest.fixture
def read(monkeypatch):
    """Names of the images that are read."""
    names, original = set(), FolderSplit.image

    def note(self, index, *rest):
        names.add(self.name(index))
        return original(self, index, *rest)

    monkeypatch.setattr(FolderSplit, "image", note)
    return names


def files(folder, pattern="*/*"):
    return {path.relative_to(folder).as_posix() for path in folder.glob(pattern)}


@pytest.mark.parametrize(
    "split,pattern", [(None, "val/*/*"), ("val", "val/*/*"), ("train", "train/*/*"), ("test", "Test/*/*")]
)
def test_one_split_is_read_and_named(world, read, capsys, tmp_path, split, pattern):
    data, asked = world / "three", [] if split is None else ["--split", split]
    command = ["evaluate", str(world / "three-run"), "--workers", "0", "--out", str(tmp_path / "page.html"), *asked]
    assert main([*command, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert read == files(data, pattern) and len(read) in (6, 12, 24)
    assert (metrics["split"], metrics["images"]) == (split or "val", len(read))
    assert main(command) == 0
    count = f"{len(read)} images of {split or 'val'}"
    low, high = metrics["interval"]["top1"]
    printed = capsys.readouterr().out
    assert (
        f"({low:.3f} to {high:.3f})" in printed
        and f"on {count}" in printed
        and f"measured on {count}" in (tmp_path / "page.html").read_text()
    )
    card = Card.read(world / "three-run")
    assert (card.metrics["split"], card.metrics["images"]) == ("val", 12)
    if split != "test":
        return
    for path in (data / "train").glob("*/*"):  # what is not measured may be gone
        path.write_bytes(b"no picture")
    assert main(command) == 0
    assert "no picture" not in capsys.readouterr().err


def test_the_report_of_a_run_stays_that_of_its_validation_images(world):
    page = world / "three-run" / "report.html"
    before = page.read_text()
    assert evaluate_run(world / "three-run", None, None, "cpu", 0, split="test")[0]["images"] == 6
    assert page.read_text() == before and "24 training and 12 validation images, measured on 12 images of val" in before


def test_what_was_held_out_in_training_is_measured_again(world, read, tmp_path, capsys):
    run, card = world / "one-run", Card.read(world / "one-run")
    held_out = card.data["val"]
    assert 0 < held_out < 24 and card.metrics["images"] == held_out
    shutil.copytree(world / "one", tmp_path / "copy")
    for data in (None, world / "one", tmp_path / "copy"):
        read.clear()
        metrics = evaluate_run(run, data, None, "cpu", 0)[0]
        assert metrics["confusion"] == card.metrics["confusion"] and metrics["split"] == "val"
        assert len(read) == held_out
    metrics = evaluate_run(run, None, None, "cpu", 0, split="train")[0]
    assert (metrics["split"], metrics["images"]) == ("train", 24 - held_out)
    assert "the train images are those of the run's training" in capsys.readouterr().err


def test_all_images_of_other_data_without_splits_are_measured_and_it_says_so(world, capsys):
    metrics = evaluate_run(world / "three-run", world / "one", None, "cpu", 0)[0]
    assert (metrics["split"], metrics["images"]) == ("all", 24)
    assert "no splits: evaluated on all 24 images" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(world / "three-run"), "--data", str(world / "one"), "--workers", "0"]) == 0
    assert "on 24 images, all that there are" in capsys.readouterr().out


def test_data_that_misses_the_split_is_refused_with_those_it_has(world, tmp_path):
    shutil.copytree(world / "three" / "Test", tmp_path / "data" / "test")
    shutil.copytree(world / "one", tmp_path / "data" / "training")
    with pytest.raises(BadData, match="no val split; choose one with --split train or test"):
        evaluate_run(world / "three-run", tmp_path / "data", None, "cpu", 0)
    with pytest.raises(BadData, match="no test split; choose one with --split train"):
        evaluate_run(world / "three-run", world / "one", None, "cpu", 0, split="test")


def test_a_part_of_the_classes_is_measured_by_name(world, tmp_path):
    for name in ("triangle", "cross"):
        shutil.copytree(world / "one" / name, tmp_path / "test" / name)
    metrics = evaluate_run(world / "three-run", tmp_path, None, "cpu", 0, split="test")[0]
    counts = dict(zip(Card.read(world / "three-run").classes, np.sum(metrics["confusion"], 1), strict=True))
    assert {name for name, count in counts.items() if count} == {"triangle", "cross"} and sum(counts.values()) == 8
    (tmp_path / "test" / "cross").rename(tmp_path / "test" / "crosses")
    with pytest.raises(BadData, match=r"'crosses' is none of the run's classes.*did you mean cross"):
        evaluate_run(world / "three-run", tmp_path, None, "cpu", 0, split="test")


def test_results_of_other_tools_are_measured_on_a_split(tmp_path):
    coco = tmp_path / "coco"
    write_coco(coco, 4, 2, (32, 32))
    (tmp_path / "found.json").write_text("[]")
    assert evaluate_results(tmp_path / "found.json", coco, False)[0]["images"] == 2
    shutil.copytree(coco / "train", coco / "test")
    shutil.copy(coco / "annotations" / "instances_train.json", coco / "annotations" / "instances_test.json")
    metrics = evaluate_results(tmp_path / "found.json", coco, False, "test")[0]
    assert (metrics["split"], metrics["images"], metrics["AP"]) == ("test", 4, 0)
    (coco / "annotations" / "instances_val.json").unlink()
    with pytest.raises(BadData, match="no val split; choose one with --split train or test"):
        evaluate_results(tmp_path / "found.json", coco, False)


def test_maps_of_other_tools_are_measured_on_a_split(tmp_path):
    data, out = tmp_path / "data", tmp_path / "maps"
    write_masks(data, 3, 2, (32, 32))
    for folder in ("images", "masks"):
        (data / folder / "val").rename(data / folder / "Testing")
    for path in (data / "images" / "Testing").iterdir():
        write_labels(out / f"{path.stem}.png", np.zeros((32, 32), np.uint8))
    metrics = evaluate_results(out, data, False, "test")[0]
    assert (metrics["split"], metrics["images"]) == ("test", 2) and 0 < metrics["pixel_accuracy"] < 1


@pytest.mark.parametrize(
    "name,splits",
    [
        ("train/a.jpg", True), ("images/Val/a.jpg", True), ("annotations/instances_train2017.json", True),
        ("data/train-00000-of-00001.parquet", True), ("train.jpg", False), ("cats/a.jpg", False),
        ("trains/a.jpg", False), ("annotations/instances_default.json", False),
    ],
)  # fmt: skip
def test_names_of_splits_in_a_folder(tmp_path, name, splits):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert has_splits(tmp_path) == splits
