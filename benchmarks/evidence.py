"""Our own claims, measured with `featherbone.compare`: the tables of docs/evidence.md.

Classifiers are trained on cifar10, detectors with one backbone and its ImageNet weights on pennfudan. Several processes
with the same command share the training; a stopped one continues. Learning rate, schedule and augmentation are the same
for all classifiers and were not tuned for any.

    python benchmarks/evidence.py --data FOLDER --out evidence
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import featherbone
from ablations import register
from featherbone.comparison.result import ComparisonResult, sentence
from featherbone.comparison.trials import REPORT, do_all
from featherbone.files import claim
from pretrained import MODEL, OBJECTS, write_checkpoint

SIDE = 32
TRAINED = {
    **{name: name for name in ("lvt", "lightvit_tiny", "xformer_small", "lit_tiny")},
    **{name: name for name in ("pvt_v2_b0", "mobilenetv2_100", "efficientnet_b0")},
    "deit_tiny": f"deit_tiny_patch16_224@img_size={SIDE},patch_size=8",
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
DETECTORS: dict[str, Any] = dict(
    epochs=8, warmup_epochs=1.0, eval_every=8, precision="fp32", device="cpu", workers=0
)  # fmt: skip
HEADS = {"retinanet": "dim=64,num_convs=2", "yolov3": "anchors=fit"}
"""Detectors and their arguments."""
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
            run = out / "runs" / name / f"seed-{seed}"
            sources.append(f"{label.replace('@recursion=', ' at ')}={run}{arguments and '@' + arguments}")
    folder = out / "compared" / "-".join(labels).replace("@", "-")[:60]
    return featherbone.compare(tuple(sources), speed=speed, out=folder, device="cpu", workers=0)


def train_detector(data: Path, out: Path, head: str, seed: int) -> bool:
    """Train a detector unless another process does; whether it is finished."""
    run = out / "runs" / head / f"seed-{seed}"
    if not (run / REPORT).is_file():
        with claim(run.with_suffix(".lock")) as ours:
            if ours:
                featherbone.train(
                    data,
                    MODEL,
                    out=run,
                    resume=Path("auto"),
                    checkpoint=str(write_checkpoint(out / f"weights-{head}-{seed}.pth")),
                    seed=seed,
                    **{**OBJECTS, **DETECTORS, "head": head, "head_args": HEADS[head]},
                )
    return (run / REPORT).is_file()


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
    parser.add_argument("--tables", nargs="+", default=[*TABLES, "detectors"], choices=[*TABLES, "detectors"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    given = parser.parse_args(arguments)
    register()
    pages = []
    tables = [name for name in given.tables if name in TABLES]
    if tables:
        wanted = dict.fromkeys(label.partition("@")[0] for name in tables for label in TABLES[name])
        models = tuple(f"{label}={TRAINED[label]}" for label in wanted)
        asked = dict(data=given.data / "cifar10", seeds=given.seeds, speed=False, out=given.out / "cifar10")
        if len(models) > 1:
            featherbone.compare(models, **asked, epochs=given.epochs, **SETTINGS)
        for name in tables:
            speed = name in ("families", "depth")
            pages.append(as_markdown(name, compare_finished(TABLES[name], given.out / "cifar10", given.seeds, speed)))
    if "detectors" in given.tables:
        data, out = given.data / "pennfudan", given.out / "pennfudan"
        do_all([partial(train_detector, data, out, head, seed) for seed in range(given.seeds) for head in HEADS])
        found = compare_finished(tuple(HEADS), out, given.seeds, speed=True)
        pages.append(as_markdown("detectors", found))
    (given.out / f"{'-'.join(given.tables)}.md").write_text("\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    main()
