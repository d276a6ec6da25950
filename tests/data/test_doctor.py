"""Every problem of a data set is found, named and counted, and a sound one has no findings."""

import io
import json
import re
import shutil
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from examined import Page, picture
from featherbone.data.dataset import inspect_data
from featherbone.data.doctor.examine import examine, examine_splits
from featherbone.data.findings import Examination, Finding
from featherbone.report.doctor import write_doctor_page

FLOWERS = (Path(__file__).parents[2] / "../shared/data/flowers5").resolve()
COUNTS = {"train": 10, "val": 2}


def huge_png() -> bytes:
    """The file of a plain picture whose head states 20,000 x 20,000 pixels."""
    content = png(Image.new("1", (8, 8)))
    head = b"IHDR" + struct.pack(">II", 20_000, 20_000) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def data(tmp_path) -> Path:
    """A sound data set: two classes, ten images each to train, two to validate."""
    seed = 0
    for split, count in COUNTS.items():
        for name in ("oak", "pine"):
            folder = tmp_path / "trees" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                picture(seed := seed + 1).save(folder / f"{index}.png")
    return tmp_path / "trees"


def found(data: Path) -> dict[str, Finding]:
    findings = examine(data, "classification", 64).findings
    assert len({finding.code for finding in findings}) == len(findings)
    return {finding.code: finding for finding in findings}


def only(data: Path, severity: str, code: str, count: int) -> Finding:
    """The one finding there is."""
    findings = found(data)
    assert list(findings) == [code]
    assert (findings[code].severity, findings[code].count) == (severity, count)
    return findings[code]


def test_a_sound_data_set_has_no_findings(data):
    examination = examine(data, "classification", 64)
    assert examination.findings == () and not examination.spoiled
    assert examination.classes == ("oak", "pine")
    assert examination.counts == {"train": (10, 10), "val": (2, 2)}


def test_unreadable_files_each_with_its_reason(data):
    folder = data / "train/oak"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    bad = {
        "bomb.png": (huge_png(), "larger than 178 megapixels"),
        "cut.png": (png(noise)[:3000], "damaged"),
        "empty.jpg": (b"", "an empty file"),
        "letter.jpg": (b"Dear reader", "not a picture"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    finding = only(data, "error", "unreadable", 4)
    assert [example.names for example in finding.examples] == [(f"train/oak/{name}",) for name in bad]
    for example, (_, reason) in zip(finding.examples, bad.values(), strict=True):
        assert example.note.startswith(reason)
    assert examine(data, "classification").counts["train"] == (10, 10)


def test_a_small_share_of_damaged_files_is_a_warning(data):
    for seed in range(80):  # with the 24 there are, one in 105 is damaged
        picture(1000 + seed, (64, 64)).save(data / "train" / ("oak", "pine")[seed % 2] / f"more {seed}.png")
    (data / "train/oak/cut.png").write_bytes(b"")
    only(data, "warning", "unreadable", 1)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("palette", lambda image: image.convert("P")),
        ("transparent", lambda image: image.convert("RGBA")),
        ("grey", lambda image: image.convert("L")),
        ("sixteen-bit", lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)),
        ("cmyk", lambda image: image.convert("CMYK")),
    ],
)
def test_kinds_of_pictures_are_counted(data, code, change):
    for split in COUNTS:
        path = data / split / "pine/0.png"
        image = change(Image.open(path))
        path.unlink()
        image.save(path.with_suffix(".jpg" if code == "cmyk" else ".png"))
    only(data, "note", code, 2)


def test_pictures_stored_sideways_are_counted_and_measured_upright(data):
    exif = Image.Exif()
    for index, orientation in enumerate((1, 6, 3)):
        exif[0x0112] = orientation
        path = data / f"train/oak/{index}.png"
        Image.open(path).save(path, exif=exif)
    finding = only(data, "note", "exif-rotated", 2)
    assert [(*example.names, example.note) for example in finding.examples] == [
        ("train/oak/1.png", "80 x 96"),
        ("train/oak/2.png", "96 x 80"),
    ]


