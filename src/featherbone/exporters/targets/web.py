"""A page around an ONNX file, for any static host: it runs the model on a photo or the camera of its visitor.

`pre.onnx` beside the model holds the preprocessing. `decode.onnx` holds the formulas of the Python decoder for one
image of any size, except for pasting masks and fusing panoptic segments: in a graph of fixed shapes each of up to 100
masks takes the memory of the whole image, and fusion is a loop over them. The page pastes one mask at a time, on the
pixels of its box only.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.data.frames import Frame
from featherbone.errors import MissingExtra
from featherbone.exporters.forms import rebuild
from featherbone.exporters.ort_files import NAMES, PACKAGE, NotFetched, complete, fetch
from featherbone.exporters.targets.onnx import ONNX, write_onnx
from featherbone.tasks.card import Card
from featherbone.tasks.kind import Decoder
from featherbone.tasks.task import decoder_of

PAGE = Path(__file__).parents[1] / "page"
"""The page's files; in a released wheel the runtime's are below, in `ort`."""


class WebPage(ONNX):
    """The ONNX file with a page and its runtime around it."""

    name = "web"
    int8_packages = ()
    published = True
    dynamic = ("none", "batch")
    forms = False  # the page normalises and decodes

    def require(self) -> None:
        super().require()
        require_web()

    def finish(self, folder: Path, about: dict[str, Any]) -> None:
        """Complete the folder to a page. Raises `BadOption` for preprocessing that the graph does not support."""
        import onnx

        from featherbone.exporters.preprocessing_graph import preprocessing_graph

        super().finish(folder, about)
        copy_page(folder)
        card = Card.parse(about["card"], "featherbone.json", "export the run again")
        p = card.preprocessing
        onnx.save(preprocessing_graph(p), folder / "pre.onnx")
        raw = self.open(folder / self.file)(torch.zeros(1, 3, p.height, p.width))
        decoder = decoder_of(card, about["decode"].get("strides", ()))
        graph = DecoderGraph(decoder, about["outputs"], (p.height, p.width)).eval()
        size, inner = (torch.tensor([p.height, p.width]) for _ in range(2))  # one tensor twice would be one input
        with torch.no_grad():
            outputs = [f"result_{name}" for name in graph(size, inner, *raw)]
            inputs = ["size", "inner", *about["outputs"]]
            write_onnx(graph, (size, inner, *raw), folder / "decode.onnx", inputs, outputs)


class DecoderGraph(nn.Module):
    """`decoder.tensors` as a module, from raw tensors called `names`, for an input of the size `canvas`."""

    def __init__(self, decoder: Decoder, names: Sequence[str], canvas: tuple[int, int]) -> None:
        super().__init__()
        self.decoder, self.names, self.canvas = decoder, tuple(names), canvas

    def forward(self, size: Tensor, inner: Tensor, *raw: Tensor) -> dict[str, Tensor]:
        """Height and width of the image, int64, those of the resized image on the input, and the raw tensors."""
        (height, width), (inner_height, inner_width) = size.tolist(), inner.tolist()
        for side in (height, width, inner_height, inner_width):
            torch._check(side >= 1)  # documented for torch.export, which does not know the value of a size
        frame = Frame(height, width, inner_height, inner_width, *self.canvas)
        values = rebuild(self.decoder.raw, dict(zip(self.names, raw, strict=True)))
        return self.decoder.tensors(values, frame)


def require_web() -> Path:
    """The folder of ONNX Runtime's files for browsers: the wheel's, else a cache that is downloaded once.

    Raises `MissingExtra` where the download fails.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "featherbone" / PACKAGE.replace("@", "-")
    for folder in (PAGE / "ort", cache):
        if complete(folder):
            return folder
    try:
        fetch(cache)
    except (NotFetched, OSError) as error:
        raise MissingExtra(
            f"the page needs {PACKAGE}, and its download failed: {error}; connect to the internet once, or set "
            "npm_config_registry to a registry that this machine reaches"
        ) from None
    return cache


def copy_page(folder: Path) -> None:
    """Copy the page and its runtime. Raises `MissingExtra` as `require_web`."""
    runtime = require_web()
    for source in (*(path for path in PAGE.iterdir() if path.is_file()), *(runtime / name for name in NAMES)):
        shutil.copyfile(source, folder / source.name)
