"""`predict --rows` against its network alone, and its memory for few and for many pictures.

Speed: rounds take turns; in each, the network computes ready tensors, then the whole command (a model loaded, pictures
listed, read, computed and written to Parquet) takes as many pictures, with each number of reading threads. Memory: the
peak of a process that predicts on so many pictures, with a small network. The pictures are drawn JPEGs.

    GOMP_SPINCOUNT=1000 python benchmarks/predicting.py --models lvt mobilenetv3_small_100
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import featherbone
from featherbone.data.scenes import write_classification
from featherbone.predictor import load
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import Card
from featherbone.tasks.classification import build_classifier
from featherbone.tasks.run import save_weights

SMALL, SMALL_SIDE = "mobilenetv3_small_050", 64
"""Network of the measurement of memory, and the side of its input."""
PEAK = """
import re, sys, featherbone
result = featherbone.predict(sys.argv[1], (sys.argv[2],), out=sys.argv[3], rows="parquet", device="cpu")
assert result.errors == 0 and result.predicted == int(sys.argv[4])
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def write_run(folder: Path, model: str, side: int) -> Path:
    """A run folder of an untrained classifier of ten classes."""
    classes = tuple("abcdefghij")
    folder.mkdir()
    Card("classification", model, classes, preprocessing_of(model, side)).write(folder)
    save_weights(folder, build_classifier(model, classes))
    return folder


def write_pictures(folder: Path, size: tuple[int, int], counts: Sequence[int]) -> list[Path]:
    """A folder with so many pictures for each of `counts`, 200 of which are different."""
    write_classification(folder / "drawn", 200, 6, size)
    drawn = [path.read_bytes() for path in sorted((folder / "drawn" / "train").glob("*/*"))]
    folders = [folder / str(count) for count in counts]
    for place, count in zip(folders, counts, strict=True):
        for i, content in enumerate(islice(cycle(drawn), count)):
            if i % 1000 == 0:
                (place / str(i)).mkdir(parents=True)
            (place / str(i - i % 1000) / f"{i}.jpg").write_bytes(content)
    return folders


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor time of a piece of work."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def measure_speed(run: Path, pictures: Path, given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Pictures per second, and the network's share of time and of processor time; medians of the rounds."""
    predictor = load(run, "cpu")
    p = predictor.card.preprocessing
    batch = torch.randn(given.batch_size, 3, p.height, p.width)
    count = sum(1 for _ in pictures.glob("*/*"))

    @torch.inference_mode()
    def network() -> None:
        for _ in range(count // given.batch_size):
            predictor.task(batch)

    def command(workers: int) -> None:
        out = scratch / f"out-{time.monotonic_ns()}"
        options = {"rows": "parquet", "batch_size": given.batch_size, "device": "cpu", "workers": workers}
        featherbone.predict(run, (str(pictures),), out=out, **options)

    rounds: list[dict[str, tuple[float, float]]] = []
    for number in range(given.repeats + 1):
        times = {"network": seconds(network)}
        times |= {f"{workers} threads": seconds(lambda workers=workers: command(workers)) for workers in given.workers}
        rounds += [times] if number else []  # the first round warms up
    return {
        name: {
            "pictures per second": statistics.median(count / row[name][0] for row in rounds),
            "of the network": statistics.median(row["network"][0] / row[name][0] for row in rounds),
            "processor time": statistics.median(row["network"][1] / row[name][1] for row in rounds),
        }
        for name in rounds[0]
    }


def measure_memory(run: Path, pictures: Path, out: Path) -> dict[str, float]:
    """Peak memory in MB of a process, and its pictures per second."""
    count, start = int(pictures.name), time.perf_counter()
    command = [sys.executable, "-c", PEAK, *map(str, (run, pictures, out, count))]
    done = subprocess.run(command, check=True, text=True, capture_output=True)
    return {"MB": int(done.stdout) / 1024, "seconds": time.perf_counter() - start}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["lvt"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=320, help="pictures of a round")
    parser.add_argument("--picture-size", type=int, nargs=2, default=(240, 320), help="height and width")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 20_000], help="numbers of pictures")
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        pictures, *many = write_pictures(folder, tuple(given.picture_size), [given.pictures, *given.memory])
        for model in given.models:
            run = write_run(folder / f"run-{model}", model, given.image_size)
            found[model] = measure_speed(run, pictures, given, folder)
        small = write_run(folder / "small", SMALL, SMALL_SIDE)
        found["memory"] = {place.name: measure_memory(small, place, folder / f"out-{place.name}") for place in many}
    print(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()
