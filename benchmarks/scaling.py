"""Cost against input size: milliseconds of one image in growing squares, and how they grow with the pixels.

The exponent is the slope of log time against log pixels between the two largest sizes: 1 grows as the pixels do, 2 as
attention over all positions would.

    python benchmarks/scaling.py --threads 2 --models lvt lvt@key_side=7
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

import featherbone
from featherbone.benchmarking.models import count_macs
from featherbone.tasks.variant import split_variant
from operators import in_turn, table

MODELS = ("lvt", "lightvit_tiny", "xformer_small", "lit_tiny")


def grow(name: str, sides: Sequence[int], repeats: int) -> dict[str, Any]:
    """One row: milliseconds at every size, and the exponents of time and of multiply-adds."""
    backbone, arguments = split_variant(name)
    net = featherbone.deploy(timm.create_model(backbone, **arguments).eval())
    images = [torch.randn(1, 3, side, side) for side in sides]
    with torch.inference_mode():
        times = in_turn([lambda x=x: net(x) for x in images], repeats)
    macs = [count_macs(net, side, side) for side in sides]
    pixels = 2 * math.log(sides[-1] / sides[-2])
    row = {"model": name, **{f"{side} px": ms for side, ms in zip(sides, times, strict=True)}}
    return {
        **row,
        "exponent": math.log(times[-1] / times[-2]) / pixels,
        "of MACs": math.log(macs[-1] / macs[-2]) / pixels,
    }


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 512, 768, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    rows = [grow(name, given.sides, given.repeats) for name in given.models]
    given.out.write_text(json.dumps(rows, indent=1))
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
