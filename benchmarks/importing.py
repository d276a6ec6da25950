"""What `import featherbone` costs beside `import timm` and `import torch`: seconds in fresh processes that take turns.

python benchmarks/importing.py --repeats 15
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("torch", "timm", "featherbone")
CODE = "import time; start = time.perf_counter(), time.process_time(); import {}; " + (
    "print(time.perf_counter() - start[0], time.process_time() - start[1])"
)


def measure(package: str) -> tuple[float, float]:
    """Seconds by the clock and of the CPU that importing a package takes in a new process."""
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE.format(package)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    clock, cpu = map(float, done.stdout.split())
    return clock, cpu


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Measure and print medians, and their ratio to timm's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args(arguments)
    for package in PACKAGES:
        measure(package)  # writes byte code, and fills the cache of the system
    rows = [{package: measure(package) for package in PACKAGES} for _ in range(given.repeats)]
    result = {}
    for package in PACKAGES:
        clock, cpu = (statistics.median(row[package][i] for row in rows) for i in (0, 1))
        ratio = statistics.median(row[package][1] / row["timm"][1] for row in rows)
        result[package] = {"seconds": clock, "CPU s": cpu, "CPU of timm": ratio}
        print(f"{package:12}" + "  ".join(f"{name} {value:.2f}" for name, value in result[package].items()))
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
