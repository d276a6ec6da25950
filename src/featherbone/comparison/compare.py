"""The comparison itself: train what has a name, evaluate all on the same images, measure their speed, and judge."""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.benchmarking.speed import measure_speed, source_of
from featherbone.benchmarking.worker import Plan
from featherbone.comparison.measuring import Measured, Measuring, require_same_images
from featherbone.comparison.result import ClassDifference, ComparisonResult, Disagreement, ModelRow, Speed
from featherbone.comparison.subjects import Subject, is_results
from featherbone.comparison.trials import Protocol, keep_protocol, train_all
from featherbone.comparison.verdicts import judge
from featherbone.devices import find_device
from featherbone.errors import BadData
from featherbone.files import claim, to_json, write_json
from featherbone.metrics.intervals import Replicates, estimate, replicate
from featherbone.progress import notify, track
from featherbone.tasks.card import versions

RESULT = "comparison.json"
SHOWN = 6
"""Images on which two models differ that are shown."""
MAX_PAIRS = 3
"""Pairs of models whose images are shown."""


def compare_models(
    subjects: Sequence[Subject],
    seeds: int,
    protocol: Protocol,
    measuring: Measuring,
    plan: Plan | None,
    margin: float,
    command: str,
    out: Path,
) -> tuple[ComparisonResult, list[list[Measured]]]:
    """The result, and what was measured of each of its rows; without a `plan` no speed is measured."""
    trained = any(subject.model for subject in subjects)
    if trained:
        keep_protocol(protocol, out)
    runs = train_all(subjects, seeds, protocol, out) if trained else {}
    sources = [runs.get(subject.label) or [Path(source) for source in subject.sources] for subject in subjects]
    total = sum(map(len, sources))
    bar = track([source for own in sources for source in own], "evaluating models", total)
    found = iter([measuring.measure(str(source)) for source in bar])
    models = [[next(found) for _ in own] for own in sources]
    require_same_images(models)
    common = sorted(set.intersection(*(set(one.counts.indices.tolist()) for own in models for one in own)))
    first = models[0][0]
    if len(common) < 2:
        raise BadData(f"{measuring.data}: {len(common)} images of {first.split} to compare on; give 2 or more")
    counts = [[one.counts.keep(np.array(common)) for one in own] for own in models]
    replicates = replicate(counts)
    order = sorted(range(len(models)), key=lambda i: -float(replicates[i].whole.mean()))
    of_classes = replicate([counts[i] for i in order], classes=True)
    speeds = measure_all(subjects, sources, plan) if plan is not None else [None] * len(subjects)
    rows = tuple(
        make_row(subjects[i], sources[i], models[i], replicates[i], classes, speeds[i])
        for i, classes in zip(order, of_classes, strict=True)
    )
    pairs = list(combinations(order, 2))
    differences = [estimate(replicates[i], replicates[j]) for i, j in pairs]
    names = [subject.label for subject in subjects]
    split = first.images
    scores = [np.nanmean(np.stack([one.scores for one in own]), 0) if own else np.zeros(0) for own in counts]
    result = ComparisonResult(
        metric=first.kind.figures[first.kind.headline],
        rows=rows,
        pairs=tuple(judge([(names[i], names[j]) for i, j in pairs], differences, margin)),
        margin=margin,
        data=str(measuring.data),
        split=first.split,
        num_images=len(common),
        fingerprint=split.fingerprint(),
        classes=split.classes,
        differences=class_differences(of_classes, split.classes),
        disagreements={
            (names[i], names[j]): disagree(common, scores[i], scores[j], split) for i, j in list(pairwise(order))[:MAX_PAIRS]
        },
        protocol=protocol.to_json() if trained else {},
        command=command,
        machine=machine(measuring.device, plan),
        versions=versions(),
        notes=tuple(find_notes(rows, protocol, len(split) - len(common))),
        out=out,
    )
    return result, [models[i] for i in order]


