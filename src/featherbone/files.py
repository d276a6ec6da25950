"""Files that are read with care, and appear whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from featherbone.errors import BadData, FeatherboneError

REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),  # no room
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),  # not there
)
"""Reasons of the system not to write that the user can put right."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the user can put right where `path` cannot be written, as `FeatherboneError`."""
    try:
        yield
    except OSError as error:
        if error.errno in REFUSALS:
            raise FeatherboneError(
                f"cannot write {path}: {error.strerror}; free some space or choose another place"
            ) from None
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; on leaving, it is synchronised to disk and takes the place of `path`.

    After an error nothing is left behind, and an older `path` stays as it was. Raises `FeatherboneError` where the
    disk is full or may not be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to write to; on leaving, it takes the place of `path`, and after an error none does.

    Raises `FeatherboneError` where the disk is full or may not be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            yield partial
            if path.exists():
                os.replace(path, old)
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """`content` to `path`, atomically."""
    with atomic(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """`text` to `path` in UTF-8, atomically."""
    write_bytes(path, text.encode())


def read_json(path: Path, name: str) -> Any:
    """What a JSON file holds. Raises `BadData`, which calls it `name`."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BadData(f"{name}: cannot be read ({error.strerror}); give a file that is there") from None
    except (ValueError, RecursionError) as error:
        raise BadData(f"{name}: not JSON ({error}); write it anew") from None


def read_text(path: Path, name: str) -> str:
    """What a text file in UTF-8 holds. Raises `BadData`, which calls it `name`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadData(f"{name}: cannot be read ({error.strerror}); give a file that is there") from None
    except ValueError as error:
        raise BadData(f"{name}: not text in UTF-8 ({error}); write it anew") from None


def write_json(path: Path, value: Any) -> None:
    """`value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
