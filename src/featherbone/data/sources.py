"""The pictures of any number of files, folders, globs, lists and shards, one by one.

A picture is known by its `Entry`; nothing here holds a list of them.
"""

import glob
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from featherbone.data.formats.parquet import image_column
from featherbone.data.listing import is_image, is_junk, is_stack, walk_images
from featherbone.data.place import locate, open_url, reason_of
from featherbone.errors import BadData, BadImage, BadOption

LIST, PARQUET, TARS = ".txt", ".parquet", (".tar", ".tar.gz", ".tgz")
BATCH = 16
"""Rows of a Parquet shard that are decoded at a time."""


@dataclass(frozen=True)
class Entry:
    """A picture that is not read yet."""

    source: str
    """Path or URL of its file, or of the shard that holds it."""
    key: str | None
    """Row in a Parquet shard, or name in a tar shard."""
    content: str | bytes | Callable[[], bytes] | BadImage
    """Its path, its bytes, how to get them, or why there are none."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.source if self.key is None else f"{self.source}: {self.key}"

    @property
    def digest(self) -> bytes:
        """16 bytes that identify it, on every machine to which `source` is the same."""
        return digest(self.source, self.key)

    def read(self) -> str | bytes:
        """Its path or its bytes. Raises `BadImage`."""
        if isinstance(self.content, BadImage):
            raise self.content
        if isinstance(self.content, str | bytes):
            return self.content
        with _reasons(self.name):
            return self.content()


def digest(source: str, key: str | None) -> bytes:
    """The `digest` of an entry."""
    return blake2b(escaped(f"{source}\0{key or ''}").encode(), digest_size=16).digest()


def escaped(name: str) -> str:
    """A name as it is written to files: bytes that are not UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Share:
    """The part of all pictures that one of `total` machines takes.

    It depends on each picture only: machines need not agree on an order.
    """

    number: int = 1
    total: int = 1

    @staticmethod
    def parse(text: str) -> "Share":
        """The share "I/N". Raises `BadOption`."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        share = Share(*map(int, found.groups())) if found else Share(0)
        if not 1 <= share.number <= share.total:
            raise BadOption(f"share {text!r} is not one of 1/N to N/N; pass 1/3, 2/3 and 3/3 on three machines")
        return share

    def __contains__(self, digest: bytes) -> bool:
        return int.from_bytes(digest[:8]) % self.total == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.total}"


class Digests:
    """A set of digests of 16 bytes in some 30 bytes each; Python's set needs over 100."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, "S16")
        self._recent: set[bytes] = set()

    def add(self, digest: bytes) -> bool:
        """Whether it is new."""
        place = self._sorted.searchsorted(digest)  # items of an array lose zeros at their end, an order does not
        if digest in self._recent or self._sorted.searchsorted(digest, "right") > place:
            return False
        self._recent.add(digest)
        if len(self._recent) > max(1 << 16, len(self._sorted) // 8):
            self._sorted = np.sort(np.concatenate((self._sorted, np.array(list(self._recent), "S16"))))
            self._recent = set()
        return True


def is_collection(source: str) -> bool:
    """Whether it is a list, a shard or a URL: its pictures are many, or are not files of this machine."""
    return "://" in source or _has_ending(source, LIST, PARQUET, *TARS)


def expand_glob(source: str) -> Iterator[str]:
    """The files and folders of a glob that the shell has not expanded; anything else is returned as it is."""
    if os.path.exists(source) or not glob.has_magic(source):
        return iter((source,))
    return glob.iglob(source, recursive=True)


def open_sources(sources: Sequence[str], without: Path) -> Iterator[Entry]:
    """The pictures of files, folders, globs, lists (.txt), Parquet and tar shards, and URLs of any of these but globs.

    A line of a list is a path or URL as it could be given itself, other lists excepted. Pictures below the folder
    `without` are not taken. Raises `BadImage` at once for a missing source; what is missing from a list, or damaged, is
    an entry whose `read` raises it.
    """
    for source in sources:
        if "://" in source:
            with _reasons(source):
                system, path = locate(source)
                missing = system.get_file_info(path).type == fs.FileType.NotFound
        else:
            missing = not any(map(os.path.exists, expand_glob(source)))
        if missing:
            raise BadImage(f"{source}: there is no such file or folder; check the path")
    return chain.from_iterable(_of_source(source, without.resolve()) for source in sources)


def _of_source(source: str, without: Path) -> Iterator[Entry]:
    if not _has_ending(source, LIST):
        yield from _of_path(source, without)
        return
    with _reasons(source), _open(source) as file, io.TextIOWrapper(file, "utf-8-sig", "surrogateescape") as lines:
        for line in lines:
            if path := line.rstrip("\r\n"):
                yield from _of_path(path, without)


def _of_path(source: str, without: Path) -> Iterator[Entry]:
    if "://" in source or _has_ending(source, PARQUET, *TARS):
        try:
            with _reasons(source):
                yield from _of_shard(source) if _has_ending(source, PARQUET, *TARS) else _of_url(source)
        except BadImage as error:
            yield Entry(source, None, error)
        return
    found = expand_glob(source)
    for path in map(Path, chain((next(found, source),), found)):
        if not path.is_dir() or is_stack(path):
            yield Entry(str(path), None, str(path))
            continue
        inside = path.resolve() in without.parents
        for picture in walk_images(path):
            if not (inside and without in picture.resolve().parents):
                yield Entry(str(picture), None, str(picture))


def _of_url(url: str) -> Iterator[Entry]:
    """The picture of a URL by its name, or those below it."""
    parts = urlsplit(url)
    if is_image(Path(parts.path)):
        yield Entry(url, None, partial(_fetch, url))
        return
    system, path = locate(url)
    for inside in system.get_file_info(fs.FileSelector(path)):
        if not is_junk(inside.base_name) and (inside.type == fs.FileType.Directory or is_image(Path(inside.path))):
            below = f"{parts.path.rstrip('/')}/{quote(inside.base_name)}"
            yield from _of_url(urlunsplit(parts._replace(path=below)))


def _of_shard(source: str) -> Iterator[Entry]:
    with _open(source) as file:
        yield from (_of_parquet if _has_ending(source, PARQUET) else _of_tar)(file, source)


def _of_parquet(file: Any, source: str) -> Iterator[Entry]:
    shard = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)  # a row group may hold gigabytes
    column = image_column(shard.schema_arrow, source)
    is_struct = pa.types.is_struct(shard.schema_arrow.field(column).type)
    batches = shard.iter_batches(BATCH, columns=[f"{column}.bytes" if is_struct else column])
    values = (value for batch in batches for value in (batch[0].flatten()[0] if is_struct else batch[0]))
    for row, value in enumerate(values):
        yield Entry(source, str(row), value.as_py() or b"")


def _of_tar(file: Any, source: str) -> Iterator[Entry]:
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it keeps all
            path = Path(member.name)
            if member.isfile() and is_image(path) and not is_junk(path.name):
                content = tar.extractfile(member)
                assert content is not None, "it is a file"
                yield Entry(source, member.name, content.read())


def _has_ending(source: str, *endings: str) -> bool:
    return (urlsplit(source).path if "://" in source else source).lower().endswith(endings)


def _open(source: str) -> IO[bytes]:
    return open_url(source) if "://" in source else open(source, "rb")


def _fetch(url: str) -> bytes:
    system, path = locate(url)
    with system.open_input_stream(path) as file:
        return file.read()


@contextmanager
def _reasons(name: str) -> Iterator[None]:
    """What can fail in reading a source, as `BadImage`."""
    try:
        yield
    except BadData as error:
        raise BadImage(str(error)) from None
    except (OSError, pa.ArrowException, tarfile.TarError, EOFError, zlib.error) as error:
        raise BadImage(
            f"{name}: cannot be read ({reason_of(error)}); check the file, its path and your access"
        ) from None
