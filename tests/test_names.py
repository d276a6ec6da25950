"""Names of files and classes in any bytes and letters: files are opened by their real names and shown readably."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import featherbone.fonts
from featherbone.cli import main
from featherbone.data.dataset import open_data
from featherbone.draw import contact_sheet, draw_record, font
from featherbone.errors import BadData, BadImage
from featherbone.files import write_json
from featherbone.fonts import DEJAVU, find_font, readable
from featherbone.report import svg
from featherbone.report.run import draw_confusion, draw_precision
from featherbone.results import Classification
from featherbone.text import printable, to_bytes
from scenes import write_coco, write_masks

CAFE = os.fsdecode(b"caf\xe9")
NAMES = (
    *("$5_to_$10", "_hidden", "日本", "قطة", "a\nb <b>", r"\$\frac{1", CAFE, "x" * 90),
    *("\x1b[31mred", "zero\u200bwidth"),
)
TRAIN = [
    *"--model mobilenetv3_small_050 --image-size 64 --epochs 1 --batch-size 4 --workers 0 --device cpu".split(),
    "--no-pretrained",
]


def test_text_is_printable_and_bytes_differ():
    assert printable(f"{CAFE}\x1b\n\té日") == "caf\ufffd\ufffd\n\té日"
    assert to_bytes(CAFE) != to_bytes("caf\ufffd") and to_bytes("é") == "é".encode()
    assert str(BadImage(f"{CAFE}.jpg: damaged")) == "caf\ufffd.jpg: damaged"


def test_files_hold_printable_text(tmp_path):
    write_json(tmp_path / f"{CAFE}.json", {CAFE: "\ud83d"})
    assert json.loads((tmp_path / f"{CAFE}.json").read_text("utf-8")) == {"caf\ufffd": "\ufffd"}


def test_plots_draw_every_name_as_it_is():
    count = len(NAMES)
    svg(draw_confusion(np.eye(count, dtype=int), NAMES))
    figure = draw_precision([np.linspace(1, i / 20, 101) for i in range(8)], NAMES[:8])
    svg(figure)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert {"$5_to_$10", "_hidden", "قطة", "a b <b>", "caf\ufffd", "mean"} <= {*texts} and len(texts) == 9


def test_pictures_draw_every_name():
    image = Image.new("RGB", (240, 240))
    for name in NAMES:
        drawn = draw_record(image, Classification((0,), (name,), (1.0,)))
        assert len(np.unique(np.asarray(drawn)[240:].reshape(-1, 3), axis=0)) > 3  # letters, smoothed
    contact_sheet([image] * len(NAMES), NAMES)


def test_letters_that_no_font_has_are_codes_and_reported_once(monkeypatch, capsys):
    monkeypatch.setattr(featherbone.fonts, "_installed", lambda none: ())
    monkeypatch.setattr(featherbone.fonts, "_reported", set())
    featherbone.fonts._find_font.cache_clear()
    assert find_font("日本", "cat") == DEJAVU
    assert [readable("日本 cat", DEJAVU) for _ in range(2)] == ["[65E5][672C] cat"] * 2
    assert readable("قطة αβγ çé", DEJAVU) == "قطة αβγ çé"
    err = capsys.readouterr().err
    assert err.count("no installed font has 日本") == 1 and "install a font that has them" in " ".join(err.split())
    featherbone.fonts._find_font.cache_clear()


def test_an_installed_font_with_the_letters_is_used(monkeypatch, tmp_path):
    """A second font whose letters are told to include what DejaVu Sans lacks."""
    other = shutil.copy(DEJAVU, tmp_path / "other.ttf")
    letters = {DEJAVU: frozenset(map(ord, "cat")), str(other): frozenset(map(ord, "cat日本"))}
    monkeypatch.setattr(featherbone.fonts, "_letters", letters.__getitem__)
    monkeypatch.setattr(featherbone.fonts, "_installed", lambda none: () if none else (str(other),))
    featherbone.fonts._find_font.cache_clear()
    assert (find_font("cat"), find_font("日本")) == (DEJAVU, str(other))
    assert font(12, "日本").path == str(other) and readable("日本", str(other)) == "日本"
    featherbone.fonts._find_font.cache_clear()


def classes(root, names=("daisy", CAFE), train=4, val=2):
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        for label, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                values = np.random.default_rng((seed, label, i)).integers(0, 90, (64, 72, 3))
                values[..., label] += 160
                Image.fromarray(values.astype(np.uint8)).save(root / split / name / f"{i}.jpg")
    os.rename(root / "train" / "daisy" / "0.jpg", root / "train" / "daisy" / f"{CAFE}.jpg")
    os.rename(root / "val" / "daisy" / "0.jpg", root / "val" / "daisy" / f"{CAFE}.jpg")
    return root


def test_the_commands_take_names_that_are_not_utf8(tmp_path, capsys):
    data, out = classes(tmp_path / CAFE), tmp_path / "run"
    assert main(["doctor", str(data), "--out", str(tmp_path / "d.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["caf\ufffd", "daisy"]
    assert main(["train", "--data", str(data), "--out", str(out), *TRAIN]) == 0
    assert json.loads((out / "card.json").read_text("utf-8"))["classes"] == ["caf\ufffd", "daisy"]
    capsys.readouterr()
    assert main(["predict", str(out), str(data / "val"), "--out", str(tmp_path / "p"), "--json"]) == 0
    images = [row["image"] for row in json.loads(capsys.readouterr().out)["predictions"]]
    assert any(image.endswith("caf\ufffd.jpg") for image in images) and (tmp_path / "p" / "predictions.json").is_file()
    assert main(["evaluate", str(out), "--data", str(data)]) == 0
    (data / "val" / "daisy" / f"{CAFE}.jpg").write_bytes(b"no picture")
    assert main(["doctor", str(data), "--out", str(tmp_path / "d.html")]) == 1
    assert "caf\ufffd.jpg" in (tmp_path / "d.html").read_text("utf-8")


def test_class_folders_that_differ_in_bytes_only_are_refused(tmp_path):
    classes(tmp_path, ("daisy", CAFE, os.fsdecode(b"caf\xe8")))
    with pytest.raises(BadData, match=r"two class folders are called caf.* rename one"):
        open_data(tmp_path, "classification")


def test_masks_of_names_that_are_not_utf8_are_found(tmp_path):
    write_masks(tmp_path, 3, 2, (32, 32))
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        first = sorted((tmp_path / kind / "train").iterdir())[0]
        first.rename(first.with_name(f"{CAFE}.{suffix}"))
    splits = open_data(tmp_path, "semantic")
    assert len(splits.train) == 3 and len(splits.fingerprint()) == 16
    assert splits.train.truth(0).shape == splits.train.size(0)


def test_class_names_that_are_formulas_end_no_training(tmp_path):
    write_coco(tmp_path / "data", 6, 3, (64, 64))
    for path in (tmp_path / "data" / "annotations").iterdir():
        content = json.loads(path.read_text())
        for category, name in zip(content["categories"], NAMES[:6], strict=False):
            category["name"] = name
        path.write_text(json.dumps(content))
    command = ["train", "--data", str(tmp_path / "data"), "--task", "detection", "--head", "yolov3", *TRAIN]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
