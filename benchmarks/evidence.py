"""Our own claims, measured with `featherbone.compare`: the tables of docs/evidence.md.

Several processes with the same command share the training; a stopped one continues. Learning rate, schedule and
augmentation are the same for all models and were not tuned for any.

    python benchmarks/evidence.py --data cifar10 --out evidence
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import featherbone
from ablations import register
from featherbone.comparison.result import ComparisonResult, sentence

SIDE = 32
TRAINED = {
    **{name: name for name in ("lvt", "lightvit_tiny", "xformer_small", "lit_tiny")},
    **{name: name for name in ("pvt_v2_b0", "mobilenetv2_100", "efficientnet_b0")},
    "deit_tiny": f"deit_tiny_patch16_224@img_size={SIDE},patch_size=4",
    "lvt_depth1": "lvt@recursion=1",
    "lvt_depth3": "lvt@recursion=3",
    "lvt_random": "lvt@recursion=random",
    **{name: name for name in ("lvt_conv", "xformer_small_softmax", "lit_tiny_plain")},
    **{name: name for name in ("lightvit_tiny_local", "lightvit_tiny_plain_mlp")},
}
"""What is trained, by label; `lvt` is that of the paper, with depth 2."""
TABLES: dict[str, tuple[str, ...]] = {
    "families": tuple(list(TRAINED)[:8]),
    "csa": ("lvt", "lvt_conv"),
    "xfa": ("xformer_small", "xformer_small_softmax"),
    "dtm": ("lit_tiny", "lit_tiny_plain"),
    "lightvit": ("lightvit_tiny", "lightvit_tiny_local", "lightvit_tiny_plain_mlp"),
    "rasa": ("lvt_depth1", "lvt", "lvt_depth3"),
    "depth": (*(f"lvt_random@recursion={depth}" for depth in (1, 2, 3)), "lvt_depth1", "lvt", "lvt_depth3"),
}  # fmt: skip
"""Comparisons of trained ones; with a suffix at another depth than they were trained with."""
SETTINGS: dict[str, Any] = dict(
    image_size=SIDE, batch_size=64, lr=1e-3, warmup_epochs=0.1, auto_augment="", erasing=0.0, min_area=0.6,
    smoothing=0.0, pretrained=False, precision="fp32", device="cpu", workers=0,
)  # fmt: skip


def compare_finished(labels: Sequence[str], out: Path, seeds: int, speed: bool) -> ComparisonResult:
    """Compare runs of `out`; two models with a depth chosen after training are the same runs."""
    sources = []
    for label in labels:
        name, _, arguments = label.partition("@")
        for seed in range(seeds):
            run = out / "trained" / "runs" / name / f"seed-{seed}"
            sources.append(f"{label.replace('@recursion=', ' at ')}={run}{arguments and '@' + arguments}")
    return featherbone.compare(tuple(sources), speed=speed, out=out / "-".join(labels)[:60], device="cpu", workers=0)


def as_markdown(name: str, result: ComparisonResult) -> str:
    """A table, and the verdicts of its pairs."""
    titles, *rows = result.table()
    lines = [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]
    lines += ["", *(f"- {sentence(pair, result.margin)}" for pair in result.pairs)]
    return "\n".join(
        [f"## {name}", "", *lines, "", f"{result.num_images} images of {result.split}; {result.machine}.", ""]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, compare, and write `evidence.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("evidence"))
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    given = parser.parse_args(arguments)
    register()
    wanted = dict.fromkeys(label.partition("@")[0] for name in given.tables for label in TABLES[name])
    models = tuple(f"{label}={TRAINED[label]}" for label in wanted)
    asked = dict(data=given.data, seeds=given.seeds, speed=False, out=given.out / "trained")
    featherbone.compare(models, **asked, epochs=given.epochs, **SETTINGS)
    pages = [
        as_markdown(name, compare_finished(TABLES[name], given.out, given.seeds, speed=name in ("families", "depth")))
        for name in given.tables
    ]
    (given.out / "evidence.md").write_text("\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    main()
