"""Images that cannot be read are replaced by (seed, epoch, index) in training, omitted in evaluation, and named."""

import builtins
import os

import numpy as np
import pytest
import torch
from PIL import Image

from featherbone.data.dataset import open_data
from featherbone.data.formats import open_split
from featherbone.data.loading import Batches, Samples, eval_loader, train_loader
from featherbone.data.samples import DetectionSamples, SemanticSamples, collate
from featherbone.data.skipped import Reader, Skipped, Unreadable, require_readable
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadData
from featherbone.tasks.dense import augmentation_of
from scenes import write_classification, write_coco, write_masks, write_panoptic, write_yolo

CPU = torch.device("cpu")
BAD = ("train/a/1.png", "train/b/2.png")


@pytest.fixture
def images(tmp_path):
    """Seven pictures of two classes, of which two cannot be read."""
    for label, name in enumerate(("a", "b")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(7):
            Image.new("RGB", (4, 4), (100 * label + i, 0, 0)).save(tmp_path / "train" / name / f"{i}.png")
    (tmp_path / BAD[0]).write_bytes(b"")
    (tmp_path / BAD[1]).write_text("no picture")
    return open_split(tmp_path, "classification", "train").images


def grey(image):
    return torch.tensor([image.getpixel((0, 0))[0]])


def test_a_replacement_follows_from_seed_epoch_and_index(images):
    found = {}
    for seed in range(2):
        for epoch in range(8):
            image, label = Reader(images, seed, training=True)(epoch, 1)
            found[seed, epoch] = value = image.getpixel((0, 0))[0]
            assert value not in (1, 102) and value // 100 == label  # with its own annotations
    for (seed, epoch), value in found.items():
        others = Reader(images, seed, training=True)
        for index in (9, 0, 1, 5):  # after other images, of which one cannot be read
            image, _ = others(epoch, index)
        assert others(epoch, 1)[0].getpixel((0, 0))[0] == value
        assert others.take_met().keys() == {*BAD} and others.take_met() == {}
    assert len({*found.values()}) > 4


def test_an_image_that_cannot_be_read_is_tried_once(images, monkeypatch):
    tried = []
    original = type(images).image
    monkeypatch.setattr(
        type(images), "image", lambda self, index, *rest: tried.append(index) or original(self, index, *rest)
    )
    reader = Reader(images, 0, training=True)
    for epoch in range(5):
        reader(epoch, 1)
        assert BAD[0] in reader.take_met()  # but named whenever it is met
    assert tried.count(1) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_number_of_workers(images, workers):
    def read(count):
        batches = Batches(images, 7, 1, 0, 1, seed=1)
        loader = train_loader(Samples(images, grey, 9, training=True), batches, count, CPU)
        found, met = [], {}
        for epoch in range(3):
            batches.begin(epoch, 0)
            for keys, (values, labels), names in loader:
                assert len(keys) == len(values) == 7 and (values[:, 0] // 100 == labels).all()
                found.append(values)
                met |= names
        assert met.keys() == {*BAD} and all(reason.startswith(name) for name, reason in met.items())
        return torch.stack(found)

    assert torch.equal(read(0), read(workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_them_out_and_names_them(images, workers):
    batches = list(eval_loader(Samples(images, grey), 1 if workers else 4, workers, CPU))
    keys = [index for batch in batches for _, index in batch.keys]
    assert keys == [i for i in range(14) if i not in (1, 9)]
    values = torch.cat([batch.content[0] for batch in batches if batch.keys])[:, 0]
    assert values.tolist() == [100 * (i // 7) + i % 7 for i in keys]
    assert {name for batch in batches for name in batch.met} == {*BAD}
    assert all(batch.content is None for batch in batches if not batch.keys)


def test_mosaics_take_their_parts_from_images_that_can_be_read(tmp_path):
    write_coco(tmp_path, 8, 2, (32, 48))
    (tmp_path / "train/00003.jpg").write_bytes(b"")
    images = open_data(tmp_path, "detection").train
    preprocessing = Preprocessing(64, 64, interpolation="bilinear", rule="fit")
    settings = type("Given", (), dict(flip=0.5, scale=(0.6, 1.4), photometric=0.0, expand=1.0, iou_crop=0.0))
    settings.mosaic, settings.class_share = 1.0, 1.0
    one, other = (DetectionSamples(images, preprocessing, augmentation_of(settings), 0, False) for _ in range(2))
    for index in range(8):
        assert torch.equal(one[0, index][0], other[0, index][0])
    assert one.reader.take_met().keys() == {"train/00003.jpg"}


def test_annotations_that_cannot_be_used_are_treated_alike(tmp_path):
    """A mask of another size, one with a value that is no class, and one that is no picture."""
    write_masks(tmp_path, 8, 2, (32, 40))
    paths = sorted((tmp_path / "masks/train").iterdir())
    values = np.asarray(Image.open(paths[0]))
    Image.fromarray(values[:-1]).save(paths[0])
    Image.fromarray(np.full_like(values, 77)).save(paths[1])
    paths[2].write_bytes(b"")
    images = open_data(tmp_path, "semantic").train
    samples = SemanticSamples(images, Preprocessing(32, 40, interpolation="bilinear", rule="fit"), None, 0)
    (batch,) = eval_loader(samples, 8, 0, CPU, collate=collate)
    assert [index for _, index in batch.keys] == [3, 4, 5, 6, 7] and len(batch.content[1]) == 5
    assert list(batch.met) == [f"images/train/{i:05}.jpg" for i in range(3)]
    sizes, value, empty = batch.met.values()
    assert "40x31" in sizes and "value 77" in value and "an empty file" in empty
    with pytest.raises(Unreadable, match="40x31"):
        samples[0, 0]


def test_too_many_stop_the_work(tmp_path):
    """More than 1% of the images, and more than four."""
    few = Skipped(tmp_path, "train", 20)
    assert few.add({"0": "0: damaged"}) == ["0: damaged"] and few.add({"0": "0: damaged"}) == []
    few.add({str(i): f"{i}: damaged" for i in range(4)})
    message = r"5 of 20 train images cannot be read, more than 1%, as 0: damaged; .*featherbone doctor "
    with pytest.raises(BadData, match=f"{message}{tmp_path}"):
        few.add({"4": "4: damaged"})
    many = Skipped(tmp_path, "val", 1000)
    many.add({str(i): "" for i in range(10)})
    with pytest.raises(BadData, match="11 of 1,000 val images"):
        many.add({"10": ""})


def test_where_none_can_be_read_it_is_known_at_once(images, tmp_path):
    require_readable(images, tmp_path, "train")
    require_readable(images.take([1, 9, 0]), tmp_path, "train")
    with pytest.raises(BadData, match=r"none of 2 train images tried can be read; .*a/1.png: an empty file.*doctor"):
        require_readable(images.take([1, 9]), tmp_path, "train")
    with pytest.raises(BadData, match=r"none of 101 images can be read; the first: train/a/1\.png"):
        Reader(images.take([1, 9]), 0, training=True)(0, 0)


WRITERS = {
    "classification": write_classification,
    "detection": write_coco,
    "instance": write_coco,
    "semantic": write_masks,
    "panoptic": write_panoptic,
}


@pytest.fixture
def opened_files(monkeypatch):
    """Names of the pictures that are opened."""
    names = []

    def watch(module, name):
        original = getattr(module, name)

        def opening(path, *arguments, **keywords):
            if str(path).endswith((".jpg", ".png")):
                names.append(os.path.basename(path))
            return original(path, *arguments, **keywords)

        monkeypatch.setattr(module, name, opening)

    for module, name in ((builtins, "open"), (os, "open"), (__import__("io"), "open")):
        watch(module, name)
    return names


@pytest.mark.parametrize("task", [*WRITERS, "yolo", "panoptic as detection", "panoptic as semantic"])
def test_opening_reads_no_picture(tmp_path, opened_files, task):
    if task == "yolo":
        write, task = write_yolo, "detection"
    elif task.startswith("panoptic as"):
        write, task = write_panoptic, task.split()[-1]
    else:
        write = WRITERS[task]
    write(tmp_path / "data", 6, 3, (32, 40))
    opened_files.clear()
    splits = open_data(tmp_path / "data", task)
    assert len(splits.fingerprint()) >= 16
    assert opened_files == []
    splits.train.read(0)
    assert 1 <= len(opened_files) <= 3  # the image, its map, and the head of either