def test_sizes_that_do_not_fit(data):
    picture(500, (96, 31)).save(data / "train/oak/0.png")
    picture(501, (30, 200)).save(data / "train/oak/1.png")
    picture(502, (32, 32)).save(data / "train/oak/2.png")  # just half of the input
    findings = found(data)
    assert set(findings) == {"small-images", "extreme-aspect"}
    notes = {code: [example.note for example in finding.examples] for code, finding in findings.items()}
    assert notes == {"small-images": ["96 x 31", "30 x 200"], "extreme-aspect": ["96 x 31", "30 x 200"]}
    assert (
        next(
            finding.count for finding in examine(data, "classification", 400).findings if finding.code == "small-images"
        )
        == 24
    )


def test_classes_that_cannot_be_trained_or_evaluated(data):
    (data / "train/elm").mkdir()
    assert only(data, "error", "empty-class", 1).examples[0].names == ("elm",)
    for index in range(2):
        picture(600 + index).save(data / f"train/elm/{index}.png")
    findings = found(data)
    assert set(findings) == {"few-images", "class-missing-in-val"}
    (data / "val/fir").mkdir()
    picture(700).save(data / "val/fir/0.png")
    assert found(data)["class-only-in-val"].severity == "error"
    for index in range(12):
        picture(800 + index).save(data / f"train/oak/more {index}.png")
    (data / "train/elm/1.png").unlink()
    assert [example.note for example in found(data)["class-imbalance"].examples] == ["1 image", "22 images"]


def test_class_names_that_differ_only_by_case_or_space(data):
    for split in COUNTS:
        (data / split / "oak").rename(data / split / "stone pine")
        (data / split / "pine").rename(data / split / "Stone  Pine")
    assert only(data, "warning", "alike-class-names", 1).examples[0].names == ("Stone  Pine", "stone pine")


def test_one_class_only(data):
    for split in COUNTS:
        shutil.rmtree(data / split / "oak")
    assert "one class only, pine; two or more are needed" in only(data, "error", "one-class", 1).message


