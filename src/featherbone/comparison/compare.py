"""The comparison itself: train what has a name, evaluate all on the same images, measure their speed, and judge."""

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.benchmarking.speed import cpu_name, measure_speed, require_arguments, source_of
from featherbone.benchmarking.worker import Plan
from featherbone.comparison.evaluator import Evaluation, Evaluator, require_same_images
from featherbone.comparison.page import write_comparison_page
from featherbone.comparison.result import ClassDifference, ComparisonResult, Disagreement, ModelRow, Speed
from featherbone.comparison.subjects import Subject, is_results
from featherbone.comparison.trials import POLL, Protocol, train_all
from featherbone.comparison.verdicts import judge
from featherbone.data.formats import find_task
from featherbone.devices import find_device
from featherbone.errors import BadData, BadOption
from featherbone.files import check_writable, claim, write_json
from featherbone.metrics.counts import Ints
from featherbone.metrics.intervals import Replicates, common_indices, estimate, replicate
from featherbone.progress import notify, track
from featherbone.tasks.card import CARD, Card, versions
from featherbone.tasks.variant import parse_keywords, split_variant

Cost = tuple[int | None, int | None, Speed | None]
"""Parameters, multiply-adds and speed, where they are known."""
USUAL = {"seeds": 3, "search": 0, "margin": 0.01, "speed": True, "runtime": "eager", "trust": False}
"""Values of options that a command omits."""
SHOWN = 6
"""Images on which two models differ that are shown."""
MAX_PAIRS = 3
"""Pairs of models whose images are shown."""


@dataclass(frozen=True)
class Options:
    """Options of a comparison, but for those of training; `commands.compare` explains them."""

    data: Path | None
    task: str | None
    seeds: int
    search: int
    preset: str | None
    margin: float
    split: str | None
    speed: bool
    runtime: str
    trust: bool


def run_comparison(
    subjects: Sequence[Subject], options: Options, out: Path, given: Mapping[str, Any]
) -> ComparisonResult:
    """Train, evaluate and judge, and write the files of the result in the folder `out`."""
    check_options(subjects, options, given)
    check_writable(out, folder=True)
    data, task = find_data(subjects, options)
    protocol = Protocol(data, task, options.preset, options.search, given)
    device, workers, accepted = given.get("device", "auto"), given.get("workers"), given.get("accept_licence")
    measuring = Evaluator(data, task, options.split, device, workers, options.trust, accepted)
    plan = Plan((), runtimes=(options.runtime,), repeats=20 if options.speed else 0, device=device, trust=options.trust)
    for subject in subjects:
        if subject.model:  # wrong options are refused before any work
            settings = protocol.settings(subject, protocol.first_seed)
            require_arguments(subject.model, parse_keywords(settings.model_args))
    runs = train_all(subjects, options.seeds, protocol, out)
    sources = [runs.get(subject.label) or [Path(source) for source in subject.sources] for subject in subjects]
    with waiting_claim(out / "result.lock"):  # speed is measured by one process at a time
        models = measure_models(sources, measuring)
        costs = measure_costs(subjects, sources, plan)
        order, result = judge_models(subjects, models, costs, options.margin)
        result = replace(
            result,
            data=str(data),
            protocol=protocol.to_json() if runs else {},
            command=command_of(subjects, options, given),
            machine=f"{cpu_name()}, {os.cpu_count()} cores, device {find_device(device)}",
            notes=(*result.notes, *find_notes(result.rows, options)),
            out=out,
        )
        write_json(out / "comparison.json", result.to_json())
        write_comparison_page(out / "comparison.html", result, [models[i] for i in order], measuring)
    return result


