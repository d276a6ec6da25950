"""Calls of one predictor from several threads at once, against as many calls in a row, in turn.

python benchmarks/threads.py --models mobilenetv3_small_100 lvt --threads 8
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from featherbone.predictor import Predictor
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import Card
from featherbone.tasks.classification import build_classifier


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU time of a piece of work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(model: str, threads: int, repeats: int) -> dict[str, Any]:
    """Medians of a model's rounds; each round is `threads` calls in a row, then as many at once."""
    classes = ("a", "b")
    card = Card("classification", model, classes, preprocessing_of(model, 224))
    predictor = Predictor(card, build_classifier(model, classes), torch.device("cpu"))
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    rows: list[tuple[float, float, float, float]] = []
    with ThreadPoolExecutor(threads) as pool:
        for number in range(repeats + 1):
            row = seconds(lambda: [predictor(picture) for _ in range(threads)])
            once = seconds(lambda: list(pool.map(predictor, [picture] * threads)))
            rows += [(*row, *once)] if number else []  # the first round warms up
    wall, cpu, wall_threads, cpu_threads = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = [row[2] / row[0] for row in rows]
    return {
        "model": model,
        "in a row, s": wall,
        "CPU, s": cpu,
        "threads, s": wall_threads,
        "threads' CPU, s": cpu_threads,
        "threads / in a row": statistics.median(ratios),
    }


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, and print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mobilenetv3_small_100", "lvt"])
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args(arguments)
    rows = [measure(model, given.threads, given.repeats) for model in given.models]
    print(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
