"""The contract of an export: what is written was run on real images and says what the model says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from featherbone.data.listing import is_junk
from featherbone.deployment import deploy
from featherbone.errors import BadImage, BadOption, FeatherboneError
from featherbone.exporters.bisect import first_difference
from featherbone.exporters.onnx import embed
from featherbone.exporters.parity import Bounds, Parity, compare, raw_difference
from featherbone.exporters.parity_page import write_parity_page
from featherbone.exporters.targets import TARGETS, Target
from featherbone.files import atomic_folder, write_json
from featherbone.progress import say, track
from featherbone.results import Record
from featherbone.runtimes import open_file
from featherbone.tasks.card import Card
from featherbone.tasks.exported import ExportedTask
from featherbone.tasks.forms import Normalising, Picking, to_bytes
from featherbone.tasks.likeness import count_objects
from featherbone.tasks.manifest import MANIFEST, Manifest, describe, digests
from featherbone.tasks.raw import Flat, flatten
from featherbone.tasks.task import kind_of

PARITY, PAGE = "parity.json", "parity.html"
REPORTS = (PARITY, PAGE, "int8.json", "int8.html")
"""Files about an export beside it."""


class ExportDiffers(FeatherboneError):
    """The exported file does not say what the model says."""

    exit_code = 1


@dataclass(frozen=True)
class Form:
    """How a task is exported."""

    target: Target
    dynamic: str = "none"
    with_pre: bool = False
    with_nms: bool = False

    def network(self, card: Card, task: Any) -> Flat:
        """The task as its file computes it: in its inference form, on the CPU."""
        p = card.preprocessing
        deployed = deploy(task, None if self.dynamic == "size" else (p.height, p.width))
        net = Picking(deployed) if self.with_nms else deployed
        # tool-chains want plain strides
        return Flat(Normalising(net, p) if self.with_pre else net).cpu().to(memory_format=torch.contiguous_format)

    def example(self, card: Card, images: Tensor) -> Tensor:
        """Normalised images as the file takes them, as many as an exporter must see to know what varies."""
        batch = images[:1] if self.dynamic == "none" else images[:1].expand(2, -1, -1, -1)
        return to_bytes(batch, card.preprocessing) if self.with_pre else batch.contiguous()


def report_of(out: Path, target: str) -> Path:
    """Where the report of an export lies: a page for the web is published, and the report shows the user's pictures."""
    return out.with_name(f"{out.name}-{PAGE}") if target == "web" else out / PAGE


def own_files(out: Path) -> frozenset[str]:
    """Names of the files that an export into `out` may replace: those of the export there, and of its reports.

    Raises `BadOption` for a folder that holds other files and no export.
    """
    there = {path.name for path in out.iterdir() if not is_junk(path.name)} if out.is_dir() else set()
    if (out.exists() and not out.is_dir()) or (there and not there & {MANIFEST, PARITY}):
        raise BadOption(f"{out} exists and holds no export; give an empty or new folder with --out")
    files = {target.file for target in TARGETS.values()}  # of an export that was interrupted
    files |= {str(Path(file).with_suffix(".bin")) for file in files}
    return frozenset({MANIFEST, *REPORTS, *files, *digests(out)})


def export_task(card: Card, task: Any, form: Form, out: Path, pictures: Sequence[Image.Image]) -> Parity:
    """Write the model in the folder `out`, with `featherbone.json`, once it is proven on `pictures`.

    `parity.json`, and `parity.html` with the results of both, are beside it. An older export in `out` is replaced, and
    files that belong to no export stay. Where a decoded result differs beyond the bounds, only the two reports are
    written, the older export is removed, and `ExportDiffers` names the first layer that differs.
    """
    if not pictures:
        raise BadImage("no image to prove the exported file on; give a folder of pictures with --images")
    own = own_files(out)
    transform = card.preprocessing.transform()
    images = torch.stack([transform(picture) for picture in pictures])
    net, example = form.network(card, task), form.example(card, images)
    names = net.names(example)
    with atomic_folder(out, own, MANIFEST) as folder:
        say(f"writing {form.target.name}", "export")
        form.target.write(net, example, folder / form.target.file, names, form.dynamic)
        about = {"dynamic": form.dynamic, "with_pre": form.with_pre, "with_nms": form.with_nms}
        manifest = describe(card, task, form.target.name, form.target.file, tuple(names), **about)
        finish(folder, manifest)
        parity = prove(card, task, folder, manifest, pictures, images)
        if not parity.holds:
            culprit = first_difference(net, form, example)
            clear(folder)
    if parity.holds and form.target.name == "web":
        (out / PAGE).replace(report_of(out, "web"))
    if not parity.holds:
        raise ExportDiffers(
            f"{out / form.target.file} was not kept: on {parity.images} images {'; '.join(parity.failures)}; "
            f"the first layer that differs is {culprit}; see {out / PAGE}"
        )
    return parity


def finish(folder: Path, manifest: Manifest) -> None:
    """What belongs to every file of a kind: the manifest, in ONNX also inside, and a page around a web model."""
    if manifest.file.endswith(".onnx"):
        embed(folder / manifest.file, manifest.to_json())
    if manifest.target == "web":
        from featherbone.exporters.web import write_web

        write_web(folder, manifest.to_json())
    manifest.write(folder)


def clear(folder: Path) -> None:
    """Leave nothing but the report."""
    for path in folder.iterdir():
        if path.name not in (PARITY, PAGE):
            path.unlink()


def prove(
    card: Card, task: Any, folder: Path, manifest: Manifest, pictures: Sequence[Image.Image], images: Tensor
) -> Parity:
    """Parity of a file with its model on pictures, one by one as a device runs it; both reports are written."""
    exported = ExportedTask(manifest, open_file(folder / manifest.file, manifest.target, trust=True))
    frames = [card.preprocessing.frame(picture.height, picture.width) for picture in pictures]
    told: tuple[list[Any], list[Any]] = ([], [])
    with torch.inference_mode():
        model = Picking(task) if manifest.with_nms else task
        for image in track(images, "proving", len(images)):
            for net, raws in zip((model, exported), told, strict=True):
                raws.append(net(image[None]))
    raw = max(raw_difference(flatten(mine), flatten(theirs)) for mine, theirs in zip(*told, strict=True))
    expected, got, limit = decode_alike(card, task, told, frames)
    parity = compare(expected, got, raw, Bounds(), limit)
    write_json(folder / PARITY, {"file": manifest.file, "target": manifest.target, **parity.to_json()})
    write_parity_page(folder / PAGE, manifest, parity, pictures, expected, got)
    return parity


def decode_alike(
    card: Card, task: Any, raws: tuple[list[Any], list[Any]], frames: Sequence[Any]
) -> tuple[list[Record], list[Record], float]:
    """Records of both sides, and the limit of their objects' scores, half of the one that users see.

    A classification's hold every class. A model that has hardly learned finds nothing there; then all that it finds is
    compared.
    """
    decoder = task.decoder.exhaustive()

    def decode(side: list[Any], score: float) -> list[Record]:
        return [decoder(raw, [frame], score=score)[0] for raw, frame in zip(side, frames, strict=True)]

    usual = (kind_of(card).shown_score(card) or 0.0) / 2
    least = usual if count_objects(decode(raws[0], usual)) else 0.0
    return decode(raws[0], least), decode(raws[1], least), least
