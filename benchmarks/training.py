"""A training step with and without channels-last layout and a fused optimiser, in turn: milliseconds.

The step is that of `featherbone bench --train`, on random images.

    python benchmarks/training.py --threads 2
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

import featherbone  # noqa: F401  # registers ours
from featherbone.benchmarking.training import training_step
from operators import in_turn, table

MODELS = ("lvt", "lightvit_tiny", "xformer_small", "lit_tiny", "mobilenetv3_large_100")
FORMS = {
    "as torch makes it": (torch.contiguous_format, False),
    "fused AdamW": (torch.contiguous_format, True),
    "channels-last": (torch.channels_last, False),
    "both": (torch.channels_last, True),
}


def measure(name: str, images: torch.Tensor, repeats: int) -> dict[str, Any]:
    """One row."""
    steps = [
        training_step(timm.create_model(name), images, layout=layout, fused=fused) for layout, fused in FORMS.values()
    ]
    return {"model": name, **dict(zip(FORMS, in_turn(steps, repeats), strict=True))}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("training.json"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    images = torch.randn(given.batch_size, 3, given.image_size, given.image_size)
    rows = [measure(name, images, given.repeats) for name in given.models]
    given.out.write_text(json.dumps(rows, indent=1))
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
