"""The fast forms of operators against their plain ones: alone, against their matrix products, and in whole models.

Plain models are ours with every operator of `ops/` in its plain form. All that is compared takes turns in one run;
times are medians, memory is what the profiler saw allocated at most.

    python benchmarks/operators.py --threads 2
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

import featherbone
from featherbone.backbones import lightvit, lit, lvt
from featherbone.ops.atrous import atrous, atrous_plain
from featherbone.ops.attention import attention_plain
from featherbone.ops.csa import (
    TAPS,
    convolutional_self_attention,
    convolutional_self_attention_plain,
    tap_attention,
    tap_attention_plain,
)
from featherbone.ops.deform import deformable_merge, deformable_merge_plain
from featherbone.ops.windows import window_attention_plain

MODELS = ("lvt", "lightvit_tiny", "lit_tiny", "xformer_small")


PLAIN: tuple[tuple[type, str, Callable[..., Tensor]], ...] = (
    (lvt.CSA, "mix", convolutional_self_attention_plain),
    (lvt.CSA, "attend_taps", tap_attention_plain),
    (lvt.RASA, "convolve", atrous_plain),
    (lvt.RASA, "attention", attention_plain),
    (lvt.ClassBlock, "attention", attention_plain),
    (lightvit.Attention, "attend_windows", window_attention_plain),
    (lightvit.Attention, "attend", attention_plain),
    (lit.DTM, "merge", deformable_merge_plain),
    (lit.Attention, "attention", attention_plain),
)
"""Class, attribute and plain formula."""


@contextmanager
def plain() -> Iterator[None]:
    """Inside, our backbones compute with plain operators."""
    with ExitStack() as stack:
        for kind, name, formula in PLAIN:
            stack.enter_context(patch.object(kind, name, staticmethod(formula)))
        yield


def in_turn(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median milliseconds of each call, the calls taking turns after one round to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if turn:
                taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def peak(call: Callable[[], Any]) -> float:
    """MB that a call held at most beyond what was there before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    held = most = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 1e6


def operators(batch: int, repeats: int) -> Iterator[dict[str, Any]]:
    """One row an operator, at the size that it has in its model at 224 pixels; forward, and a step with gradients."""
    draw = torch.Generator().manual_seed(0)

    def given(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]

    csa = given((batch, 56, 56, 64), (batch, 28, 28, 2, TAPS**2), (TAPS, 64, 64))
    rows = torch.randn(batch * 28 * 28, 64)
    matrices = torch.randn(9 * 64, 64)

    def products() -> Tensor:  # the values'; the mixing's are 9 / 64 as many, counted below at the same rate
        return F.linear(rows, matrices)

    dtm = given((batch, 56, 56, 64), (batch, 8, 28, 28), (128, 64, 2, 2), (128,))
    maps, kernel = given((batch, 7, 7, 256), (256, 1, 3, 3))
    dilated = [maps.detach().permute(0, 3, 1, 2).requires_grad_(), kernel, 5]  # as they lie in memory
    scores = [*given((batch, 28, 28, 64), (162, 64), (162,)), 2, 0.2]
    for name, fast, slow, args, product in (
        ("CSA", convolutional_self_attention, convolutional_self_attention_plain, csa, products),
        ("CSA's attention", tap_attention, tap_attention_plain, scores, None),
        ("DTM", deformable_merge, deformable_merge_plain, dtm, None),
        ("atrous, dilation 5 on 7x7", atrous, atrous_plain, dilated, None),
    ):

        def step(form: Any = None, args: Any = args) -> None:
            form(*args).sum().backward()

        calls = [lambda fast=fast, args=args: fast(*args), lambda slow=slow, args=args: slow(*args)]
        with torch.inference_mode():
            times = in_turn([*calls, *([product] if product else [])], repeats)
        steps = in_turn([lambda fast=fast: step(fast), lambda slow=slow: step(slow)], repeats)
        memory = [peak(lambda form=form: step(form)) for form in (fast, slow)]
        yield {
            "operator": name,
            "batch": batch,
            "ms": times[0],
            "plain ms": times[1],
            "of its products": times[0] / times[2] / (1 + TAPS / 64) if product else None,
            "step ms": steps[0],
            "plain step ms": steps[1],
            "memory": memory[0] / memory[1],
        }


def model(name: str, batch: int, side: int, repeats: int) -> dict[str, Any]:
    """One row: a model as it is, deployed, and with plain operators."""
    net = timm.create_model(name).eval()
    deployed, images = featherbone.deploy(net, (side, side)), torch.randn(batch, 3, side, side)

    def slow() -> None:
        with plain():
            net(images)

    with torch.inference_mode():
        fast, ready, plainly = in_turn([lambda: net(images), lambda: deployed(images), slow], repeats)
    row = {"model": name, "batch": batch, "ms": fast, "deployed ms": ready, "plain ms": plainly}
    return {**row, "plain / fast": plainly / fast, "plain / deployed": plainly / ready}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown."""

    def show(value: Any) -> str:
        return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    cells = [[show(value) for value in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("operators.json"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {"torch": torch.__version__, "threads": given.threads}
    found["operators"] = [row for batch in given.batch_sizes for row in operators(batch, given.repeats)]
    size = given.image_size
    found["models"] = [model(name, b, size, given.repeats) for b in given.batch_sizes for name in given.models]
    given.out.write_text(json.dumps(found, indent=1))
    print(table(found["operators"]), table(found["models"]), sep="\n\n")
    return found


if __name__ == "__main__":
    main()
