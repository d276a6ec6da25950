"""Opening a classification set and reading an epoch of it, as files, Parquet and tar shards.

    python benchmarks/streaming.py --images 20000 [--before OTHER/src]

Each figure is from a separate process; forms take turns. An epoch reads image files in the order of training, without
decoding them. `--before` measures other sources on the forms that they read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

FORMS = ("files", "parquet", "shards", "shards without indexes")
BYTES = 20_000
"""Mean size of an image file."""


def write_sets(folder: Path, count: int) -> None:
    """The same images, which are noise behind the head of a JPEG file, in each form."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from featherbone.data.shard_write import write_shards

    generator = np.random.default_rng(0)
    for label in range(10):
        (folder / "files/train" / f"c{label}").mkdir(parents=True)
    for index in range(count):
        content = b"\xff\xd8\xff\xe0" + generator.bytes(int(generator.integers(BYTES // 2, 3 * BYTES // 2)))
        (folder / "files/train" / f"c{index % 10}" / f"{index:06}.jpg").write_bytes(content)
    for name in FORMS[2:]:
        write_shards(folder / "files", folder / name)
    for path in (folder / FORMS[3]).glob("*.index"):
        path.unlink()
    files = sorted((folder / "files/train").rglob("*.jpg"))
    order = generator.permutation(count)
    (folder / "parquet").mkdir()
    for part, at in enumerate(range(0, count, 2000)):
        chosen = [files[i] for i in order[at : at + 2000].tolist()]
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in chosen]
        table = pa.table({"image": images, "label": [int(path.parent.name[1:]) for path in chosen]})
        pq.write_table(table, folder / "parquet" / f"train-{part:05}.parquet", row_group_size=1000)


def peak() -> int:
    """The largest memory of this process so far in KB; `getrusage` counts that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(data: Path) -> dict[str, float]:
    """CPU seconds of opening, images a second of an epoch, and peak memory above that of the imports in MB."""
    from featherbone.data.formats import open_split

    before = peak()
    start = time.process_time()
    opened = open_split(data, "classification", "train")
    assert opened is not None, data
    images, seconds = opened.images, time.process_time() - start
    plain = np.random.default_rng((0, 0)).permutation(len(images))
    order = images.order(0, 0) if hasattr(images, "order") else plain
    start = time.perf_counter()
    for index in order.tolist():
        images.encoded(index)
    rate = len(order) / (time.perf_counter() - start)
    return {"open": seconds, "images a second": rate, "MB": (peak() - before) / 1024}


def main() -> None:
    """Measure in processes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    sources = {"now": Path(__file__).parents[1] / "src"} | ({"before": given.before} if given.before else {})
    with tempfile.TemporaryDirectory() as folder:
        write_sets(Path(folder), given.images)
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(given.repeats):
            for form in FORMS:
                for name, source in sources.items():
                    if name == "now" or not form.startswith("shards"):
                        command = [sys.executable, __file__, "--measure", str(Path(folder) / form)]
                        environment = {**os.environ, "PYTHONPATH": str(source)}
                        text = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
                        found.setdefault((form, name), []).append(json.loads(text))
        for (form, name), rows in found.items():
            figures = ", ".join(f"{key} {median(row[key] for row in rows):.2f}" for key in rows[0])
            print(f"{form}, {name}: {figures}")


if __name__ == "__main__":
    main()
