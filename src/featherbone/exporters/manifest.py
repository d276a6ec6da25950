"""The description of an exported file, with everything needed to use it: `featherbone.json` beside it."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from featherbone.errors import BadRun
from featherbone.exporters.artifact import Form
from featherbone.exporters.forms import PickedDecoder
from featherbone.exporters.targets import TARGETS
from featherbone.files import parse_value, read_json, write_json
from featherbone.tasks.card import Card, require_format
from featherbone.tasks.task import kind_of

FORMAT = 1
MANIFEST = "featherbone.json"
AGAIN = "export the run again"
FORM = ("file", "target", "precision", "dynamic", "with_pre", "with_nms")
"""Fields of `Manifest` that come first in `featherbone.json`."""


@dataclass(frozen=True)
class Manifest:
    """An exported file; `featherbone.json` holds the same, and how to use it from any language."""

    card: Card
    """Card of the run, without what concerns only its training."""
    target: str
    """Name of the target."""
    file: str
    outputs: tuple[str, ...]
    """Names of the raw tensors, in order."""
    decode: dict[str, Any]
    """How they become a result."""
    dynamic: str = "none"
    with_pre: bool = False
    with_nms: bool = False
    """These three are as in `Form`."""
    precision: str = "fp32"

    def to_json(self) -> dict[str, Any]:
        card = self.card
        alpha = {"picture": 255, "padding": 0} if self.with_pre and card.preprocessing.rule == "fit" else None
        taken = {
            "dtype": "uint8" if self.with_pre else "float32",
            "layout": "NHWC" if self.with_pre else "NCHW",
            "channels": card.preprocessing.channels or ("RGBA" if alpha else "RGB"),
            "alpha": alpha,
            "normalised_by": "file" if self.with_pre else "caller",
        }
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in FORM},
            **{name: getattr(card, name) for name in ("task", "backbone", "head", "classes", "things")},
            "input": {"name": "images", **taken, **card.preprocessing.to_json()},
            "outputs": self.outputs,
            "decode": self.decode,
            "weights_licence": card.weights_licence,
            "versions": card.versions,
            "card": asdict(card),
        }

    def write(self, folder: Path) -> None:
        """`featherbone.json` beside the file, with the digests of all other files there."""
        names = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
        write_json(folder / MANIFEST, {**self.to_json(), "sha256": {path.name: _digest(path) for path in names}})


def describe(card: Card, task: Any, form: Form, outputs: Sequence[str]) -> Manifest:
    """The manifest of a file made from a task."""
    decoder = task.decoder
    if form.with_nms:
        decoder = replace(decoder, head=PickedDecoder(decoder.head.score))
    return Manifest(
        card=card.public(),
        target=form.target.name,
        file=form.target.file,
        outputs=tuple(outputs),
        decode=decoder.describe(kind_of(card).shown_score(card)),
        dynamic=form.dynamic,
        with_pre=form.with_pre,
        with_nms=form.with_nms,
        precision="fp16" if form.fp16 else "fp32",
    )


class _Entries(Struct):
    """The entries of `featherbone.json` that are read; the others are for other readers."""

    card: dict[str, Any]
    target: str
    file: str
    outputs: tuple[str, ...]
    decode: dict[str, Any]
    dynamic: Literal["none", "batch", "size"]
    with_pre: bool
    with_nms: bool
    precision: str
    sha256: dict[str, str]


def read_manifest(path: Path) -> tuple[Path, Manifest]:
    """The file and the manifest of an exported file, or of the folder that holds it. Raises `BadRun`.

    The file and all others beside it must have the digests that were written.
    """
    folder = path if path.is_dir() else path.parent
    about = folder / MANIFEST
    if not about.is_file():
        raise BadRun(f"{path}: there is no {MANIFEST} beside it; give a file that featherbone export wrote")
    values = read_json(about, str(about), dict[str, Any], BadRun, AGAIN)
    require_format(values, FORMAT, str(about), AGAIN)
    found = parse_value(values, str(about), _Entries, BadRun, AGAIN)
    card = Card.parse(found.card, f"{about}, card", AGAIN)
    manifest = Manifest(
        card, outputs=found.outputs, decode=found.decode, **{name: getattr(found, name) for name in FORM}
    )
    if Path(found.file).name != found.file or len(set(found.outputs)) != len(found.outputs) or not found.outputs:
        raise BadRun(
            f"{about}: file {found.file[:80]!r} is not a plain name, or outputs are not distinct names; {AGAIN}"
        )
    if path.is_file() and path.name not in (manifest.file, MANIFEST):
        raise BadRun(f"{path}: not the exported file; {MANIFEST} beside it describes {manifest.file}")
    for name, digest in found.sha256.items():
        if Path(name).name != name or not (folder / name).is_file() or _digest(folder / name) != digest:
            raise BadRun(f"{folder / name}: missing, or not what featherbone export wrote there; {AGAIN}")
    companions = TARGETS[manifest.target].companions if manifest.target in TARGETS else ()
    for name in (manifest.file, *companions):
        if name not in found.sha256:
            raise BadRun(f"{about}: no digest of {name}; {AGAIN}")
    return folder / manifest.file, manifest


def digests(folder: Path) -> dict[str, str]:
    """The digests of an export's files, by name; none if its `featherbone.json` is missing or damaged."""
    with suppress(BadRun):
        found = read_json(folder / MANIFEST, MANIFEST, dict[str, Any], BadRun).get("sha256")
        if isinstance(found, dict):
            return {name: digest for name, digest in found.items() if Path(name).name == name}
    return {}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