def check_options(subjects: Sequence[Subject], options: Options, given: Mapping[str, Any]) -> None:
    """Raise `BadOption` for options that are out of range or have no effect."""
    if len(subjects) < 2:
        raise BadOption(
            f"{len(subjects)} models to compare; give two or more: featherbone compare lvt pvt_v2_b0 --data DIR"
        )
    for name, number, low in (("seeds", options.seeds, 1), ("search", options.search, 0)):
        if number < low:
            raise BadOption(f"{name} {number} is too small; pass {low} or more")
    if not 0 <= options.margin <= 1:
        raise BadOption(f"margin {options.margin:g} is not from 0 to 1; 0.01 is one point")
    if "model_args" in given:
        raise BadOption("model-args of all models; write them after the name of one: lvt@recursion=3")
    trained = [subject.label for subject in subjects if subject.model]
    only = {
        "search": bool(options.search),
        "preset": options.preset is not None,
    }
    only |= {name: True for name in given if name not in ("device", "workers", "accept_licence")}
    for name, stated in only.items():
        if stated and not trained:
            raise BadOption(f"{name} applies only to models that are trained, and all of these are finished; omit it")
    if trained and options.data is None:
        raise BadOption(f"no data to train {trained[0]} on; give a folder with --data DIR")
    if trained and options.split == "train":
        raise BadOption("split train: the models are trained on it; omit it, or compare finished runs")


def find_data(subjects: Sequence[Subject], options: Options) -> tuple[Path, str]:
    """The data folder and the task: those given, or those of the first run."""
    runs = [name for subject in subjects for name in subject.sources if (Path(split_variant(name)[0]) / CARD).is_file()]
    card = Card.read(Path(split_variant(runs[0])[0])) if runs else None
    if options.data is None and card is None:
        raise BadOption("no data to compare on; give a folder with --data DIR")
    if card is None:
        assert options.data is not None, "it was given"
        return options.data, find_task(options.data, options.task)
    data = options.data or card.data_folder("give its location with --data DIR")
    return data, find_task(data, options.task or card.task)


def command_of(subjects: Sequence[Subject], options: Options, given: Mapping[str, Any]) -> str:
    """The command line that repeats the comparison."""
    words = ["featherbone", "compare"]
    for subject in subjects:
        for source in subject.sources or (subject.model + (subject.model_args and f"@{subject.model_args}"),):
            words.append(source if source == subject.label else f"{subject.label}={source}")
    stated = {**vars(options), **given}
    for name, value in stated.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{option}" if value else f"--no-{option}"] if value != USUAL.get(name) else []
        elif value is not None and value != USUAL.get(name):
            words += [f"--{option}", *map(str, value if isinstance(value, tuple | list) else [value])]
    return shlex.join(words)


def measure_models(sources: Sequence[Sequence[Path]], measuring: Evaluator) -> list[list[Evaluation]]:
    """What every seed of every model gives on the same images."""
    names = [str(source) for own in sources for source in own]
    found = iter([measuring.measure(name) for name in track(names, "evaluating models", len(names))])
    models = [[next(found) for _ in own] for own in sources]
    require_same_images(models)
    return models


def judge_models(
    subjects: Sequence[Subject], models: Sequence[Sequence[Evaluation]], costs: Sequence[Cost], margin: float
) -> tuple[list[int], ComparisonResult]:
    """The order of the models, the best first, and the result."""
    first, counts = models[0][0], [[one.counts for one in own] for own in models]
    images, common = first.images, common_indices(counts)
    if len(common) < 2:
        raise BadData(f"{len(common)} images of {first.split} to compare on; give data with 2 or more")
    replicates = replicate(counts)
    order = sorted(range(len(models)), key=lambda i: -float(replicates[i].whole.mean()))
    of_classes = replicate([counts[i] for i in order], classes=True)
    labels = [subject.label for subject in subjects]
    scores = [np.mean([one.qualities[one.indices.searchsorted(common)] for one in own], 0) for own in counts]
    pairs = list(combinations(order, 2))
    seeds = [[one.seed for one in own] for own in models]
    differences = [estimate(replicates[i], replicates[j], are_paired(seeds[i], seeds[j])) for i, j in pairs]
    left_out = len(images) - len(common)
    return order, ComparisonResult(
        metric=first.kind.figures[first.kind.headline],
        rows=tuple(
            make_row(subjects[i], models[i], replicates[i], classes, costs[i])
            for i, classes in zip(order, of_classes, strict=True)
        ),
        pairs=tuple(judge([(labels[i], labels[j]) for i, j in pairs], differences, margin)),
        margin=margin,
        split=first.split,
        num_images=len(common),
        fingerprint=images.fingerprint(),
        classes=images.classes,
        differences=class_differences(of_classes, images.classes, are_paired(seeds[order[0]], seeds[order[1]])),
        disagreements={
            (labels[i], labels[j]): disagree(common, scores[i], scores[j], images)
            for i, j in list(pairwise(order))[:MAX_PAIRS]
        },
        versions=versions(),
        notes=(f"{left_out} images are left out, on which not all models could be measured",) if left_out else (),
    )


