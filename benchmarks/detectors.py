"""Detection heads with one backbone and one budget: AP for several seeds.

Data sets are pennfudan, nuts, and drawn blood cells, which overlap. The backbones are timm's `tf_efficientnet_lite0`
with its ImageNet weights and `xformer_small` (a reconstruction) from random weights. All settings but the defaults of a
head are the same. Each result is a JSON file, and runs that have one are not repeated. Several processes with the same
command share the runs.

    OMP_NUM_THREADS=1 python benchmarks/detectors.py --data FOLDER --seeds 0 1 2
    python benchmarks/detectors.py --latency
"""

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

import featherbone
from featherbone.files import claim, write_json
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.run import build_task, save_weights
from featherbone.tasks.task import KINDS
from featherbone.tasks.variant import parse_keywords
from pretrained import MODEL, OBJECTS, write_checkpoint

Settings = dict[str, Any]
HEADS = {"nms_free": "", "yolov3": "", "retinanet": "dim=64,num_convs=2"}
"""Heads and their arguments; what else differs are their defaults."""
EPOCHS = {"pennfudan": 8, "nuts": 60, "cells": 16}
"""Epochs by data set: 240 steps of 4 images."""
BACKBONES = (MODEL, "xformer_small")
COMMON: Settings = {
    **OBJECTS,
    "device": "cpu",
    "workers": 0,
    "precision": "fp32",
    "warmup_epochs": 1.0,
    "eval_every": 1000,
}
CLASSES = ("red cell", "white cell", "platelet")
SIDE = (240, 320)
"""Height and width of a drawn picture."""


def draw_cells(index: int) -> tuple[Image.Image, list[tuple[int, list[float]]]]:
    """A picture of blood cells on a pale ground, and the class and box (x y w h) of each.

    Red cells are pale discs with a paler centre, of which many overlap; white ones are large with a dark nucleus of
    lobes; platelets are small and dark.
    """
    draw = random.Random(index)
    height, width = SIDE
    ground = draw.choice([(228, 222, 214), (236, 226, 228), (222, 226, 216)])
    image = Image.new("RGB", (width, height), ground)
    objects = []
    counts = (draw.randint(8, 20), draw.randint(0, 2), draw.randint(0, 4))
    for kind, count in enumerate(counts):
        for _ in range(count):
            radius = (draw.uniform(16, 22), draw.uniform(28, 38), draw.uniform(4, 6))[kind]
            x, y = draw.uniform(0, width), draw.uniform(0, height)
            rx, ry = radius * draw.uniform(0.85, 1.15), radius * draw.uniform(0.85, 1.15)
            layer = Image.new("RGBA", image.size)
            pen = ImageDraw.Draw(layer)
            colour = ((206, 142, 140), (196, 184, 214), (128, 92, 150))[kind]
            pen.ellipse((x - rx, y - ry, x + rx, y + ry), fill=(*colour, 200), outline=(150, 96, 110, 220))
            if kind == 0:
                pen.ellipse((x - rx / 2, y - ry / 2, x + rx / 2, y + ry / 2), fill=(226, 182, 178, 160))
            if kind == 1:
                for lobe in range(draw.randint(2, 4)):
                    u, v = x + rx / 3 * math.cos(2.1 * lobe), y + ry / 3 * math.sin(2.1 * lobe)
                    pen.ellipse((u - rx / 2.6, v - ry / 2.6, u + rx / 2.6, v + ry / 2.6), fill=(96, 64, 140, 235))
            image.paste(layer, (0, 0), layer)
            x1, y1, x2, y2 = max(x - rx, 0), max(y - ry, 0), min(x + rx, width), min(y + ry, height)
            if x2 - x1 > 3 and y2 - y1 > 3:
                objects.append((kind, [x1, y1, x2 - x1, y2 - y1]))
    noise = np.random.default_rng(index).normal(0, 5, (height, width, 3))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), float) + noise
    return Image.fromarray(blurred.clip(0, 255).astype(np.uint8)), objects


