"""An exported file as the task that it was made from."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.errors import BadOption, BadRun
from featherbone.exporters.artifact import file_input, run_batch
from featherbone.exporters.forms import PickedDecoder, flatten, rebuild
from featherbone.exporters.manifest import AGAIN, MANIFEST, Manifest, digests, read_manifest
from featherbone.exporters.targets import TARGETS, open_file
from featherbone.exporters.targets.target import Run
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.detection import ObjectDecoder
from featherbone.tasks.kind import Decoder
from featherbone.tasks.published import load_model
from featherbone.tasks.run import build_task, digest
from featherbone.tasks.task import decoder_of
from featherbone.tasks.variant import split_variant, suffix_of, variant_path

MAX_STRIDE = 1024


class ExportedTask(nn.Module):
    """A file whose `forward` is its runtime's, with the decoder of its manifest."""

    def __init__(self, manifest: Manifest, run: Run) -> None:
        super().__init__()
        self.manifest, self.run = manifest, run
        self.decoder = decoder_of_file(manifest)
        self.classes, self.things = manifest.card.classes, manifest.card.things
        given = {name: torch.empty(0) for name in manifest.outputs}
        try:
            expected = flatten(rebuild(self.decoder.raw, given))
        except KeyError as error:
            raise BadRun(f"{manifest.file}: no output {error}; {AGAIN}") from None
        if expected.keys() != given.keys():
            unknown = ", ".join(given.keys() - expected.keys())
            raise BadRun(f"{manifest.file}: outputs {unknown[:200]} of another model; {AGAIN}")

    def forward(self, images: Tensor, score: float = 0.0) -> Any:
        """Normalised images (B, C, H, W) to the raw tensors of all objects, on the images' device.

        The file runs on the CPU, and computes all objects whatever the `score`.

        Raises `BadOption` for a size that the file refuses.
        """
        found = run_batch(self.run, self.input(images), self.manifest.dynamic == "none")
        names = self.manifest.outputs
        if len(found) != len(names):
            raise BadRun(f"{self.manifest.file} has {len(found)} outputs, not {len(names)}; {AGAIN}")
        values = (value.to(images.device) for value in found)
        return rebuild(self.decoder.raw, dict(zip(names, values, strict=True)))

    def input(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) as the file takes them. Raises `BadOption` for a size that it refuses."""
        manifest, p = self.manifest, self.manifest.card.preprocessing
        if manifest.dynamic != "size" and images.shape[2:] != (p.height, p.width):
            raise BadOption(
                f"{manifest.file} takes {p.height}x{p.width} pixels, not {images.shape[2]}x{images.shape[3]}; "
                "give the run itself, or export it with --dynamic size"
            )
        return file_input(images.cpu(), p if manifest.with_pre else None)

    def losses(self, raw: Any, targets: Any) -> dict[str, Tensor]:
        return self._task.losses(raw, targets)

    @cached_property
    def _task(self) -> Any:
        """The task without weights; only its losses are used."""
        with torch.device("meta"):
            return build_task(self.manifest.card)


def decoder_of_file(manifest: Manifest) -> Decoder:
    """The decoder of a file's raw tensors. Raises `BadRun` for a manifest that does not describe them."""
    card, decode = manifest.card, manifest.decode
    score, strides = decode.get("score", 0.0), decode.get("strides", ())
    numbers = [score, *strides] if isinstance(strides, list | tuple) else [None]
    if not all(isinstance(number, int | float) and 0 <= number <= MAX_STRIDE for number in numbers):
        raise BadRun(f"{manifest.file}: score or strides in {MANIFEST} are not numbers; {AGAIN}")
    if manifest.with_nms:
        return ObjectDecoder(card.task, card.classes, PickedDecoder(score))
    return decoder_of(card, strides)


def open_task(path: Path, trust: bool = False, accept_licence: str | None = None) -> tuple[Card, Any]:
    """The card and the model of a run folder, an exported file or its folder, or the name of a published model.

    Without `trust`, a file that holds machine code is a `BadOption`. Other errors are those of `load_model` and
    `find_exported`.
    """
    exported = find_exported(path)
    if exported is None:
        return load_model(path, accept_licence)
    file, manifest = read_manifest(exported)
    return manifest.card, ExportedTask(manifest, open_file(file, manifest.target, trust=trust))


def find_exported(path: Path) -> Path | None:
    """`path` if it is an exported file or the folder of one; None for a run folder or a name.

    Raises `BadOption` for an exported file with a suffix, for it has no keyword arguments.
    """
    name, arguments = split_variant(path)
    found = Path(name)
    if (found / CARD).is_file() or not (found.is_file() or (found / MANIFEST).is_file()):
        return None
    if arguments:
        suffix = suffix_of(path)
        raise BadOption(
            f"{found} is an exported file, whose arguments are fixed; omit {suffix}, or export the run with it: "
            f"featherbone export RUN{suffix}"
        )
    return found


def weights_digest(path: Path, task: Any) -> str:
    """A digest of the weights of a task that `open_task` opened, or of the exported file."""
    if not isinstance(task, ExportedTask):
        return digest({name: value.cpu() for name, value in task.state_dict().items()})
    written = digests(path if path.is_dir() else path.parent)
    return " ".join(written[name] for name in (task.manifest.file, *TARGETS[task.manifest.target].companions))


def beside(path: Path, name: str) -> Path:
    """Default path of what is made from a run: in its folder, or beside an export's, which is distributed.

    `path` is a run folder, an exported file or its folder, or the name of a published model or of a repository on the
    hub: then it is in the current folder. What is made from a variant has its suffix.
    """
    name, path = variant_path(name, path), Path(split_variant(path)[0])
    if not path.exists():
        return Path(f"{path.name.replace('@', '-')}-{name}")
    folder = path if path.is_dir() else path.parent
    if not (folder / MANIFEST).is_file():
        return folder / name
    return folder.resolve().with_name(f"{folder.resolve().name}-{name}")