def copy(data: Path, source: str, target: str) -> None:
    image = Image.open(data / source)
    image.resize((image.width // 2 * 3, image.height // 2 * 3)).save(data / target, quality=70)


def test_copies_conflict_leak_or_are_spare(data):
    copy(data, "train/oak/0.png", "train/oak/again.jpg")
    finding = only(data, "note", "duplicates", 1)
    assert finding.examples[0].names == ("train/oak/0.png", "train/oak/again.jpg")
    copy(data, "train/oak/1.png", "val/oak/leak.jpg")
    assert found(data)["leakage"].examples[0].names == ("train/oak/1.png", "val/oak/leak.jpg")
    assert found(data)["leakage"].severity == "error"
    copy(data, "train/oak/2.png", "train/pine/stray.jpg")
    shutil.copy(data / "train/oak/3.png", data / "val/pine/stray.png")
    conflict = found(data)["label-conflict"]
    assert [example.names for example in conflict.examples] == [
        ("train/oak/2.png", "train/pine/stray.jpg"),
        ("train/oak/3.png", "val/pine/stray.png"),
    ]
    assert conflict.examples[0].note == "oak or pine?" and found(data)["leakage"].count == 2


def test_files_out_of_place(data):
    (data / "train/oak/notes.txt").touch()
    picture(900).save(data / "val/loose.png")
    shutil.copytree(data / "val", data / "validation")
    assert {code: finding.examples[0].names[0] for code, finding in found(data).items()} == {
        "not-pictures": "train/oak/notes.txt",
        "no-class": "val/loose.png",
        "unused-folder": "validation",
    }


def test_what_lacks_everything_still_gets_an_examination(data, tmp_path):
    shutil.rmtree(data / "val")
    assert set(found(data)) == {"no-validation", "few-images"} and examine(data, "classification").counts == {
        "train": (8, 8),
        "val": (2, 2),
    }
    (data / "val/oak").mkdir(parents=True)
    assert found(data)["no-validation-images"].severity == "error"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert set(found(empty)) == {"no-images"} and examine(empty, "classification").spoiled
    (empty / "train").mkdir()
    picture(0).save(empty / "train/loose.png")
    assert "the pictures in train have no class" in found(empty)["unreadable-split"].message


def test_nothing_to_hold_out_and_nothing_to_read(data):
    for file in data.glob("val/*/*.png"):
        file.write_bytes(b"")
    assert found(data)["no-readable-image-in-val"].severity == "error"
    shutil.rmtree(data / "val")
    for file in data.glob("train/*/[1-9].png"):
        file.unlink()
    assert found(data)["nothing-to-hold-out"].severity == "error"


@cache
def stored(seed: int) -> bytes:
    return png(picture(seed))


def write_parquet(folder: Path, labels: list[int], split: str = "train") -> None:
    folder.mkdir(exist_ok=True)
    images = [{"bytes": stored(1000 * len(split) + i), "path": ""} for i in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{split}.parquet")


def test_labels_of_parquet_files(tmp_path):
    folder = tmp_path / "parquet"
    write_parquet(folder, [0] * 10 + [1] * 10)
    write_parquet(folder, [0, 1], "val")
    assert found(folder) == {}
    (folder / "classes.txt").write_text("oak\npine\n")
    write_parquet(folder, [0] * 10 + [1] * 10 + [2, -1])
    outside = found(folder)["labels-out-of-range"]
    assert "labels run from -1 to 2, but 2 class names allow 0 to 1" in outside.message
    assert [(*example.names, example.note) for example in outside.examples] == [
        ("train.parquet row 20", "label 2"),
        ("train.parquet row 21", "label -1"),
    ]
    write_parquet(folder, [1] * 10 + [2] * 10)
    shifted = found(folder)["labels-shifted"]
    assert shifted.severity == "error" and "labels run from 1 to 2; they start at 0, so subtract 1" in shifted.message
    (folder / "train.parquet").write_bytes(b"nothing of the kind")
    findings = found(folder)
    assert "train.parquet: not Parquet" in findings["unreadable-split"].message and "no-images" not in findings


@pytest.mark.skipif(not FLOWERS.is_dir(), reason="needs the shared photos")
def test_photos_are_not_flooded_with_findings():
    splits, findings = inspect_data(FLOWERS, "classification")
    some = {split: images.take(range(0, len(images), 4)) for split, images in splits.items()}
    examination = examine_splits("flowers", some, "classification", findings=findings)
    assert {finding.code for finding in examination.findings} <= {"extreme-aspect"}
    assert not examination.spoiled and sum(map(sum, examination.counts.values())) == sum(map(len, some.values())) > 150


def test_the_page_holds_all_and_needs_nothing(data, tmp_path):
    evil = "<script>alert('&')</script>".replace("/", "")
    (data / "train" / evil).mkdir()
    for index in range(3):
        copy(data, f"train/oak/{index}.png", f"train/{evil}/<b>{index}.png")
    examination = examine(data, "classification", 64)
    write_doctor_page(examination, tmp_path / "new folder" / "page.html")
    html = (tmp_path / "new folder" / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == [] and "<script" not in html and "<b>" not in html
    text = "".join(page.text)
    for finding in examination.findings:
        assert finding.code in text and finding.message in text
        assert all(name in text for example in finding.examples for name in example.names)
    assert all(name in text for name in examination.classes) and "Fix the errors before training" in text
    assert len(page.addresses) == 6 and all(at.startswith("data:image/jpeg;base64,") for at in page.addresses)
    assert not re.search(r"https?://", html)


def test_the_page_of_many_classes_shows_both_ends(tmp_path):
    names = tuple(f"class {k}" for k in range(1000))
    examination = Examination("data", names, {"train": tuple(range(1000)), "val": (0,) * 1000}, ())
    write_doctor_page(examination, tmp_path / "p.html")
    text = "".join(Page((tmp_path / "p.html").read_text()).text)
    assert all(f"class {k}" in text for k in (*range(20), *range(980, 1000))) and "class 500" not in text
    assert "960 more between these" in text and "Ready for training" in text and "Nothing to fix" in text


def test_the_json_is_plain_and_whole(data):
    (data / "train/oak/cut.png").write_bytes(b"")
    (data / "train/oak/notes.txt").touch()
    examination = examine(data, "classification", 64)
    plain = json.loads(json.dumps(examination.to_json()))
    assert plain["spoiled"] is True and plain["counts"] == {"train": [10, 10], "val": [2, 2]}
    assert [finding["code"] for finding in plain["findings"]] == ["unreadable", "not-pictures"]  # worst first
    assert plain["findings"][1]["examples"] == [{"names": ["train/oak/notes.txt"], "note": ""}]
