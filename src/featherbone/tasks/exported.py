"""An exported file as the task that it was made from."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.errors import BadOption, BadRun
from featherbone.ops.boxes import Picked
from featherbone.runtimes import Run, open_file
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.forms import to_bytes
from featherbone.tasks.manifest import MANIFEST, Manifest, read_manifest
from featherbone.tasks.raw import flatten, rebuild
from featherbone.tasks.run import build_task, load_task


class ExportedTask(nn.Module):
    """A file whose `forward` is its runtime's; `losses` and `decoder` are those of the task without its weights."""

    def __init__(self, manifest: Manifest, run: Run) -> None:
        super().__init__()
        self.manifest, self.run = manifest, run
        with torch.device("meta"):
            self.like: list[Any] = [build_task(manifest.card)]  # in a list, for it is no part of this module
        self.decoder = self.like[0].decoder
        self.classes, self.things = manifest.card.classes, manifest.card.things

        self.kind = Picked if manifest.with_nms else self.decoder.raw
        given = {name: torch.empty(0) for name in manifest.outputs}
        try:
            expected = flatten(rebuild(self.kind, given))
        except KeyError as error:
            raise BadRun(f"{manifest.file}: no output {error}; export the run again") from None
        if expected.keys() != given.keys():
            unknown = ", ".join(given.keys() - expected.keys())
            raise BadRun(f"{manifest.file}: outputs {unknown[:200]} of another model; export the run again")

    def forward(self, images: Tensor) -> Any:
        """Normalised images (B, 3, H, W) to the raw tensors, on the images' device; the file runs on the CPU.

        Raises `BadOption` for a size that the file refuses.
        """
        manifest, p = self.manifest, self.manifest.card.preprocessing
        if manifest.dynamic != "size" and images.shape[2:] != (p.height, p.width):
            raise BadOption(
                f"{manifest.file} takes {p.height}x{p.width} pixels, not {images.shape[2]}x{images.shape[3]}; "
                "give the run itself, or export it with --dynamic size"
            )
        given = to_bytes(images.cpu(), p) if manifest.with_pre else images.cpu().contiguous()
        parts = given.split(1) if manifest.dynamic == "none" else (given,)
        columns = list(zip(*(self.run(part) for part in parts), strict=True))
        if len(columns) != len(manifest.outputs):
            raise BadRun(
                f"{manifest.file} has {len(columns)} outputs, not {len(manifest.outputs)}; export the run again"
            )
        found = (torch.cat(column).to(images.device) for column in columns)
        return rebuild(self.kind, dict(zip(manifest.outputs, found, strict=True)))

    def losses(self, raw: Any, targets: Any) -> dict[str, Tensor]:
        """Named terms, as the task has them."""
        return self.like[0].losses(raw, targets)


def open_task(path: Path, trust: bool = False) -> tuple[Card, Any]:
    """The card and the model of a run folder, or of an exported file or its folder. Raises `BadRun`.

    Without `trust`, a file that holds machine code is a `BadOption`.
    """
    if (path / CARD).is_file() or not (path.is_file() or (path / MANIFEST).is_file()):
        return load_task(path)
    file, manifest = read_manifest(path)
    return manifest.card, ExportedTask(manifest, open_file(file, manifest.target, trust=trust))


def beside(path: Path, name: str) -> Path:
    """Where by default a file lies that tells of pictures: in a run folder, or beside an export's, which is given away.

    `path` is a run folder, an exported file or its folder.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / MANIFEST).is_file():
        return folder / name
    return folder.resolve().with_name(f"{folder.resolve().name}-{name}")
