"""Many short texts in two arrays.

A list of 100,000 names is 100,000 objects. A process that reads images shares memory with the one that started it until
either writes to a page, and counting references writes to every object that is touched; arrays are shared for good.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featherbone.text import to_bytes


class TextWriter:
    """Texts that are added one by one."""

    def __init__(self) -> None:
        self.content, self.bounds = bytearray(), array("q", [0])

    def add(self, text: bytes) -> None:
        """Append a text."""
        self.content += text
        self.bounds.append(len(self.content))

    def finish(self) -> "TextArray":
        """The texts."""
        texts = TextArray()
        texts.content, texts.bounds = self.content, np.array(self.bounds, np.int64)
        return texts


class TextArray(Sequence[str]):
    """Texts, or any bytes, by index."""

    def __init__(self, texts: Iterable[str | bytes] = ()) -> None:
        parts = [to_bytes(text) if isinstance(text, str) else text for text in texts]
        self.content = bytearray().join(parts)
        self.bounds = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        """Where text i begins in `content`, and behind the last its end."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        return self.encoded(index).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for part in self.parts():
            yield part.decode("utf-8", "surrogatepass")

    def encoded(self, index: int) -> bytes:
        """A text as bytes."""
        index += len(self) if index < 0 else 0
        return bytes(self.content[self.bounds[index] : self.bounds[index + 1]])

    def parts(self) -> Iterator[bytes]:
        """All texts as bytes."""
        for start, end in pairwise(self.bounds.tolist()):
            yield bytes(self.content[start:end])

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Self:
        """The texts of `indices`, in that order."""
        chosen, taken = np.asarray(indices, np.int64), type(self)()
        starts, lengths = self.bounds[:-1][chosen], np.diff(self.bounds)[chosen]
        taken.bounds = np.concatenate((np.zeros(1, np.int64), lengths.cumsum()))
        taken.content, source = bytearray(int(taken.bounds[-1])), memoryview(self.content)
        places = pairwise(taken.bounds.tolist())
        for (start, end), at in zip(places, starts.tolist(), strict=True):  # slice by slice, with no second copy
            taken.content[start:end] = source[at : at + end - start]
        return taken
