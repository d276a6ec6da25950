"""What `predict` writes: a file of its own for every picture, records without their maps in memory, no half results."""

import gc
import json
import os
from itertools import product

import numpy as np
import pytest

import featherbone
from exporting import a_run, draw_not_utf8, drawn
from featherbone.data.images import read_image
from featherbone.errors import BadImage, BadOption
from featherbone.prediction_files import unique_names
from featherbone.predictor import in_batches
from featherbone.results import PanopticMap, SemanticMap

SMALL = {
    None: {},
    "segformer": {"dim": 16},
    "panoptic_fpn_light": {"dim": 16, "fc_dim": 16, "branch_dim": 8, "proposals": 40},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders by head."""
    folder = tmp_path_factory.mktemp("runs")
    for head, arguments in SMALL.items():
        a_run(folder / str(head), head, **arguments)
    return {head: folder / str(head) for head in SMALL}


def save(folder, *names):
    """A different picture under each name."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn(40 + i, 60).save(path, "PNG")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["in/x.jpg", "in/y.jpg"], ["x", "y"]),
        (["a/x.jpg", "b/x.jpg", "c/x-2.jpg"], ["a-x", "b-x", "x-2"]),
        (["a/x.jpg", "b/x.jpg", "a-x.jpg"], ["a-x-2", "b-x", "a-x"]),
        (["1/in/x.jpg", "2/in/x.jpg"], ["1-in-x", "2-in-x"]),
        (["in/x.jpg", "in/x.png"], ["x-jpg", "x-png"]),
        (["a/x.jpg", "a/x.png", "b/x.jpg"], ["a-x-jpg", "a-x-png", "b-x-jpg"]),
        (["a/X.jpg", "b/x.jpg", "c/Stra\u00dfe.jpg", "d/STRASSE.jpg"], ["a-X", "b-x", "c-Stra\u00dfe", "d-STRASSE"]),
        (["a/e\u0301.jpg", "b/\u00e9.jpg"], ["a-e\u0301", "b-\u00e9"]),
        (["a/predictions.jpg", "panoptic.jpg", "maps.jpg"], ["predictions", "panoptic", "maps"]),
    ],
)
def test_every_picture_has_a_name_of_its_own(paths, names, tmp_path):
    """Also where case and composed letters count as equal; the order of the pictures does not matter."""
    given = [tmp_path / path for path in paths]
    assert list(map(unique_names(given).get, given)) == names
    assert unique_names(given[::-1]) == unique_names(given)


def test_names_stay_short_and_distinct(tmp_path):
    given = [tmp_path / f"{folder * 120}/{stem * 240}.jpg" for folder, stem in product("ab", "xy")]
    names = unique_names(given).values()
    assert len(set(names)) == 4 and max(map(len, names)) < 220


def test_pictures_of_one_name_do_not_overwrite_each_other(runs, tmp_path):
    """Three pictures whose names are equal, or become equal by numbering: three files, each of its own picture."""
    save(tmp_path / "in", "a/x.jpg", "b/x.jpg", "c/x-2.jpg")
    result = featherbone.predict(runs["segformer"], (tmp_path / "in",), out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a-x.jpg", "b-x.jpg", "x-2.jpg", "maps", "predictions.json")
    }
    for prediction in result.predictions:
        image = read_image(prediction.image)
        assert prediction.record.labels.shape == (image.height, image.width)
    assert len({prediction.map for prediction in result.predictions}) == 3


