"""What may be compared."""

import pytest

from featherbone.comparison.subjects import Subject, is_results, parse_subjects
from featherbone.errors import BadOption, UnknownModel


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/a", "runs/b", "file"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / ("featherbone.json" if folder == "file" else "card.json")).touch()
    (tmp_path / "found.json").touch()
    (tmp_path / "odd=name").mkdir()
    return tmp_path


def test_names_are_trained_and_what_exists_is_not(here):
    names = ("lvt", "deep=lvt@recursion=3", "runs/a", "mine=runs/b@recursion=1", "found.json", "odd=name", "file")
    assert parse_subjects((*names, "lit_tiny.retinanet_coco", "hf-hub:user/name@main")) == [
        Subject("lvt", "lvt"),
        Subject("deep", "lvt", "recursion=3"),
        Subject("a", sources=("runs/a",)),
        Subject("mine", sources=("runs/b@recursion=1",)),
        Subject("found", sources=("found.json",)),
        Subject("odd=name", sources=("odd=name",)),
        Subject("file", sources=("file",)),
        Subject("lit_tiny.retinanet_coco", sources=("lit_tiny.retinanet_coco",)),
        Subject("hf-hub:user/name@main", sources=("hf-hub:user/name@main",)),
    ]
    assert [is_results(name) for name in ("runs/a", "file", "found.json", "odd=name")] == [False, False, True, True]


def test_finished_ones_with_one_label_are_seeds(here):
    assert parse_subjects(["m=runs/a", "m=runs/b"]) == [Subject("m", sources=("runs/a", "runs/b"))]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["lvt", "lvt"], "two models are called lvt; give them labels"),
        (["m=runs/a", "m=runs/a"], "two models are called m"),
        (["m=lvt", "m=runs/a"], "two models are called m"),
        (["runs/a", "other=runs/missing"], "runs/missing: no such file or folder; give a run"),
        (["missing.json"], "missing.json: no such file"),
        (["lvt", "l?=lvt", "l!=lvt"], "too similar"),
    ],
)
def test_wrong_models(here, given, message):
    with pytest.raises(BadOption, match=message.replace("?", r"\?")):
        parse_subjects(given)
    with pytest.raises(UnknownModel, match="lvt"):
        parse_subjects(["lvtt"])
