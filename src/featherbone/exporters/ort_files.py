"""ONNX Runtime's files for browsers: downloaded once from the npm registry, verified, and only those a page needs.

The build of Featherbone's wheel loads this file by its path, so it imports only the standard library.
"""

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

PACKAGE = "onnxruntime-web@1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package's archive, as npm publishes it."""
VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
"""Environment variables that state the address of the registry, as npm reads them."""
NAMES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""The first three run on the processor, the others on a graphics card."""
TIMEOUT = 60
"""Seconds without an answer after which the download fails."""


class NotFetched(RuntimeError):
    """Why the download failed."""


def complete(folder: Path) -> bool:
    """Whether a folder holds all the files."""
    return all((folder / name).is_file() for name in NAMES)


def fetch(folder: Path) -> None:
    """Download the files into `folder`; each appears there complete. Raises `NotFetched`."""
    name, version = PACKAGE.split("@")
    address = f"{find_registry().rstrip('/')}/{name}/-/{name}-{version}.tgz"
    try:
        with urlopen(address, timeout=TIMEOUT) as answer:
            archive = answer.read()
    except (OSError, ValueError, HTTPException) as error:
        raise NotFetched(f"{address}: {getattr(error, 'reason', error)}") from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as work:
        files = Path(work) / "files"
        unpack(archive, files)
        folder.mkdir(exist_ok=True)
        for wanted in NAMES:
            (files / wanted).replace(folder / wanted)


def find_registry() -> str:
    """The address of the npm registry: that of the environment, else the one that npm is configured with.

    Raises `NotFetched` where neither states one.
    """
    for key in VARIABLES:
        if os.environ.get(key):
            return os.environ[key]
    npm = shutil.which("npm")
    if npm is None:
        raise NotFetched(f"no registry is known; set {VARIABLES[0]} to the address of an npm registry, or install npm")
    try:
        done = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFetched(f"npm does not state its registry ({error}); set {VARIABLES[0]}") from None
    return done.stdout.strip()


def unpack(archive: bytes, folder: Path) -> None:
    """The files of the archive that npm published, into a new folder. Raises `NotFetched` for any other archive."""
    if base64.b64encode(hashlib.sha512(archive).digest()).decode() != INTEGRITY:
        raise NotFetched(f"the archive is not {PACKAGE} as this version knows it: its SHA-512 differs")
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for name in NAMES:  # only names we know, so no path of the archive is followed
            member = tar.extractfile(f"package/dist/{name}")
            if member is None:
                raise NotFetched(f"the archive has no {name}")
            with member, open(folder / name, "wb") as file:
                shutil.copyfileobj(member, file)
