"""A page around an exported model: what it says of a photo or of the camera, on the visitor's own device."""

import os
import shutil
from pathlib import Path
from typing import Any

from featherbone.errors import MissingExtra
from featherbone.exporters.ort_files import NAMES, PACKAGE, NotFetched, complete, fetch

PAGE = Path(__file__).parent / "page"
"""The page's own files; in a released wheel the runtime's lie below, in `ort`."""


def require_web() -> Path:
    """The folder of ONNX Runtime's files for browsers: the wheel's, else a cache that npm fills once.

    Raises `MissingExtra` where they cannot be fetched.
    """
    vendored, cache = PAGE / "ort", _cache()
    for folder in (vendored, cache):
        if complete(folder):
            return folder
    try:
        fetch(cache)
    except (NotFetched, OSError) as error:
        raise MissingExtra(
            f"the page needs {PACKAGE}, which could not be fetched ({error}); install Node.js, which brings npm, and "
            f"see that this ends well: npm pack {PACKAGE}"
        ) from None
    return cache


def write_web(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Put the page and its runtime beside `model.onnx`; names of the files written.

    Any static host serves the folder as it is. Raises `MissingExtra` as `require_web` does.
    """
    runtime = require_web()
    own = sorted(path for path in PAGE.iterdir() if path.is_file())
    for source in (*own, *(runtime / name for name in NAMES)):
        shutil.copyfile(source, folder / source.name)
    return [path.name for path in own] + list(NAMES)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "featherbone" / PACKAGE.replace("@", "-")
