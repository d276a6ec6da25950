"""The doctor's page: verdict, images or objects of each class, sizes of objects, and every finding with examples."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherbone.data.findings import SEVERITIES, Examination, ObjectFacts, many
from featherbone.report import render

MAX_CLASSES = 40
"""With more classes, the chart shows only the largest and the smallest."""


def write_doctor_page(examination: Examination, path: Path) -> None:
    """Write the page of an examination."""
    counts = Counter(finding.severity for finding in examination.findings)
    splits = [split for split, counted in examination.counts.items() if any(counted)]
    shown, omitted = class_rows(examination, splits)
    render(
        "doctor.html",
        path,
        examination=examination,
        name=Path(examination.data).name,
        severities=[(severity, many(counts[severity], severity)) for severity in SEVERITIES if counts[severity]],
        summary=summarise(examination),
        splits=splits,
        classes=shown,
        omitted=omitted,
        sizes=size_chart(examination.objects) if examination.objects else None,
    )


def summarise(examination: Examination) -> list[str]:
    """Numbers of images, objects and classes, in sentences."""
    facts = examination.objects
    totals = {split: sum(counts) for split, counts in examination.counts.items()}
    parts = ", ".join(f"{count:,} in {split}" for split, count in totals.items() if count)
    things = "objects" if facts else "readable images"
    lines = [f"{sum(totals.values()):,} {things} of {many(examination.classes, 'class')}: {parts}"]
    if facts:
        images = [
            f"{count:,} images in {split}, {facts.negatives[split]:,} of them without objects"
            for split, count in facts.images.items()
            if count
        ]
        lines += ["; ".join(images), f"Objects per image: median {facts.median:g}, maximum {facts.most:,}"]
    return lines


def class_rows(examination: Examination, splits: Sequence[str]) -> tuple[list[tuple[str, list[int]]], int]:
    """Name and count in each split of the classes that the chart shows; how many it omits between its two halves."""
    if not splits:
        return [], 0
    rows = [(name, [examination.counts[split][k] for split in splits]) for k, name in enumerate(examination.classes)]
    omitted = len(rows) - MAX_CLASSES
    if omitted <= 0:
        return rows, 0
    rows.sort(key=lambda row: -row[1][0])
    return rows[: MAX_CLASSES // 2] + rows[-MAX_CLASSES // 2 :], omitted


def size_chart(facts: ObjectFacts) -> dict[str, Any] | None:
    """A histogram of the objects' smaller sides, as shares of each split, in units of a 720 x 192 drawing."""
    totals = {split: sum(counts) for split, counts in facts.sides.items() if sum(counts)}
    if not totals:
        return None
    shares = {split: [count / total for count in facts.sides[split]] for split, total in totals.items()}
    num_bins = max(14, *map(len, shares.values()))
    step, highest = 700 / num_bins, max(map(max, shares.values()))
    width = (step - 4) / len(totals)
    bars = [
        {
            "split": split,
            "x": 12 + i * step + place * width,
            "width": width,
            "height": 130 * share / highest,
            "label": f"{split}: {share:.1%} from {2 ** (i / 2):.3g} to {2 ** (i / 2 + 0.5):.3g} px",
        }
        for place, split in enumerate(totals)
        for i, share in enumerate(shares[split])
        if share
    ]
    ticks = [{"x": 10 + i * step, "side": 2 ** (i // 2), "is_stride": 4 <= i < 14} for i in range(0, num_bins + 1, 2)]
    return {"splits": list(totals), "bars": bars, "ticks": ticks, "floor": 170}
