"""What `predict` does with one photo at 640 px, step by step, for each dense head: medians over photos.

The networks are untrained, so the score above which objects are shown is set for each photo such that `--objects` are.

    python benchmarks/dense_predicting.py --photos FOLDER --objects 10
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

import featherbone
from featherbone.draw import draw_record, save_picture
from featherbone.predictor import Predictor, find_images
from featherbone.tasks.card import Card
from featherbone.tasks.dense import dense_preprocessing
from featherbone.tasks.run import build_task, save_weights
from featherbone.tasks.task import KINDS

STEPS = ("read", "network and decoding", "drawing", "writing")
CLASSES = tuple(f"class {i}" for i in range(20))


def write_run(folder: Path, kind: str, head: str, backbone: str, side: int) -> Path:
    """A run folder of an untrained model of 20 classes."""
    preprocessing = dense_preprocessing(backbone, KINDS[kind].find_head(head)[1], side)
    things = tuple(range(10)) if kind == "panoptic" else ()
    card = Card(kind, backbone, CLASSES, preprocessing, head=head, things=things, settings={"seed": 0})
    folder.mkdir()
    card.write(folder)
    torch.manual_seed(0)
    save_weights(folder, build_task(card))
    return folder


def measure(predictor: Predictor, photo: Path, out: Path, score: float) -> list[float]:
    """Seconds of each step for one photo."""
    predictor.score = score
    times = [perf_counter()]
    image = predictor.prepare(photo, keep=True)
    times.append(perf_counter())
    record = predictor.records([image])[0]
    times.append(perf_counter())
    picture = draw_record(image.picture, record)
    times.append(perf_counter())
    save_picture(picture, out)
    times.append(perf_counter())
    return [end - start for start, end in pairwise(times)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each head; print a table row for each and, last, all values as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--backbone", default="lvt")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=6, help="number of photos")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", default=["detection", "instance", "semantic", "panoptic"])
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    photos = find_images([given.photos])[: given.repeats]
    found = {}
    print(f"| head | {' | '.join(STEPS)} | all, ms |\n|{'---|' * (len(STEPS) + 2)}")
    with TemporaryDirectory() as folder:
        for kind in given.tasks:
            for head in KINDS[kind].heads:
                run = write_run(Path(folder) / head, kind, head, given.backbone, given.size)
                predictor, rows = featherbone.load(run, "cpu", None if kind == "semantic" else 0.0), []
                for photo in photos:
                    record = predictor(photo)
                    parts = getattr(record, "segments", None)
                    scores = [part.score or 0.0 for part in parts] if parts else getattr(record, "scores", ())
                    score = ([*sorted(scores, reverse=True), 0.0] + [0.0] * given.objects)[given.objects]
                    rows.append(measure(predictor, photo, Path(folder) / "picture.jpg", score))
                steps = [1000 * median(step) for step in zip(*rows, strict=True)]
                found[head] = dict(zip((*STEPS, "all"), (*steps, 1000 * median(map(sum, rows))), strict=True))
                print(f"| {head} | {' | '.join(f'{ms:.0f}' for ms in found[head].values())} |", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
