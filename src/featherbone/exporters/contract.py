"""Exports with a proof: a file is kept only if its decoded results on real images equal the model's."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.data.bands import AnyImage
from featherbone.data.listing import is_junk
from featherbone.data.sampling import spread
from featherbone.draw import draw_record
from featherbone.errors import BadImage, BadOption, FeatherboneError
from featherbone.exporters.artifact import Artifact, Form, raw_difference
from featherbone.exporters.bisect import first_difference
from featherbone.exporters.exported import ExportedTask
from featherbone.exporters.forms import flatten
from featherbone.exporters.manifest import MANIFEST, Manifest, describe, digests
from featherbone.exporters.parity import Parity, compare
from featherbone.exporters.targets import TARGETS
from featherbone.exporters.targets.target import Target
from featherbone.files import atomic_folder, write_json
from featherbone.progress import notify, track
from featherbone.report import render
from featherbone.results import Record
from featherbone.tasks.card import Card
from featherbone.tasks.likeness import count_objects
from featherbone.tasks.task import kind_of

PARITY, PAGE = "parity.json", "parity.html"
REPORTS = (PARITY, PAGE, "int8.json")
"""Reports about an export in its folder."""
NUM_SHOWN = 6
"""Pictures on the page of a comparison."""


class ExportDiffers(FeatherboneError):
    """The results of the exported file differ from the model's."""

    exit_code = 1


def report_of(out: Path, target: Target) -> Path:
    """Path of the report of an export: it shows the user's images, so it is beside a folder that is published."""
    return out.with_name(f"{out.name}-{PAGE}") if target.published else out / PAGE


def own_files(out: Path) -> frozenset[str]:
    """Names of the files that an export into `out` may replace: those of the export there and its reports.

    Raises `BadOption` for a folder that holds other files and no export.
    """
    there = {path.name for path in out.iterdir() if not is_junk(path.name)} if out.is_dir() else set()
    if (out.exists() and not out.is_dir()) or (there and not there & {MANIFEST, PARITY}):
        raise BadOption(f"{out} exists and holds no export; give an empty or new folder with --out")
    files = {name for target in TARGETS.values() for name in (target.file, *target.companions)}  # if interrupted
    return frozenset({MANIFEST, *REPORTS, *files, *digests(out)})


def export_task(card: Card, task: Any, form: Form, out: Path, pictures: Sequence[AnyImage]) -> Parity:
    """Write the model in the folder `out`, with `featherbone.json`, if its results on `pictures` equal the model's.

    `parity.json`, and `parity.html` with both results, are beside it. An older export in `out` is replaced, and files
    that belong to no export stay. If a decoded result differs by more than the bounds, only the two reports are
    written, the older export is removed, and `ExportDiffers` names the first layer that differs.
    """
    if not pictures:
        raise BadImage("no image to compare the exported file on; give a folder of images with --images")
    own = own_files(out)
    transform = card.preprocessing.transform()
    images = torch.stack([transform(picture) for picture in pictures])
    artifact = Artifact.of(task, form, images, card.preprocessing)
    manifest = describe(card, task, form, artifact.names)
    with atomic_folder(out, own, MANIFEST) as folder:
        notify(f"writing {form.target.name}", "export")
        artifact.write(folder)
        finish(folder, form.target, manifest)
        parity = prove(artifact, folder, manifest, pictures, images)
        if not parity.holds:
            culprit = first_difference(artifact)
            for path in folder.iterdir():
                if path.name not in (PARITY, PAGE):
                    path.unlink()
    if not parity.holds:
        raise ExportDiffers(
            f"{artifact.path(out)} was not kept: on {parity.images} images {'; '.join(parity.failures)}; "
            f"the first layer that differs is {culprit}; see {out / PAGE}"
        )
    if form.target.published:
        (out / PAGE).replace(report_of(out, form.target))
    return parity


def finish(folder: Path, target: Target, manifest: Manifest) -> None:
    """Complete the folder of a written file: what its target adds, and `featherbone.json`."""
    target.finish(folder, manifest.to_json())
    manifest.write(folder)


def prove(artifact: Artifact, folder: Path, manifest: Manifest, pictures: Sequence[AnyImage], images: Tensor) -> Parity:
    """Compare a file with its model on pictures, one by one as a device runs it, and write both reports.

    Objects are compared above half of the score that users see; if an undertrained model finds none there, all are.
    """
    card, exported = manifest.card, ExportedTask(manifest, artifact.open(folder))
    with torch.inference_mode():
        batches = track(images.split(1), "comparing", len(images))
        raws = [(artifact.reference(image), exported(image)) for image in batches]
    raw = max(raw_difference(flatten(mine), flatten(theirs)).largest for mine, theirs in raws)
    frames = [card.preprocessing.frame(picture.height, picture.width) for picture in pictures]
    decoder = exported.decoder.exhaustive()

    def decode(side: int, score: float) -> list[Record]:
        return [decoder(pair[side], [frame], score=score)[0] for pair, frame in zip(raws, frames, strict=True)]

    limit = (kind_of(card).shown_score(card) or 0.0) / 2
    if not count_objects(decode(0, limit)):
        limit = 0.0
    expected, got = decode(0, limit), decode(1, limit)
    form = artifact.form
    parity = replace(compare(expected, got, raw, form.bounds, limit), caveat=form.target.caveat(form.fp16))
    write_json(folder / PARITY, {"file": manifest.file, "target": manifest.target, **parity.to_json()})
    write_parity_page(folder / PAGE, manifest, parity, pictures, list(zip(expected, got, strict=True)))
    return parity


def write_parity_page(
    path: Path,
    manifest: Manifest,
    parity: Parity,
    pictures: Sequence[AnyImage],
    records: Sequence[tuple[Record, Record]],
) -> None:
    """Write the page: verdict, worst and median differences with their bounds, and pictures with both records."""
    names = {
        "score": "difference of scores",
        "box_iou": "IoU of boxes",
        "mask_iou": "IoU of masks",
        "agreement": "share of equal pixels",
    }
    rows = [
        (name, *(getattr(part, key) for part in (parity.worst, parity.median, parity.bounds)))
        for key, name in names.items()
        if getattr(parity.worst, key) is not None
    ]
    chosen = spread(len(pictures), NUM_SHOWN)
    render(
        "parity.html",
        path,
        manifest=manifest,
        card=manifest.card,
        parity=parity,
        rows=rows,
        pictures=[draw_record(pictures[i], record) for i in chosen for record in records[i]],
        captions=["model", manifest.target] * len(chosen),
    )
