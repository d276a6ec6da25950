"""A card is read as what it is, or refused with the place of the fault and what to do."""

import json

import pytest

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption, BadRun
from featherbone.tasks.card import CARD, Card

WRITTEN = Card(
    "panoptic",
    "test_resnet",
    ("cat", "dog", "sky"),
    Preprocessing(64, 96),
    head="panoptic_fpn_light",
    head_args={"dim": 32},
    things=(0, 1),
    data={"path": "data", "fingerprint": "f", "train": 2, "val": 1, "category_ids": [3, 7, 9]},
    settings={"val_share": 0.2, "seed": 0, "ignore_index": None, "zero_ignored": False, "unlabelled": "negative"},
    metrics={"PQ": 0.5, "best_score": 0.25, "per_class": [0.5, None, 0.1]},
    versions={"torch": "2"},
)


def test_a_card_is_read_as_it_was_written(tmp_path):
    WRITTEN.write(tmp_path)
    assert Card.read(tmp_path) == WRITTEN
    assert Card.read(tmp_path).category_ids == (3, 7, 9)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("classes",), [], "0 classes; a model has 1 to"),
        (("classes",), "cat", r"expected array, got str at \$\.classes"),
        (("classes",), [1, 2, 3], r"expected str, got int at \$\.classes\[0\]|at \$\.classes"),
        (("classes",), ["a", "a", "b"], "two classes are called 'a'"),
        (("classes",), ["a", " ", "b"], "a class name is empty"),
        (("classes",), ["a"] * 200_000, "200000 classes"),
        (("things",), [0, 5], "things .* are not distinct indices"),
        (("things",), [0, 0], "things .* are not distinct indices"),
        (("data", "category_ids"), [1], "category_ids .* are not one for each"),
        (("data", "category_ids"), ["1", "2", "3"], r"data: expected int, got str at \$\.category_ids"),
        (("data",), {"path": "data"}, "without data fingerprint, data train, data val; "),
        (("data", "path"), None, r"data: expected str, got null at \$\.path"),
        (("settings", "unlabelled"), "no", r"settings: .* at \$\.unlabelled"),
        (("settings",), {"seed": 0}, "without settings val_share, "),
        (("settings",), [], r"expected object, got array at \$\.settings"),
        (("metrics", "best_score"), 7, "best_score 7 is outside 0 to 1"),
        (("metrics", "best_score"), "high", r"metrics: .* at \$\.best_score"),
        (("preprocessing",), None, r"expected object, got null at \$\.preprocessing"),
        (("preprocessing", "height"), 10**7, r"input of 10000000x96 pixels; give sides of 32 to 8192 .*preprocessing"),
        (("preprocessing", "width"), 0, r"input of 64x0 pixels"),
        (("preprocessing", "width"), 64.5, r"expected int, got float at \$\.preprocessing\.width"),
        (("preprocessing", "mean"), [0, 0], r"one for each of 3 channels at \$\.preprocessing"),
        (("preprocessing", "mean"), [1e300, 0, 0], r"mean .* up to 1000"),
        (("preprocessing", "std"), [0, 1, 1], r"std above 0"),
        (("preprocessing", "crop"), 0, "crop 0.* is kept"),
        (("preprocessing", "interpolation"), "cubic", "interpolation 'cubic'; give one of bilinear"),
        (("preprocessing", "rule"), "squeeze", r"at \$\.preprocessing\.rule"),
        (("format",), 2, "format 2, written by a newer Featherbone.* reads format 1; use that version or a newer one"),
        (("format",), 0, "format 0, this version reads 1; use the version that wrote it"),
        (("format",), None, "format None, this version reads 1"),
        (("extra",), 1, "unknown entries extra of another version"),
        (("task",), None, r"expected str, got null at \$\.task"),
        (("model_args",), [1], r"expected object, got array at \$\.model_args"),
        (("versions",), {"torch": 2}, r"at \$\.versions"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(place, value, told, tmp_path):
    WRITTEN.write(tmp_path)
    content = json.loads((tmp_path / CARD).read_text())
    inside = content
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    (tmp_path / CARD).write_text(json.dumps(content))
    with pytest.raises(BadRun, match=f"{CARD}.*{told}") as refusal:
        Card.read(tmp_path)
    assert "format" in place or str(refusal.value).endswith("; restore the file or train again")


@pytest.mark.parametrize("content", ["", "[]", "null", "1", "{", "[" * 100_000, '{"format": NaN}'])
def test_a_file_that_is_no_card_is_refused(content, tmp_path):
    (tmp_path / CARD).write_text(content)
    with pytest.raises(BadRun, match="restore the file or train again"):
        Card.read(tmp_path)


def test_an_input_of_insane_size_is_refused_before_it_is_made():
    with pytest.raises(BadOption, match="give sides of 32 to 8192"):
        Preprocessing(10**7, 64)