def measure_costs(subjects: Sequence[Subject], sources: Sequence[Sequence[Path]], plan: Plan) -> list[Cost]:
    """Parameters, MACs and speed of each model, of its first seed; unknown for results of another tool.

    With no rounds, only parameters and MACs are counted.
    """
    able = [i for i, own in enumerate(sources) if not is_results(str(own[0]))]
    found: list[Cost] = [(None, None, None)] * len(subjects)
    if not able:
        return found
    names = tuple(str(sources[i][0]) for i in able)
    if plan.repeats == 0:
        for i, name in zip(able, names, strict=True):
            source = source_of(name, plan)
            found[i] = (*source.cost(source.sizes[0]), None)
        return found
    rows = {row.model: row for row in measure_speed(replace(plan, models=names)).rows}
    for i, name in zip(able, names, strict=True):
        row = rows[name]
        if row.error:
            notify(f"{subjects[i].label}: speed not measured: {row.error}", "note")
        speed = None
        if row.p25 is not None and row.p50 is not None and row.p75 is not None:
            speed = Speed((row.p25, row.p50, row.p75), row.peak_mb)
        found[i] = (row.params, row.macs, speed)
    return found


def make_row(
    subject: Subject, measured: Sequence[Evaluation], found: Replicates, classes: Replicates, cost: Cost
) -> ModelRow:
    """The row of a model."""
    whole, card = estimate(found), measured[0].card
    params, macs, speed = cost
    chosen = (
        {name: card.settings.get(name) for name in ("epochs", "lr", "batch_size")} if card and subject.model else {}
    )
    return ModelRow(
        label=subject.label,
        sources=tuple(one.source for one in measured),
        values=tuple(found.whole.tolist()),
        value=whole.value,
        interval=whole.interval(),
        per_class=tuple(None if np.isnan(mean) else mean for mean in classes.whole.mean(0).tolist()),
        starting_weights="not known" if card is None else card.starting_weights or "random weights",
        settings=chosen,
        params=params,
        macs=macs,
        speed=speed,
    )


def are_paired(seeds: Sequence[int | None], others: Sequence[int | None]) -> bool:
    """Whether two models were trained with the same seeds."""
    return None not in seeds and len(set(seeds)) == len(seeds) and list(seeds) == list(others)


def class_differences(
    models: Sequence[Replicates], classes: Sequence[str], paired: bool
) -> tuple[ClassDifference, ...]:
    """The differences of the first two models, the largest first."""
    rows = []
    for k, name in enumerate(classes):
        one, other = (model.select(k) for model in models[:2])
        if np.isnan(one.whole).any() or np.isnan(other.whole).any():
            continue
        found = estimate(one, other, paired)
        half = found.half_width()
        rows.append(ClassDifference(name, found.value, (max(found.centre - half, -1), min(found.centre + half, 1))))
    return tuple(sorted(rows, key=lambda row: -abs(row.difference)))


def disagree(indices: Ints, one: Any, other: Any, split: Any) -> tuple[Disagreement, ...]:
    """The images on which the mean scores of two models differ most."""
    apart = np.nan_to_num(np.abs(one - other))
    worst = [place for place in np.argsort(-apart, kind="stable")[:SHOWN].tolist() if apart[place] > 0]
    return tuple(
        Disagreement(int(indices[i]), split.name(int(indices[i])), (float(one[i]), float(other[i]))) for i in worst
    )


def find_notes(rows: Sequence[ModelRow], options: Options) -> Iterator[str]:
    """What a reader must know to read the numbers."""
    starts = {row.starting_weights for row in rows if row.settings}
    if len(starts) > 1 and "random weights" in starts:
        yield "some models start from published weights and others from random ones; --no-pretrained starts all alike"
    if any(len(row.values) == 1 for row in rows):
        yield "one seed: the intervals of such a model, and of its differences, cover images only, not seeds"
    if options.search:
        yield "learning rates were chosen on the images of this comparison, with as many trials for each model"


@contextmanager
def waiting_claim(path: Path) -> Iterator[None]:
    """Hold a lock, for which other processes wait."""
    while True:
        with claim(path) as ours:
            if ours:
                yield
                return
        time.sleep(POLL)
