"""Where the members of a tar shard are, so that one is read without those before it."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featherbone.data.listing import is_junk
from featherbone.data.place import open_below, read_below, reason_of, text_below
from featherbone.data.text_array import TextArray
from featherbone.errors import BadData, BadImage

INDEX = ".index"
"""Suffix of the index beside a shard, `train-000000.tar.index`."""
TEXTS = (".cls", ".json")
"""Suffixes, in lower case, of members whose content is part of the index."""
AHEAD = 1 << 16
"""Bytes that are read at once in looking for the members of a shard."""


class ShardIndex(msgspec.Struct):
    """The files in a shard, in their order."""

    size: int
    """Bytes of the shard."""
    names: list[str]
    offsets: list[int]
    """Where the content of each file starts."""
    sizes: list[int]
    texts: dict[str, str]
    """The content of annotations, by name."""

    def is_of(self, size: int) -> bool:
        """Whether it may be the index of a shard of that size."""
        ends = (start + count for start, count in zip(self.offsets, self.sizes, strict=False))
        inside = len(self.names) == len(self.offsets) == len(self.sizes) and max(ends, default=0) <= size
        return inside and self.size == size and min((*self.offsets, *self.sizes), default=0) >= 0


def read_index(root: Path, shard: str) -> ShardIndex:
    """The index beside a shard, or one made from the shard's headers where there is none of its size.

    Raises `BadData` for a shard that is no tar file, damaged or cut off.
    """
    with _damages(shard):
        size = open_below(root, shard).size()
    with suppress(BadData, msgspec.DecodeError, RecursionError):
        index = msgspec.json.decode(text_below(root, shard + INDEX) or "", type=ShardIndex)
        if index.is_of(size):
            return index
    return scan(root, shard)


def scan(root: Path, shard: str, most: int | None = None) -> ShardIndex:
    """The index of a shard, or of its first `most` files, from its headers. Raises `BadData` as `read_index`."""
    with _damages(shard):
        file = open_below(root, shard)
        index, buffer = ShardIndex(file.size(), [], [], [], {}), io.BufferedReader(file, AHEAD)
        with tarfile.open(fileobj=buffer, mode="r:") as tar:
            while (most is None or len(index.names) < most) and (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it keeps all
                if not member.isreg() or member.issparse() or is_junk(member.name.rpartition("/")[2]):
                    continue
                if member.offset_data + member.size > index.size:
                    raise EOFError(f"unexpected end of data in {member.name}")
                index.names.append(member.name)
                index.offsets.append(member.offset_data)
                index.sizes.append(member.size)
                if member.name.lower().endswith(TEXTS):
                    content = tar.extractfile(member)
                    assert content is not None, "it is a file"
                    index.texts[member.name] = content.read().decode("utf-8-sig")
            end = tar.offset
        if most is None and file.read_at(tarfile.BLOCKSIZE, end) != bytes(tarfile.BLOCKSIZE):
            raise EOFError(f"damaged or cut off at byte {end:,}")
        return index


@dataclass(frozen=True, eq=False)
class Members:
    """Files in the shards of a split."""

    root: Path
    shards: tuple[str, ...]
    """Below `root`."""
    places: NDArray[np.int64]
    """Shard, offset and size of each file (N, 3)."""
    names: TextArray

    @classmethod
    def of(cls, root: Path, shards: Sequence[str], rows: Sequence[tuple[int, int, int, str]]) -> Self:
        """The files of `rows`: shard, offset, size and name."""
        places = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
        return cls(root, tuple(shards), places, TextArray(row[3] for row in rows))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The files of one or more parts of the same split."""
        names = TextArray(name for part in parts for name in part.names.parts())
        return replace(parts[0], places=np.concatenate([part.places for part in parts]), names=names)

    def name(self, index: int) -> str:
        """The shard and the name of a file."""
        return f"{self.shards[self.places[index, 0]]}/{self.names[index]}"

    def paths(self) -> TextArray:
        """The name of each file."""
        return TextArray(map(self.name, range(len(self.names))))

    def read(self, index: int) -> bytes:
        """A file. Raises `BadImage`."""
        shard, start, size = self.places[index].tolist()
        try:
            content = read_below(self.root, self.shards[shard], start, size)
        except (OSError, pa.ArrowException) as error:
            raise BadImage(f"{self.name(index)}: cannot be read ({reason_of(error)}); check the shard") from None
        if len(content) < size:
            raise BadImage(f"{self.name(index)}: the shard is cut off before its end; copy it again")
        return content

    def take(self, indices: Sequence[int]) -> Self:
        """The files of `indices`, in that order."""
        return replace(self, places=self.places[list(indices)], names=self.names.take(indices))


@contextmanager
def _damages(shard: str) -> Iterator[None]:
    """What can fail in reading a shard, as `BadData`."""
    try:
        yield
    except (OSError, pa.ArrowException, tarfile.TarError, EOFError, ValueError, MemoryError) as error:
        raise BadData(
            f"{shard}: not a whole tar file without compression ({reason_of(error)}); copy or write it again, or check "
            "your access"
        ) from None
