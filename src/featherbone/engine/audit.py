"""A label audit for the doctor: the labels of a data set that a trained run confidently contradicts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featherbone.data.bands import to_picture
from featherbone.data.dataset import EvaluationSplit, inspect_data
from featherbone.data.doctor.drawing import SIDE, draw_map, draw_objects, to_jpeg
from featherbone.data.findings import Examination, Example, Finding, many, worst_first
from featherbone.data.formats import find_task
from featherbone.data.formats.format import Reading
from featherbone.engine.accelerator import accelerate
from featherbone.engine.job import Job
from featherbone.engine.settings import from_card
from featherbone.exporters.exported import open_task
from featherbone.metrics.audit import MAX_KEPT, Audit, Contradiction
from featherbone.tasks.card import Card

MAX_SHOWN = 24
"""Contradictions of a finding that the page shows."""
SEEN = (
    "The model was trained on these images, so it has fitted some of their wrong labels and contradicts only others. "
)


def add_audit(examination: Examination, run: Path, data: Path, device: str) -> Examination:
    """An examination of a data folder with the findings of a run; those need data that can be trained on."""
    if examination.spoiled:
        message = "The labels were not compared with the run's predictions; fix the errors first"
        found = [Finding("note", "no-audit", message, 1)]
    else:
        found = audit_labels(run, data, device)
    return replace(examination, findings=tuple(worst_first([*examination.findings, *found])))


def audit_labels(run: Path, data: Path, device: str = "auto", workers: int | None = None) -> list[Finding]:
    """The findings of a run about the labels of a data folder, split by split.

    `run` is what `open_task` takes. Raises its errors, and `BadData` for other classes than the run's.
    """
    card, task = open_task(run)
    task.decoder = task.decoder.exhaustive()
    plain = {"device": device, "precision": "fp32", "accumulate": 1, "workers": workers}
    settings = from_card(card.settings, card.task, **plain)
    find_task(data, card.task)
    reading = Reading.of(settings.to_dict())
    splits, _ = inspect_data(data, card.task, settings.val_share, settings.held_out_by, reading)
    own = is_trained_on(card, data, splits)
    findings: list[Finding] = []
    for split, images in splits.items():
        words = dict(zip(card.data.get("synsets", ()), card.classes, strict=False))
        same = images.renamed(words).named(card.classes, card.category_ids)
        job = Job(card.task, data, settings, EvaluationSplit(same, split), card.preprocessing.channels)
        with accelerate(settings) as accelerator, torch.no_grad():
            audit = job.kind.audit(task.decoder)
            loader = job.eval_loader(card, job.kind.eval_batch, accelerator)
            for index, record in job.records(task.to(accelerator.device).eval(), card, loader, accelerator.device):
                audit.update(index, job.val.truth(index), record)
        findings += report(audit, job, own and split == "train")
    return findings


def is_trained_on(card: Card, data: Path, splits: dict[str, Any]) -> bool:
    """Whether a run was trained on the training split of a folder."""
    same = card.data.get("path") == str(data.resolve())
    both = "train" in splits and "val" in splits and "fingerprint" in card.data
    return same or (both and splits["train"].joint_fingerprint(splits["val"]) == card.data["fingerprint"])


def report(audit: Audit, job: Job, seen: bool) -> list[Finding]:
    """A finding for each kind of contradiction."""
    findings = []
    for code, text in audit.messages.items():
        found = audit.contradictions(code)
        if not found:
            continue
        number = many(len(found), audit.thing) + (" or more" if audit.totals[code] > MAX_KEPT else "")
        message = (
            f"{number} in {job.split}: {text}. {SEEN if seen else ''}Look at them, the most doubtful first, and "
            "correct labels that are wrong"
        )
        examples = tuple(example(one, job) for one in found[:MAX_SHOWN])
        findings.append(Finding("warning", code, message, len(found), examples))
    return findings


def example(found: Contradiction, job: Job) -> Example:
    """A contradiction with a picture."""
    picture = to_picture(job.val.image(found.image, job.channels))
    if found.region is not None:
        picture = draw_map(picture, np.zeros((picture.height, picture.width), np.uint8), found.region)
    elif found.boxes:
        picture = draw_objects(picture, np.array(found.boxes, np.float64))
    picture.thumbnail((SIDE, SIDE))
    score = "" if found.confidence is None else f" {found.confidence:.0%}"
    note = f"given {found.given}, predicted {found.predicted}{score}"
    facts: dict[str, Any] = {
        "split": job.split,
        "given": found.given,
        "predicted": found.predicted,
        "confidence": found.confidence,
    }
    if found.boxes:
        facts["boxes"] = [list(box) for box in found.boxes]
    return Example((job.val.name(found.image),), note, (to_jpeg(picture),), facts)
