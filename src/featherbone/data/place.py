"""Where a data set is: a folder of this machine, or a URL of object storage, whose files are read in parts."""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path, PosixPath
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from featherbone.data.listing import is_junk, list_names
from featherbone.errors import BadData
from featherbone.files import read_text

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")
"""Beginnings of URLs of file systems that pyarrow knows."""
FILES = 64
"""Files at URLs that a process keeps open: opening one takes a request."""


class Url(PosixPath):
    """A URL where the path of a data folder is expected: printed as it was given, and no file of this machine."""

    def __str__(self) -> str:
        return re.sub(r":/+", "://", super().__str__(), count=1)

    def resolve(self, strict: bool = False) -> "Url":
        return self


def root_of(data: str | Path) -> Path:
    """The path of a data folder, or its `Url`, of which `Path` and the command line drop a slash."""
    return Url(data) if re.match(r"[a-z][a-z0-9+.-]+:/", str(data)) and not os.path.exists(data) else Path(data)


def names_below(root: Path, suffixes: Collection[str]) -> list[str]:
    """Files below a data folder with one of the `suffixes`, as `list_names`. Raises `BadData`."""
    if not isinstance(root, Url):
        return list_names(root, suffixes)
    with _reasons(str(root)):
        system, path = locate(str(root))
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    names = [one.path[len(path) + 1 :] for one in found if one.type == fs.FileType.File]
    return sorted(
        (name for name in names if not any(map(is_junk, name.split("/"))) and name.lower().endswith(tuple(suffixes))),
        key=lambda name: name.split("/"),
    )


def open_below(root: Path, name: str) -> pa.NativeFile:
    """A file below a data folder, to be read at any place. Raises `OSError` or an error of Arrow."""
    if not isinstance(root, Url):
        return pa.OSFile(os.fsencode(root / name))
    system, path = locate(str(root))
    return system.open_input_file(f"{path}/{name}")


def read_below(root: Path, name: str, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, fewer where it ends. Raises `OSError` or an error of Arrow."""
    file = _kept_open(root, name, os.getpid()) if isinstance(root, Url) else open_below(root, name)
    return file.read_at(size, start)


def text_below(root: Path, name: str) -> str | None:
    """The content of a text file; None where there is none. Raises `BadData`."""
    if not isinstance(root, Url):
        return read_text(root / name, name) if (root / name).is_file() else None
    with _reasons(name):
        try:
            file = open_below(root, name)
            return file.read_at(file.size(), 0).decode("utf-8-sig")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise BadData(f"{name}: not UTF-8; save it as UTF-8") from None


def locate(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URL, and the path in it. A process that was forked has connections of its own."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise BadData(f"{url}: {parts.scheme} is not read; give a URL of {', '.join(SCHEMES)}, or a path")
    system, root = _file_system(urlunsplit(parts._replace(path="/")), os.getpid())
    return system, f"{root.rstrip('/')}/{unquote(parts.path).strip('/')}".rstrip("/")


def open_url(url: str) -> IO[bytes]:
    """The file of a URL."""
    system, path = locate(url)
    return system.open_input_file(path)


@cache
def _file_system(root: str, process: int) -> tuple[fs.FileSystem, str]:
    """The file system of a URL without its path, and the path of its root; finding a bucket takes a request."""
    return fs.FileSystem.from_uri(root)


@lru_cache(FILES)
def _kept_open(root: Path, name: str, process: int) -> pa.NativeFile:
    return open_below(root, name)


@contextmanager
def _reasons(name: str) -> Iterator[None]:
    """What can fail in reading a file or a URL, as `BadData`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise BadData(f"{name}: cannot be read ({reason_of(error)}); check the path and your access") from None


def reason_of(error: BaseException) -> str:
    """The first line of what an error states."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
