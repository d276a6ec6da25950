"""Data loading against the step that it must keep up with, and against timm's loader with the same augmentation.

Images are drawn JPEGs, or those of a folder. Epochs of ours, of timm's and the steps take turns.

    python benchmarks/loading.py --data DIR --workers 1
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm.data
import torch

from featherbone.benchmarking.training import training_step
from featherbone.benchmarking.worker import build
from featherbone.data.dataset import open_data
from featherbone.data.loading import Batches, Samples, train_loader
from featherbone.data.scenes import write_classification
from featherbone.data.transforms import training_transform
from featherbone.engine.settings import complete
from featherbone.tasks.backbone import preprocessing_of


def images_per_second(epoch: Callable[[], int]) -> float:
    """Of one pass."""
    start = time.perf_counter()
    count = epoch()
    return count / (time.perf_counter() - start)


def measure(given: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Images per second: our loader, timm's, and what a training step takes in."""
    settings = complete()
    p = preprocessing_of(given.model, given.image_size)
    names = ("auto_augment", "color_jitter", "erasing", "flip", "min_area")
    chosen = {name: getattr(settings, name) for name in names}
    train, cpu = open_data(data, "classification").train, torch.device("cpu")
    batches = Batches(train, given.batch_size, 1, 0, 1, 0)
    ours = train_loader(Samples(train, training_transform(p, **chosen)), batches, given.workers, cpu)
    theirs = timm.data.create_loader(
        timm.data.create_dataset("", str(data / "train")),
        (3, p.height, p.width),
        given.batch_size,
        is_training=True,
        use_prefetcher=False,
        num_workers=given.workers,
        interpolation=p.interpolation,
        mean=p.mean,
        std=p.std,
        scale=(settings.min_area, 1.0),
        hflip=settings.flip,
        color_jitter=settings.color_jitter,
        auto_augment=settings.auto_augment or None,
        re_prob=settings.erasing,
        re_mode="pixel",
        persistent_workers=given.workers > 0,
        device=cpu,
    )
    images = torch.randn(given.batch_size, 3, p.height, p.width)
    step = training_step(build(given.model, (p.height, p.width)), images, compiled=False, bf16=False)

    def our_epoch() -> int:
        batches.begin(batches.epoch + 1, 0)  # other draws than in the last one, as timm's
        return sum(len(batch.keys) for batch in ours)

    def their_epoch() -> int:
        return sum(len(images) for images, _ in theirs)

    def steps() -> int:
        step()
        return given.batch_size

    sources = {"ours": our_epoch, "timm": their_epoch, "step": steps}
    times: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(given.repeats + 1):
        for name, source in list(sources.items())[:: 1 if turn % 2 else -1]:  # each comes behind the step as often
            rate = images_per_second(source)
            if turn:
                times[name].append(rate)
    return {name: statistics.median(rates) for name, rates in times.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of class folders in train; by default drawn images")
    parser.add_argument("--images", type=int, default=256, help="how many to draw")
    parser.add_argument("--model", default="lvt")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("loading.json"))
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        data = given.data
        if data is None:
            data = Path(name) / "data"
            write_classification(data, given.images, given.images // 2, (300, 400))
        found = measure(given, data)
    given.out.write_text(json.dumps(found, indent=1))
    print("images per second: " + ", ".join(f"{name} {rate:.1f}" for name, rate in found.items()))
    return found


if __name__ == "__main__":
    main()
