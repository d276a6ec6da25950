"""Many short texts in two arrays.

A list of 100,000 names is 100,000 objects. A process that reads images shares memory with the one that started it until
either writes to a page, and counting references writes to every object that is touched; arrays are shared for good.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featherbone.text import to_bytes


class TextArray(Sequence[str]):
    """Texts, or any bytes, by index."""

    def __init__(self, texts: Iterable[str | bytes] = ()) -> None:
        parts = [to_bytes(text) if isinstance(text, str) else text for text in texts]
        self._set(b"".join(parts), np.array([len(part) for part in parts], np.int64))

    def _set(self, content: bytes, lengths: NDArray[np.int64]) -> None:
        self.content = content
        self.bounds = np.concatenate((np.zeros(1, np.int64), lengths.cumsum()))
        """Where text i begins in `content`, and behind the last its end."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        return self.encoded(index).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for part in self.parts():
            yield part.decode("utf-8", "surrogatepass")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    def encoded(self, index: int) -> bytes:
        """A text as bytes."""
        index = range(len(self))[index]
        return self.content[self.bounds[index] : self.bounds[index + 1]]

    def parts(self) -> Iterator[bytes]:
        """All texts as bytes."""
        bounds = self.bounds.tolist()
        for start, end in pairwise(bounds):
            yield self.content[start:end]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Self:
        """The texts of `indices`, in that order."""
        taken = type(self)()
        chosen = np.asarray(indices, np.int64)
        starts, ends = self.bounds[:-1][chosen], self.bounds[1:][chosen]
        content = b"".join(self.content[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True))
        taken._set(content, ends - starts)
        return taken
