"""A page around an exported model: it runs the model on a photo or the camera, on the visitor's own device."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from featherbone.errors import MissingExtra
from featherbone.exporters.ort_files import NAMES, PACKAGE, NotFetched, complete, fetch
from featherbone.tasks.card import Card
from featherbone.tasks.task import decoder_of

PAGE = Path(__file__).parent / "page"
"""The page's files; in a released wheel the runtime's are below, in `ort`."""


def require_web() -> Path:
    """The folder of ONNX Runtime's files for browsers: the wheel's, else a cache that is downloaded once.

    Raises `MissingExtra` where the download fails.
    """
    vendored, cache = PAGE / "ort", _cache()
    for folder in (vendored, cache):
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


def write_web(folder: Path, manifest: dict[str, Any]) -> None:
    """Complete a folder with `model.onnx` to a page that any static host can serve.

    `manifest` is the content of `featherbone.json`. `pre.onnx` holds the preprocessing, `decode.onnx` the decoder.
    Raises `MissingExtra` as `require_web`, and `BadOption` for preprocessing that the graph does not support.
    """
    import onnx

    from featherbone.exporters.decoder_graph import write_decoder
    from featherbone.exporters.preprocessing_graph import preprocessing_graph
    from featherbone.exporters.targets.onnx import ONNX

    copy_page(folder)
    card = Card.parse(manifest["card"], "featherbone.json", "export the run again")
    p = card.preprocessing
    onnx.save(preprocessing_graph(p), folder / "pre.onnx")
    decoder = decoder_of(card, manifest["decode"].get("strides", ()))
    raw = ONNX().open(folder / manifest["file"])(torch.zeros(1, 3, p.height, p.width))
    named = dict(zip(manifest["outputs"], raw, strict=True))
    write_decoder(decoder, named, (p.height, p.width), folder / "decode.onnx")


def copy_page(folder: Path) -> None:
    """Copy the page and its runtime. Raises `MissingExtra` as `require_web`."""
    runtime = require_web()
    for source in (*(path for path in PAGE.iterdir() if path.is_file()), *(runtime / name for name in NAMES)):
        shutil.copyfile(source, folder / source.name)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "featherbone" / PACKAGE.replace("@", "-")
