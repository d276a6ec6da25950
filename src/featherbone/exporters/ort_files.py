"""ONNX Runtime's files for browsers: fetched once from npm, checked, and only those a page needs.

The build of Featherbone's wheel uses this file by its path, so it imports nothing but the standard library.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "onnxruntime-web@1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package's archive, as npm publishes it."""
NAMES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""The first three run on the processor, the others on a graphics card."""


class NotFetched(RuntimeError):
    """Why the files could not be had."""


def complete(folder: Path) -> bool:
    """Whether all the files lie in a folder."""
    return all((folder / name).is_file() for name in NAMES)


def fetch(folder: Path) -> None:
    """Fetch the files into `folder` with npm; what is there is whole at any time. Raises `NotFetched`."""
    npm = shutil.which("npm")
    if npm is None:
        raise NotFetched("npm is not installed")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as name:
        work = Path(name)
        command = [npm, "pack", PACKAGE, "--loglevel=error", "--ignore-scripts", "--pack-destination", str(work)]
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            raise NotFetched("npm gave no answer within ten minutes") from None
        archives = list(work.glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            reason = "; ".join((done.stderr.strip() or "no reason given").splitlines()[:2])  # the rest is npm's advice
            raise NotFetched(f"npm pack {PACKAGE} failed: {reason}")
        files = work / "files"
        unpack(archives[0], files)
        folder.mkdir(exist_ok=True)
        for wanted in NAMES:
            (files / wanted).replace(folder / wanted)


def unpack(archive: Path, folder: Path) -> None:
    """The files of an archive that is what npm published, into a new folder. Raises `NotFetched` for any other."""
    with open(archive, "rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if base64.b64encode(digest).decode() != INTEGRITY:
        raise NotFetched(f"{archive.name} is not the {PACKAGE} that this version knows: its SHA-512 differs")
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for name in NAMES:  # by the names we know, so no path of the archive is followed
            member = tar.extractfile(f"package/dist/{name}")
            if member is None:
                raise NotFetched(f"{archive.name} holds no {name}")
            with member, open(folder / name, "wb") as file:
                shutil.copyfileobj(member, file)