def write_cells(folder: Path, train: int = 60, val: int = 30) -> Path:
    """A COCO data set of drawn cells in a new folder; its path."""
    (folder / "annotations").mkdir(parents=True)
    for split, numbers in (("train", range(train)), ("val", range(train, train + val))):
        (folder / split).mkdir()
        images, annotations = [], []
        for number in numbers:
            image, objects = draw_cells(number)
            image.save(folder / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": SIDE[0], "width": SIDE[1]})
            for kind, box in objects:
                about = {"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1}
                annotations.append({**about, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(folder / "annotations" / f"instances_{split}.json", content)
    return folder


def measure(data: Path, name: str, backbone: str, head: str, seed: int, weights: Path) -> dict[str, Any]:
    """Train and evaluate once: a row of the results."""
    began = time.process_time()
    start: Settings = {"checkpoint": str(weights)} if backbone == MODEL else {"pretrained": False}
    with TemporaryDirectory() as folder:
        path = write_cells(Path(folder) / name) if name == "cells" else data / name
        settings = {**COMMON, **start, "head": head, "head_args": HEADS[head], "epochs": EPOCHS[name]}
        result = featherbone.train(path, backbone, out=Path(folder) / "run", seed=seed, **settings)
    figures = {key: result.metrics[key] for key in ("AP", "AP50", "AP75", "images")}
    about = {"data": name, "backbone": backbone, "head": head, "seed": seed}
    return {**about, **figures, "cpu_seconds": round(time.process_time() - began)}


def measure_latency(out: Path) -> None:
    """Measure the untrained detectors of both backbones at 320 px beside their backbones; the tables go to `out`."""
    models = []
    for backbone in BACKBONES:
        models.append(backbone)
        for name, given in HEADS.items():
            head = KINDS["detection"].find_head(name)[1]
            preprocessing = dense_preprocessing(backbone, head, 320)
            about: Settings = {"head": name, "head_args": parse_keywords(given, "head_args"), "settings": {"seed": 0}}
            card = Card("detection", backbone, CLASSES, preprocessing, **about)
            run = out / f"{backbone}-{name}"
            run.mkdir(parents=True, exist_ok=True)
            card.write(run)
            save_weights(run, build_task(card))
            models.append(str(run))
    featherbone.bench(models, image_size=(320,), runtimes=("onnx", "openvino"), out=out / "bench")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and range of AP over the seeds, as Markdown."""
    lines = [f"| data | backbone | {' | '.join(HEADS)} |", "|---|---|" + "---|" * len(HEADS)]
    for name in EPOCHS:
        for backbone in BACKBONES:
            cells = []
            for head in HEADS:
                about = (name, backbone, head)
                values = [row["AP"] for row in rows if (row["data"], row["backbone"], row["head"]) == about]
                spread = f" ({min(values):.3f} to {max(values):.3f}, {len(values)} seeds)" if values else ""
                cells.append(f"{np.mean(values):.3f}{spread}" if values else "not run")
            lines.append(f"| {name} | {backbone} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the results lack, seed by seed; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--latency", action="store_true", help="measure latency, not AP")
    parser.add_argument("--names", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("detectors"))
    given = parser.parse_args(arguments)
    if given.latency:
        return measure_latency(given.out)
    torch.set_num_threads(1)
    given.out.mkdir(exist_ok=True)
    plan = [(b, s, n, h) for b in given.backbones for s in given.seeds for n in given.names for h in given.heads]
    with TemporaryDirectory() as folder:
        weights = write_checkpoint(Path(folder) / f"{MODEL}.pth")
        for backbone, seed, name, head in plan:
            path = given.out / f"{name}-{backbone}-{head}-{seed}.json"
            with claim(path.with_suffix(".lock")) as mine:
                if mine and not path.exists():
                    write_json(path, measure(given.data, name, backbone, head, seed, weights))
    print(table([json.loads(path.read_text()) for path in sorted(given.out.glob("*.json"))]))


if __name__ == "__main__":
    main()
