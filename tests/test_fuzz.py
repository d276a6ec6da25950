"""Every kind of file that is read from outside, damaged: a result, findings or one message, and nothing else."""

import io
import json
import random
import shutil
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from featherbone.data.dataset import open_data
from featherbone.data.formats import open_split
from featherbone.data.shard_write import write_shards
from featherbone.data.transforms import Preprocessing
from featherbone.engine.run import METRICS, STATE, fit_optimiser, load_state, read_metrics, save_state, write_metrics
from featherbone.errors import BadImage, FeatherboneError
from featherbone.exporters.exported import ExportedTask
from featherbone.exporters.manifest import MANIFEST, Manifest, read_manifest
from featherbone.metrics.detection import read_coco_results
from featherbone.tasks.card import CARD, WEIGHTS, Card
from featherbone.tasks.run import build_task, fit, load_weights, save_weights
from fuzz import mutate_bytes, mutate_json, mutate_value
from label_files import write_cvat, write_labelme, write_voc
from scenes import write_classification, write_coco, write_masks, write_panoptic, write_yolo

SIZE = (48, 64)
THE_CARD = Card(
    "semantic",
    "test_resnet",
    ("a", "b", "c"),
    Preprocessing(64, 64, rule="fit"),
    model_args={"drop_path_rate": 0.1},
    head="segformer",
    head_args={"dim": 16},
    data={"path": "data", "fingerprint": "f", "train": 2, "val": 1, "skipped": {"x": "y"}, "category_ids": [1, 2, 3]},
    settings={"val_share": 0.2, "seed": 0, "ignore_index": None, "zero_ignored": False, "unlabelled": "negative"},
    metrics={"mIoU": 0.5, "best_score": 0.5, "images": 1, "per_class": [0.1, None, 0.3]},
    versions={"torch": "2"},
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of each kind, and the network of the card."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_coco(folder / "coco", 4, 2, SIZE)
    write_yolo(folder / "yolo", 4, 2, SIZE)
    write_masks(folder / "masks", 3, 2, SIZE)
    write_panoptic(folder / "panoptic", 3, 2, SIZE)
    for name, write in (("voc", write_voc), ("labelme", write_labelme), ("cvat", write_cvat)):
        write(folder / "coco", folder / name)
    write_classification(folder / "classes", 6, 6, (32, 32))
    (folder / "parquet").mkdir()
    for split in ("train", "val"):
        files = sorted((folder / "classes" / split).rglob("*.jpg"))
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = pa.array([{"bytes": file.read_bytes(), "path": file.name} for file in files], kind)
        labels = [f"c{i % 2}" for i in range(len(files))]
        pq.write_table(pa.table({"image": images, "label": labels}), folder / "parquet" / f"{split}.parquet")
    write_shards(folder / "coco", folder / "shards", "instance")
    (folder / "run").mkdir()
    THE_CARD.write(folder / "run")
    task = build_task(THE_CARD)
    save_weights(folder / "run", task)
    row = {"epoch": 1, "step": 3, "lr": 0.1, "train": {"loss": 1.5}, "val": {"mIoU": 0.5}, "seconds": 1.0}
    write_metrics(folder / "run", [row, row | {"epoch": 2}])
    (folder / "file").mkdir()
    (folder / "file" / "model.onnx").write_bytes(b"\x08\x0a")
    shipped = replace(THE_CARD, data={}, settings={})
    Manifest(shipped, "onnx", "model.onnx", ("logits",), {"kind": "argmax"}).write(folder / "file")
    rows = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
    rows.append(rows[0] | {"segmentation": {"size": list(SIZE), "counts": [10, 5, SIZE[0] * SIZE[1] - 15]}})
    (folder / "results.json").write_text(json.dumps(rows))
    return folder, task, a_state()


def a_state():
    """Of a small network in training."""
    net = torch.nn.Linear(2, 3)
    optimiser = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    state = {"step": 1, "best": 0.5, "sums": {"loss": 1.0}, "seconds": 2.0, "task": net.state_dict(), "ema": None}
    return net, optimiser, state | {"optimiser": optimiser.state_dict(), "scaler": None}


def open_objects(data):
    """By training's way, and by the doctor's, which reads on where training stops."""
    with suppress(FeatherboneError):
        open_data(data, "instance")
    opened = open_split(data, "detection", "train")
    for index in range(len(opened.images) if opened else 0):
        opened.images.truth(index)


def open_maps(data, task):
    with suppress(FeatherboneError):
        open_data(data, task)
    open_split(data, task, "train")


def open_card(run):
    with torch.device("meta"):
        build_task(Card.read(run))


def open_export(folder):
    ExportedTask(read_manifest(folder)[1], lambda images: [images])


def open_results(folder):
    read_coco_results(folder / "results.json", {1: SIZE}, (1, 2), ("a", "b"))


def read_shards(data):
    """Every image by the index beside, and again by the headers."""
    for _ in range(2):
        images = open_data(data, "instance").train
        for index in range(len(images)):
            with suppress(BadImage):
                images.read(index)
        (data / "train-000000.tar.index").unlink(missing_ok=True)


JSON = {
    "coco": ("coco", "annotations/instances_train.json", open_objects),
    "panoptic": ("panoptic", "annotations/panoptic_train.json", lambda data: open_maps(data, "panoptic")),
    "labelme": ("labelme", "train/000.json", open_objects),
    "results": (".", "results.json", open_results),
    "card": ("run", CARD, open_card),
    "manifest": ("file", MANIFEST, open_export),
}
TEXT = {
    "yolo list": ("yolo", "data.yaml", open_objects),
    "yolo labels": ("yolo", "labels/train/00001.txt", open_objects),
    "voc": ("voc", "Annotations/train_001.xml", open_objects),
    "voc list": ("voc", "ImageSets/Main/train.txt", open_objects),
    "cvat": ("cvat", "annotations.xml", open_objects),
    "classes": ("masks", "classes.txt", lambda data: open_maps(data, "semantic")),
    "metrics": ("run", METRICS, read_metrics),
    "parquet": ("parquet", "train.parquet", lambda data: open_data(data, "classification")),
    "shard": ("shards", "train-000000.tar", read_shards),
    "index": ("shards", "train-000000.tar.index", read_shards),
}
KINDS = [*((name, *about, mutate_json) for name, about in JSON.items())]
KINDS += [(name, *about, mutate_bytes) for name, about in TEXT.items()]


def survives(seed, told, read):
    """Run `read`; anything but a result or a `FeatherboneError` fails with the seed and the mutation."""
    try:
        read()
    except FeatherboneError as error:
        assert 10 < len(str(error)) < 5000, f"seed {seed}, {told}: {error}"
    except Exception:
        pytest.fail(f"seed {seed}, {told}:\n{traceback.format_exc(limit=-4)}", pytrace=False)


@pytest.mark.parametrize(("name", "folder", "file", "read", "mutate"), KINDS, ids=[kind[0] for kind in KINDS])
def test_a_damaged_file_is_one_message(name, folder, file, read, mutate, world, tmp_path):
    shutil.copytree(world[0] / folder, tmp_path / "data")
    path = tmp_path / "data" / file
    sound = path.read_bytes()
    read(tmp_path / "data")
    for seed in range(130):
        content, told = mutate(sound, random.Random(f"{name} {seed}"))
        path.write_bytes(content)
        survives(seed, told, lambda: read(tmp_path / "data"))


def test_damaged_weights_are_one_message(world, tmp_path):
    folder, task, _ = world
    sound = (folder / "run" / WEIGHTS).read_bytes()
    head = int.from_bytes(sound[:8], "little") + 8
    for seed in range(60):
        generator = random.Random(f"weights {seed}")
        if seed % 2:  # the description, which is JSON
            content, told = mutate_json(sound[8:head], generator)
            content = len(content).to_bytes(8, "little") + content + sound[head:]
        else:
            content, told = mutate_bytes(sound, generator)
        (tmp_path / WEIGHTS).write_bytes(content)
        survives(seed, told, lambda: load_weights(tmp_path, task))


def test_a_damaged_state_is_one_message(world, tmp_path):
    net, optimiser, state = world[2]

    def read():
        found = load_state(tmp_path)
        fit(net, found["task"], Path(STATE))
        fit_optimiser(optimiser, found["optimiser"], tmp_path)

    buffer = io.BytesIO()
    torch.save(state, buffer)
    for seed in range(160):
        generator = random.Random(f"state {seed}")
        if seed % 2:
            content, told = mutate_value(state, generator)
            save_state(tmp_path, content)
        else:
            content, told = mutate_bytes(buffer.getvalue(), generator)  # without a digest, so that it is read
            (tmp_path / STATE).write_bytes(content)
        survives(seed, told, read)
