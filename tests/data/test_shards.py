"""Tar shards: written from any data set, found by their index or without it, and refused where they are damaged."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from featherbone.cli import main
from featherbone.data.dataset import open_data
from featherbone.data.doctor.examine import examine
from featherbone.data.formats import find_tasks
from featherbone.data.sampling import WINDOW, shuffle_blocks
from featherbone.data.shard_write import write_shards
from featherbone.data.split import Split
from featherbone.data.tar_index import read_index, scan
from featherbone.errors import BadData, BadImage, BadOption
from label_files import to_stacks
from scenes import write_coco, write_masks, write_panoptic


@pytest.fixture
def made(drawn, tmp_path):
    """Shards of seven images each."""
    write_shards(drawn, tmp_path / "made", samples_per_shard=7)
    return tmp_path / "made"


def contents(images) -> list[tuple[bytes, object]]:
    return sorted((images.encoded(i), images.truth(i)) for i in range(len(images)))


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_tar(path, files, form=tarfile.GNU_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_round_trip_keeps_images_and_labels(drawn, made):
    folder, shards = open_data(drawn, "classification"), open_data(made, "classification")
    assert sorted(path.name for path in made.glob("train*.tar")) == [f"train-{i:06}.tar" for i in range(4)]
    assert find_tasks(made) == ("classification",) and shards.classes == folder.classes
    for split in ("train", "val"):
        assert contents(getattr(shards, split)) == contents(getattr(folder, split))
    assert shards.train.name(0) == "train-000000.tar/000000000.jpg"
    few = shards.train.take([9, 5])
    assert [few.name(i) for i in (0, 1)] == [shards.train.name(i) for i in (9, 5)]
    assert few.encoded(0) == shards.train.encoded(9) and few.truth(1) == shards.train.truth(5)
    assert not [one for one in examine(made, "classification").findings if one.severity == "error"]


def test_training_shards_are_mixed_and_validation_keeps_its_order(drawn, made):
    folder, shards = open_data(drawn, "classification"), open_data(made, "classification")
    assert shards.train.labels.tolist() != folder.train.labels.tolist()
    assert shards.val.labels.tolist() == folder.val.labels.tolist()


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_a_round_trip_keeps_objects(tmp_path, task):
    write_coco(tmp_path / "coco", 5, 3, (48, 64))
    assert write_shards(tmp_path / "coco", tmp_path / "made", task, 2) == {"train": 5, "val": 3}
    coco, shards = open_data(tmp_path / "coco", task), open_data(tmp_path / "made", task)
    assert find_tasks(tmp_path / "made") == ("detection", "instance") and coco.classes == shards.classes
    for before, after in ((coco.train, shards.train), (coco.val, shards.val)):
        found = {after.encoded(i): i for i in range(len(after))}
        assert len(before) == len(after)
        for i in range(len(before)):
            (image, one), (same, other) = before.read(i), after.read(found[before.encoded(i)])
            assert image.tobytes() == same.tobytes() and (one.height, one.width) == (other.height, other.width)
            for name in ("boxes", "labels", "crowd", "areas"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert one.masks == other.masks


def test_a_round_trip_keeps_masks(tmp_path):
    write_masks(tmp_path / "masks", 5, 3, (48, 64))
    write_shards(tmp_path / "masks", tmp_path / "made", samples_per_shard=2)
    masks, shards = open_data(tmp_path / "masks", "semantic"), open_data(tmp_path / "made", "semantic")
    assert find_tasks(tmp_path / "made") == ("semantic",) and masks.classes == shards.classes
    for before, after in ((masks.train, shards.train), (masks.val, shards.val)):
        found = {after.encoded(i): i for i in range(len(after))}
        for i in range(len(before)):
            (image, one), (same, other) = before.read(i), after.read(found[before.encoded(i)])
            assert image.tobytes() == same.tobytes()
            np.testing.assert_array_equal(one, other)
    few = shards.train.take([3, 1])
    np.testing.assert_array_equal(few.truth(0), shards.train.truth(3))
    assert few.name(1) == shards.train.name(1) and few.fingerprint() != shards.train.fingerprint()
    assert not [one for one in examine(tmp_path / "made", "semantic").findings if one.severity == "error"]


def test_an_index_is_that_of_the_headers_and_is_only_used_for_its_shard(made):
    shard = made / "train-000000.tar"
    index = read_index(made, shard.name)
    assert index == scan(made, shard.name) and index.size == shard.stat().st_size
    assert list(index.texts) == index.names[1::2] and len(index.names) == 14
    beside = made / f"{shard.name}.index"
    expected = open_data(made, "classification").fingerprint()
    moved = json.loads(beside.read_text()) | {"names": index.names[::-1]}
    for text in ("{", "[]", json.dumps(moved | {"size": 1}), json.dumps(moved | {"offsets": [2**40] * 14})):
        beside.write_text(text)
        assert open_data(made, "classification").fingerprint() == expected
    beside.write_text(json.dumps(moved))  # of the size of its shard
    assert read_index(made, shard.name).names == index.names[::-1]
    for path in made.glob("*.index"):
        path.unlink()
    assert open_data(made, "classification").fingerprint() == expected


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_other_tools(tmp_path, form):
    """Folders, other members, long names, capitals, names of classes, and links and sound beside the pictures."""
    long = "d/" * 40 + "n" * 50
    files = {
        "a/1.JPG": png(1), "a/1.cls": b"oak\n", "a/1.txt": b"a tree", "b/1.cls": b"pine", "b/1.png": png(2),
        f"{long}.png": png(3), f"{long}.cls": "\ufeffoak".encode(), "._a.png": b"mac", "alone.json": b"{}",
    }  # fmt: skip
    write_tar(tmp_path / "train/000000.tar", files, form)
    write_tar(tmp_path / "val" / "000000.tar", {"1.png": png(4), "1.cls": b"pine"}, form)
    found = open_data(tmp_path, "classification")
    assert found.classes == ("oak", "pine") and found.train.labels.tolist() == [0, 1, 0]
    assert found.val.labels.tolist() == [1]
    assert [found.train.image(i).getpixel((0, 0))[0] for i in range(3)] == [1, 2, 3]
    assert found.train.name(1) == "train/000000.tar/b/1.png"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: whole[:-20000], "unexpected end of data"),
        (lambda whole: whole[: -(-len(whole.rstrip(b"\0")) // 512) * 512], "cut off at byte"),  # between two files
        (lambda whole: b"no tar " * 300, "invalid header"),
        (lambda whole: b"", "empty file"),
        (lambda whole: whole.replace(b"000000007.cls", b"000000008.cls", 1), "damaged or cut off at byte"),
    ],
)
def test_a_damaged_shard_is_one_message(made, content, reason, capsys, tmp_path):
    shard = made / "train-000001.tar"
    shard.write_bytes(content(shard.read_bytes()))
    shard.with_name(f"{shard.name}.index").unlink()
    message = rf"train-000001\.tar: not a whole tar file without compression \(.*{reason}.*\); copy"
    with pytest.raises(BadData, match=message):
        open_data(made, "classification")
    assert main(["train", "--data", str(made), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("train-000001.tar") == 1


def test_a_shard_that_is_cut_off_later_is_an_unreadable_image(made):
    images = open_data(made, "classification").train
    shard = made / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(BadImage, match=r"train-000000\.tar/000000006\.jpg: the shard is cut off before its end"):
        images.image(6)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"1.png": png(), "1.cls": b"0", "2.png": png()}, r"train-0\.tar: 1 sample of 2 without \.cls, as 2\.png; add"),
        ({"1.png": png(), "1.txt": b"0"}, r"have no \.cls, \.json with objects or \.mask\.png, but png, txt; write"),
        ({"1.png": png(), "1.jpg": png(), "1.cls": b"0"}, r"train-0\.tar: 1 twice, or with two images"),
        ({"1.png": png(), "1.cls": b"900"}, r"number the classes from 0"),
        ({"1.png": png(), "1.cls": b"\xff"}, r"not a whole tar file"),
    ],
)
def test_samples_that_cannot_be_trained_on_are_refused(tmp_path, files, reason):
    write_tar(tmp_path / "train-0.tar", files)
    with pytest.raises(BadData, match=reason):
        find_tasks(tmp_path)
        open_data(tmp_path, "classification")


def test_a_class_that_is_not_listed_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("oak\npine\n")
    write_tar(tmp_path / "train-0.tar", {"1.png": png(), "1.cls": b"fir"})
    with pytest.raises(BadData, match=r"class 'fir' is not listed in classes\.txt; list it, or correct the label"):
        open_data(tmp_path, "classification")
    write_tar(tmp_path / "train-0.tar", {"1.png": png(), "1.cls": b"2"})
    with pytest.raises(BadData, match="labels run from 2 to 2, but 2 class names allow 0 to 1"):
        open_data(tmp_path, "classification")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"objects": [{"category": "fir", "bbox": [0, 0, 1, 1]}]}', r"object 1: category 'fir' is not listed"),
        ('{"objects": [{"category": 0, "bbox": [0, 0, 1e99, 1]}]}', r"object 1: bbox .*; write x, y, width and height"),
        ('{"objects": [{"category": 0, "bbox": [0, 0, 1]}]}', r"its \.json is not that of objects .*; write width"),
        ('{"objects": [{"category": 0, "bbox": [0, 0, 1, 1], "iscrowd": 2}]}', r"iscrowd 2; write 0 or 1"),
    ],
)
def test_objects_that_cannot_be_read_are_refused(tmp_path, text, reason):
    (tmp_path / "classes.txt").write_text("oak\npine\n")
    good = b'{"objects": [{"category": "oak", "bbox": [0, 0, 2, 2]}, {"category": 1, "bbox": [1, 1, 2, 2]}]}'
    write_tar(tmp_path / "train-0.tar", {"1.png": png(), "1.json": good, "2.png": png(1), "2.json": text.encode()})
    with pytest.raises(BadData, match=reason):
        open_data(tmp_path, "detection")


def test_an_archive_beside_images_is_no_shard(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "data")
    write_tar(tmp_path / "data/train.tar", {"train/a.jpg": png()})
    assert len(open_data(tmp_path / "data", "classification").train) == 24


def test_segments_are_written_as_objects(tmp_path):
    write_panoptic(tmp_path / "maps", 3, 1, (48, 64))
    write_shards(tmp_path / "maps", tmp_path / "made", "instance")
    before, after = open_data(tmp_path / "maps", "instance").val, open_data(tmp_path / "made", "instance").val
    assert before.truth(0).masks == after.truth(0).masks and len(after.truth(0))
    assert before.truth(0).labels.tolist() == after.truth(0).labels.tolist()


def test_stacks_are_written_as_arrays(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "data")
    to_stacks(tmp_path / "data")
    write_shards(tmp_path / "data", tmp_path / "made")
    before, after = (open_data(tmp_path / name, "classification").val for name in ("data", "made"))
    assert after.name(0).endswith(".npy")
    assert np.array_equal(after.image(0, 3).values, before.image(0, 3).values)


def test_what_is_not_written_is_refused(drawn, tmp_path):
    write_panoptic(tmp_path / "maps", 2, 1, (32, 32))
    with pytest.raises(BadOption, match="shards for panoptic are not written"):
        write_shards(tmp_path / "maps", tmp_path / "made", "panoptic")
    with pytest.raises(BadOption, match="0 samples a shard; pass 1 or more"):
        write_shards(drawn, tmp_path / "made", samples_per_shard=0)
    with pytest.raises(BadOption, match="not an empty folder"):
        write_shards(drawn, tmp_path / "maps")
    assert not (tmp_path / "made").exists()


def test_the_command_writes_what_it_reports(drawn, tmp_path, capsys):
    assert main(["data", "shards", str(drawn), "--out", str(tmp_path / "made"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path / "made"), "images": {"train": 24, "val": 12}}
    with pytest.raises(SystemExit) as stop:
        main(["data", "--help"])
    page = capsys.readouterr().out
    assert stop.value.code == 0 and "featherbone data" in page and "panoptic" in page and "shards" in page


@pytest.mark.parametrize("sizes", [[3000, 10, 2500], [100] * 50, [1] * 3000, [5000]])
def test_blocks_are_shuffled_and_stay_together(sizes):
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    orders = [shuffle_blocks(blocks, 3, epoch) for epoch in (0, 0, 1)]
    assert orders[0].tolist() == orders[1].tolist() != orders[2].tolist()
    assert sorted(orders[0].tolist()) == list(range(len(blocks)))
    for block, size in enumerate(sizes):
        at = np.flatnonzero(blocks[orders[0]] == block)
        assert at.max() - at.min() < max(size, WINDOW)


def test_few_images_are_permuted_as_in_any_split():
    class Images(list):
        order, blocks = Split.order, Split.blocks

    assert shuffle_blocks(np.arange(50) // 7, 3, 2).tolist() == Images(range(50)).order(3, 2).tolist()
