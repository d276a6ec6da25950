"""Trainings that are killed at random moments and continued, against one that nobody disturbs.

Each round trains into a new folder; the process is killed (SIGKILL) after a random amount of CPU time, so that a busy
machine kills at the same moments, and started again until it ends by itself. A round holds where weights and metrics
equal those of the undisturbed run to the bit.

    python benchmarks/kills.py --kills 50
"""

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import psutil

from featherbone.data.scenes import write_classification

RUN = ["--image-size", "32", "--batch-size", "8", "--epochs", "3", "--save-seconds", "0", "--ema", "0.9"]
RUN += ["--device", "cpu", "--workers", "0", "--no-pretrained"]


def train(data: Path, model: str, run: Path, limit: float = math.inf) -> tuple[float, bool, str]:
    """Start or resume a run: its CPU seconds, whether it ended before `limit` of them, and how far it came."""
    begun = ["--resume", str(run)] if (run / "card.json").is_file() else ["--data", str(data), "--model", model, *RUN]
    command = [
        sys.executable,
        "-m",
        "featherbone",
        "train",
        *begun,
        *([] if "--resume" in begun else ["--out", str(run)]),
    ]
    with TemporaryFile("w+") as errors:
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        spent = 0.0
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            times = process.cpu_times()
            spent = times.user + times.system
            if spent > limit:
                process.kill()
                process.wait()
                return spent, False, stage(run)
            time.sleep(0.01)
        if process.wait():
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.read()}")
    return spent, True, stage(run)


def stage(run: Path) -> str:
    """How far a run came, by its files."""
    files = {"report.html": "after the report", "metrics.jsonl": "after an epoch", "state.pt": "in the first epoch"}
    files["card.json"] = "before the first state"
    return next((words for name, words in files.items() if (run / name).is_file()), "before the card")


def outcome(run: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The weights, and the rows of metrics without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return (run / "weights.safetensors").read_bytes(), [{k: v for k, v in r.items() if k != "seconds"} for r in rows]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Kill until so many processes were killed, finish the last round, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--model", default="mobilenetv3_small_050")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    draw, moments, rounds, same = random.Random(given.seed), Counter[str](), 0, 0
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_classification(folder / "data", 24, 12, (32, 32))
        duration, _, _ = train(folder / "data", given.model, folder / "undisturbed")
        expected = outcome(folder / "undisturbed")
        while moments.total() < given.kills:
            run, ended = folder / f"round-{rounds}", False
            while not ended:
                limit = draw.uniform(0, 1.1 * duration) if moments.total() < given.kills else math.inf
                _, ended, moment = train(folder / "data", given.model, run, limit)
                moments.update([] if ended else [moment])
            rounds, same = rounds + 1, same + (outcome(run) == expected)
    found = {"kills": moments.total(), "moments": dict(moments), "rounds": rounds, "the same bits": same}
    print(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()
