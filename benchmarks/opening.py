"""What opening a large data set costs: a folder of 100,000 files, and a COCO file of 30,000 images, 223,000 polygons.

Each figure comes from a process that does nothing else; the processes take turns, and the median counts. `--before`
measures an older checkout in the same run.

    python benchmarks/opening.py --before OTHER/src
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

SIDES = (480, 640)
"""Height and width of the images in the COCO file."""
BATCH, SIZE = 32, 96
"""Images of the first batch, and their side in pixels at the network's input."""


def draw_jpeg(size: tuple[int, int], seed: int = 0) -> bytes:
    """A picture of smooth colours."""
    grid = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(grid).resize(size[::-1], Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def draw_folder(root: Path, count: int) -> None:
    """A folder of 100 classes, of which a twentieth is for validation."""
    pictures = [draw_jpeg((SIZE, SIZE), seed) for seed in range(20)]
    for split, of in (("train", count - count // 20), ("val", count // 20)):
        for label in range(100):
            folder = root / split / f"class {label:03}"
            folder.mkdir(parents=True)
            for number in range(of // 100):
                (folder / f"{number:08}.jpg").write_bytes(pictures[number % 20])


def draw_coco(root: Path, num_images: int, num_objects: int) -> None:
    """A COCO file of polygons of 8 to 49 corners, and a small one for validation; the images are links to one file."""
    rng, (height, width) = np.random.default_rng(0), SIDES
    for split, images, objects in (("train", num_images, num_objects), ("val", 100, 700)):
        (root / split).mkdir(parents=True)
        (root / split / "0.jpg").write_bytes(draw_jpeg(SIDES))
        rows, listed = [], []
        for i in range(images):
            name = f"{i:012}.jpg"
            os.link(root / split / "0.jpg", root / split / name)
            listed.append({"id": i, "file_name": name, "height": height, "width": width})
        (root / split / "0.jpg").unlink()
        for i in range(objects):
            turns = np.linspace(0, 2 * np.pi, rng.integers(8, 50), endpoint=False)
            radii = rng.uniform(5, 45) * rng.uniform(0.8, 1.2, len(turns))
            points = rng.uniform(50, 430, 2) + radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)
            points = points.clip(0, (width, height)).round(2)
            (x, y), (w, h) = points.min(0).tolist(), np.ptp(points, 0).round(2).tolist()
            row = {"id": i, "image_id": int(rng.integers(images)), "category_id": int(rng.integers(1, 81))}
            row |= {"bbox": [x, y, w, h], "area": round(w * h, 2), "iscrowd": 0}
            rows.append(row | {"segmentation": [points.ravel().tolist()]})
        classes = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
        content = {"images": listed, "annotations": rows, "categories": classes}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content, separators=(",", ":")))


def memory(field: str, file: str = "status") -> float:
    """A figure of this process in MB."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of `work`, its seconds by the clock and of the CPU, and the memory that it took at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return result, {"seconds": seconds, "CPU s": cpu, "peak MB": memory("VmHWM") - before}


def measure_walk(data: Path) -> dict[str, float]:
    """os.walk, and sorting the paths."""

    def walk() -> list[str]:
        return sorted(os.path.join(folder, name) for folder, _, names in os.walk(data) for name in names)

    walk()
    return timed(walk)[1]


def measure_open(data: Path, task: str) -> dict[str, float]:
    """Opening a data set for training, and its fingerprint."""
    from featherbone.data.dataset import open_data

    splits, found = timed(lambda: open_data(data, task))
    return found | {"fingerprint CPU s": timed(splits.fingerprint)[1]["CPU s"]}


def measure_pycocotools(data: Path) -> dict[str, float]:
    """Pycocotools' COCO of the training file."""
    from pycocotools.coco import COCO

    return timed(lambda: COCO(str(data / "annotations/instances_train.json")))[1]


def measure_start(data: Path) -> dict[str, float]:
    """From nothing open to the first batch, against reading a batch."""
    import torch

    from featherbone.data.loading import Batches, train_loader
    from featherbone.engine.job import Job
    from featherbone.engine.settings import complete
    from featherbone.tasks.backbone import preprocessing_of

    def start() -> Any:
        job = Job("classification", data, settings)
        samples = job.kind.samples(job.train, preprocessing_of("lvt", SIZE), settings, training=True)
        order = Batches(job.train, BATCH, 1, 0, 1, 0)
        batches = iter(train_loader(samples, order, 0, torch.device("cpu"), job.kind.collate))
        next(batches)
        return batches

    settings = complete(device="cpu", workers=0)
    batches, found = timed(start)
    return {"seconds": found["seconds"], "batch seconds": timed(lambda: next(batches))[1]["seconds"]}


class Touched:
    """Names and annotations of images, read in worker processes; each item is the worker's own memory in MB."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> float:
        self.images.name(index), self.images.truth(index)
        return memory("Private_", "smaps_rollup") if index % 1000 < 2 else 0.0


def measure_workers(data: Path, task: str) -> dict[str, float]:
    """Memory of a loader's workers that no other process shares, at the beginning and the end of an epoch."""
    from torch.utils.data import DataLoader

    from featherbone.data.dataset import open_data

    images = open_data(data, task).train
    values = [value for batch in DataLoader(Touched(images), 1000, num_workers=2) for value in batch.tolist() if value]
    return {"first MB": values[0], "last MB": values[-1]}


MEASURES: dict[str, Callable[[Path], dict[str, float]]] = {
    "walk": lambda root: measure_walk(root / "folder"),
    "folder": lambda root: measure_open(root / "folder", "classification"),
    "start": lambda root: measure_start(root / "folder"),
    "pycocotools": lambda root: measure_pycocotools(root / "coco"),
    "coco detection": lambda root: measure_open(root / "coco", "detection"),
    "coco instance": lambda root: measure_open(root / "coco", "instance"),
    "workers folder": lambda root: measure_workers(root / "folder", "classification"),
    "workers coco": lambda root: measure_workers(root / "coco", "detection"),
}
OTHERS = ("walk", "pycocotools")
"""Measures without our code."""


def run(name: str, root: Path, source: str) -> dict[str, float]:
    """One measure in a process, with the code in `source`."""
    command = [sys.executable, __file__, "--measure", name, "--root", str(root)]
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", help="folder of an older featherbone package")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--objects", type=int, default=223_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help="where the data is, or is drawn and kept")
    parser.add_argument("--out", type=Path, default=Path("opening.json"))
    given = parser.parse_args(arguments)
    if given.measure:
        found = MEASURES[given.measure](given.root)
        print(json.dumps(found))
        return found
    sources = {"now": str(Path(__file__).parents[1] / "src"), **({"before": given.before} if given.before else {})}
    rows: dict[str, list[dict[str, float]]] = {}
    with TemporaryDirectory() as name:
        root = given.root or Path(name)
        if not (root / "folder").is_dir():
            draw_folder(root / "folder", given.files)
        if not (root / "coco").is_dir():
            draw_coco(root / "coco", given.images, given.objects)
        for _ in range(given.repeats):
            for measure in given.only:
                for when, source in sources.items():
                    if when == "now" or measure not in OTHERS:
                        key = measure if measure in OTHERS else f"{measure}, {when}"
                        rows.setdefault(key, []).append(run(measure, root, source))
                        print(key, rows[key][-1], file=sys.stderr, flush=True)
    medians = {key: {name: statistics.median(row[name] for row in of) for name in of[0]} for key, of in rows.items()}
    given.out.write_text(json.dumps(medians, indent=1))
    for key, figures in medians.items():
        print(f"{key:24}" + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return medians


if __name__ == "__main__":
    main()