@pytest.mark.parametrize("head", ["segformer", "panoptic_fpn_light"])
def test_maps_are_not_kept_in_memory(head, runs, tmp_path, monkeypatch):
    """At most a batch of them lives at a time; a record is read again from its file, and is what the model found."""
    save(tmp_path / "in", *(f"{i}.png" for i in range(9)))
    kind = SemanticMap if head == "segformer" else PanopticMap
    alive = []

    def count(*_):
        alive.append(sum(type(thing) is kind for thing in gc.get_objects()))

    monkeypatch.setattr("featherbone.prediction_files.save_picture", count)
    result = featherbone.predict(runs[head], (tmp_path / "in",), out=tmp_path / "out", batch_size=2)
    assert len(alive) == 9 and max(alive) <= 4, "a batch, and the one before until it is replaced"
    predictor = featherbone.load(runs[head])
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    batches = in_batches([prediction.image for prediction in result.predictions], 2)
    records = [record for batch in batches for record in predictor.predict(batch)]
    for prediction, row, expected in zip(result.predictions, written, records, strict=True):
        got = prediction.record
        np.testing.assert_array_equal(
            *(getattr(r, "labels" if head == "segformer" else "ids") for r in (got, expected))
        )
        assert got.to_json() == expected.to_json()
        assert prediction.to_json() == row == {**row, **expected.to_json()}
    result.predictions[0].map.unlink()
    with pytest.raises(BadImage, match="no such file"):
        _ = result.predictions[0].record


def test_a_picture_is_never_taken_for_a_result_nor_a_result_for_a_picture(runs, tmp_path):
    save(tmp_path, "in/x.jpg", "in/y.png")
    before = (tmp_path / "in/x.jpg").read_bytes()
    with pytest.raises(BadOption, match=r"x.jpg would take the place of the picture .*--out"):
        featherbone.predict(runs[None], (tmp_path / "in",), out=tmp_path / "in")
    save(tmp_path, "maps/y.png")
    with pytest.raises(BadOption, match="--out"):
        featherbone.predict(runs["segformer"], (tmp_path / "maps/y.png",), out=tmp_path, pictures=False)
    assert (tmp_path / "in/x.jpg").read_bytes() == before and len(list((tmp_path / "in").iterdir())) == 2
    for _ in range(2):  # the second time the results of the first lie below the folder
        result = featherbone.predict(runs[None], (tmp_path / "in",), out=tmp_path / "in/out")
        assert [prediction.image.name for prediction in result.predictions] == ["x.jpg", "y.png"]


def test_a_picture_given_twice_is_looked_at_once(runs, tmp_path):
    save(tmp_path, "in/x.jpg", "in/y.jpg")
    given = (tmp_path / "in", tmp_path / "in/x.jpg")
    assert len(featherbone.predict(runs[None], given, out=tmp_path / "out").predictions) == 2


def test_unreadable_pictures_are_named_and_counted(runs, tmp_path, capsys):
    """Among other files; where none can be read, nothing is written."""
    save(tmp_path, "in/good.jpg")
    for name, content in {"empty.jpg": b"", "text.png": b"hello", "notes.txt": b"hello", "._x.jpg": b"\0"}.items():
        (tmp_path / "in" / name).write_bytes(content)
    result = featherbone.predict(runs[None], (tmp_path / "in",), out=tmp_path / "out")
    assert [prediction.image.name for prediction in result.predictions] == ["good.jpg"]
    assert {os.path.basename(path) for path in result.skipped} == {"empty.jpg", "text.png"}
    assert json.loads((tmp_path / "out/predictions.json").read_text())["skipped"] == result.skipped
    (tmp_path / "in/good.jpg").unlink()
    with pytest.raises(BadImage, match="none of 2 pictures can be read"):
        featherbone.predict(runs[None], (tmp_path / "in",), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_error_leaves_the_older_predictions(runs, tmp_path, monkeypatch):
    save(tmp_path, "in/x.jpg", "in/y.jpg")
    featherbone.predict(runs[None], (tmp_path / "in/x.jpg",), out=tmp_path / "out")
    before = (tmp_path / "out/predictions.json").read_bytes()

    def fail(image, path):
        if path.stem == "y":
            raise KeyboardInterrupt
        image.save(path)

    monkeypatch.setattr("featherbone.prediction_files.save_picture", fail)
    with pytest.raises(KeyboardInterrupt):
        featherbone.predict(runs[None], (tmp_path / "in",), out=tmp_path / "out")
    assert (tmp_path / "out/predictions.json").read_bytes() == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x.jpg", "predictions.json"}


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_name_that_is_not_utf8_survives_json(runs, tmp_path):
    path = draw_not_utf8(tmp_path)
    featherbone.predict(runs[None], (path,), out=tmp_path / "out")
    (row,) = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    assert row["image"] == str(path) and read_image(row["picture"]).width >= 60