def measure_all(subjects: Sequence[Subject], sources: Sequence[Sequence[Path]], plan: Plan) -> list[Any]:
    """Parameters, MACs and speed of each model, of its first seed; None for results of another tool.

    With no rounds, only parameters and MACs are counted.
    """
    able = [i for i, own in enumerate(sources) if not is_results(str(own[0]))]
    found: list[Any] = [None] * len(subjects)
    if not able:
        return found
    names = tuple(str(sources[i][0]) for i in able)
    if plan.repeats == 0:
        for i, name in zip(able, names, strict=True):
            source = source_of(name, plan)
            found[i] = (*source.cost(source.sizes[0]), None)
        return found
    rows = {row.model: row for row in measure_speed(replace_models(plan, names)).rows}
    for i, name in zip(able, names, strict=True):
        row = rows[name]
        if row.error:
            notify(f"{subjects[i].label}: speed not measured: {row.error}", "note")
        timed = row.p25 is not None and row.p50 is not None and row.p75 is not None
        found[i] = (row.params, row.macs, Speed((row.p25, row.p50, row.p75), row.peak_mb) if timed else None)
    return found


def make_row(
    subject: Subject,
    sources: Sequence[Path],
    measured: Sequence[Measured],
    found: Replicates,
    classes: Replicates,
    cost: tuple[int | None, int | None, Speed | None] | None,
) -> ModelRow:
    """The row of a model."""
    whole, card = estimate(found), measured[0].card
    params, macs, speed = cost or (None, None, None)
    chosen = {name: card.settings.get(name) for name in ("epochs", "lr", "batch_size")} if card and subject.model else {}
    means = np.nan_to_num(classes.whole.mean(0), nan=-1.0).tolist()
    return ModelRow(
        label=subject.label,
        sources=tuple(map(str, sources)),
        values=tuple(found.whole.tolist()),
        value=whole.value,
        interval=whole.interval(),
        per_class=tuple(None if mean < 0 else mean for mean in means),
        starting_weights=("not known" if card is None else card.starting_weights or "random weights"),
        settings=chosen,
        params=params,
        macs=macs,
        speed=speed,
    )


def class_differences(models: Sequence[Replicates], classes: Sequence[str]) -> tuple[ClassDifference, ...]:
    """The differences of the first two models, the largest first."""
    if len(models) < 2:
        return ()
    rows = []
    for k, name in enumerate(classes):
        one, other = (model.select(k) for model in models[:2])
        if np.isnan(one.whole).any() or np.isnan(other.whole).any():
            continue
        found = estimate(one, other)
        half = found.half_width()
        rows.append(ClassDifference(name, found.value, (found.centre - half, found.centre + half)))
    return tuple(sorted(rows, key=lambda row: -abs(row.difference)))


def disagree(indices: Sequence[int], one: Any, other: Any, split: Any) -> tuple[Disagreement, ...]:
    """The images on which the mean scores of two models differ most."""
    apart = np.nan_to_num(np.abs(one - other))
    worst = [place for place in np.argsort(-apart, kind="stable")[:SHOWN].tolist() if apart[place] > 0]
    return tuple(
        Disagreement(indices[i], split.name(indices[i]), (float(one[i]), float(other[i]))) for i in worst
    )


def find_notes(rows: Sequence[ModelRow], protocol: Protocol, left_out: int) -> list[str]:
    """What a reader must know to read the numbers."""
    notes = []
    starts = {row.starting_weights for row in rows if row.settings}
    if len(starts) > 1 and "random weights" in starts:
        notes.append("some models start from published weights and some from random ones; --no-pretrained starts all alike")
    if any(len(row.values) == 1 for row in rows):
        notes.append("a model with one seed: its intervals, and those of its differences, cover images only, not seeds")
    if protocol.search:
        notes.append("learning rates were searched for on the images of this comparison, with as many trials for each model")
    if left_out:
        notes.append(f"{left_out} images are left out, because not all models could be measured on them")
    return notes


def machine(device: str, plan: Plan | None) -> str:
    """The machine of the measurements, in words."""
    from featherbone.benchmarking.speed import cpu_name

    return f"{cpu_name()}, {os.cpu_count()} cores, device {find_device(device)}"
