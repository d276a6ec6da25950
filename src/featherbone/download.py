"""Files from the web: resumed, checked, and in their place whole or not at all."""

import hashlib
import http
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from featherbone.errors import BadDownload
from featherbone.files import lock_file, unlock_file, writing
from featherbone.progress import bar, notify

CHUNK = 1 << 20
"""Bytes that are read at a time, and that one step of the bar stands for."""
TIMEOUT = 30.0
"""Seconds that a server may take to send something."""
WAIT = 0.2
"""Seconds between two attempts to lock a file."""
_THREADS = Lock()
"""Held by the one thread of this process that downloads; the lock of a file is one of processes."""


def download(address: str, path: Path, size: int | None = None, sha256: str | None = None) -> None:
    """Download `address` to `path`, of `size` bytes with that SHA-256, where they are known; a file there is kept.

    What an interrupted download leaves, a `.partial` file beside `path`, is continued. Of several processes one
    downloads and the others wait. Raises `BadDownload` with the reason.
    """
    partial = path.with_name(f"{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _THREADS, _held(path):
            if not path.is_file():
                _fetch(address, partial, size)
                _check(address, partial, sha256)
                os.replace(partial, path)


def _fetch(address: str, partial: Path, size: int | None) -> None:
    """The rest of the file at `address` to the end of `partial`, which then has all its bytes."""
    done = partial.stat().st_size if partial.is_file() else 0
    if done and done == size:
        return
    answer = _open(address, done if size is None or done < size else 0)
    with answer:
        done = done if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # else the server sends all of it
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else size
        if size is not None and total != size:
            raise BadDownload(f"{address}: {total} bytes at the server, {size} expected")
        with (
            bar(f"downloading {partial.stem} (MiB)", -(-(total or 0) // CHUNK), done // CHUNK) as advance,
            open(partial, "ab" if done else "wb") as file,
        ):
            while block := _read(answer, address):
                file.write(block)
                advance(-(-len(block) // CHUNK))
            file.flush()
            os.fsync(file.fileno())
    found = partial.stat().st_size
    if total is not None and found != total:
        raise BadDownload(f"{address}: interrupted after {found} of {total} bytes, which the next attempt continues")


def _open(address: str, done: int) -> Any:
    """The server's answer: the bytes after the first `done`, or all where it cannot send a part."""
    headers = {"User-Agent": "featherbone"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if done and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open(address, 0)
        raise BadDownload(f"{address}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", "") or str(error) or type(error).__name__
        raise BadDownload(f"{address} cannot be reached ({reason})") from None


def _read(answer: Any, address: str) -> bytes:
    try:
        return answer.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise BadDownload(f"{address}: interrupted ({reason}); the next attempt continues it") from None


def _check(address: str, partial: Path, sha256: str | None) -> None:
    """Remove the file and raise `BadDownload` where its SHA-256 is another."""
    if sha256 is not None:
        with open(partial, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            partial.unlink()
            raise BadDownload(f"{address}: another file than expected (SHA-256 {found[:16]}, not {sha256[:16]})")


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the file `path` against other processes, after the one that holds it."""
    lock, waiting = path.with_name(f".{path.name}.lock"), False

    def wait() -> None:
        nonlocal waiting
        if not waiting:
            notify(f"another process is downloading {path.name}; waiting for it", "note")
        waiting = True
        time.sleep(WAIT)

    handle = lock_file(lock, wait)
    try:
        yield
    finally:
        unlock_file(lock, handle)
