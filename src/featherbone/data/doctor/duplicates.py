"""Pictures that are copies of each other, also after compression or a change of size.

A picture's print is a 64-bit perceptual hash, from the signs of its lowest cosine frequencies, beside its colours at
8 x 8. Two are copies where at most `MAX_BITS` bits differ and the colours by at most `MAX_COLOUR` on average.
Measured on 650 photos of flowers: their copies at JPEG quality 30, at a half or a third of the size, at twice the size
and squeezed to a square differ by at most 4 bits and 3.1 in colour; of the 210,925 pairs of different photos the
nearest are 8 bits and 13 in colour apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image

MAX_BITS = 6
"""Most bits of the hash in which copies differ."""
MAX_COLOUR = 6.0
"""Most that the colours of copies differ, of 255, on average."""
BANDS = 4
"""Parts of 16 bits; copies are sought among pictures that agree in one, as all within 3 bits do, and most within 6."""
MAX_NEIGHBOURS = 200
"""Most pictures of one part that each is compared with, nearest first; it bounds the time where thousands agree."""

_SIDE = 32
_COSINES = np.cos(np.pi * np.outer(np.arange(1, 9), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))  # (8, 32)


@dataclass(frozen=True, slots=True)
class Print:
    """What is kept of a picture to find its copies."""

    file: bytes
    """Digest of the encoded file."""
    bits: bytes
    """The perceptual hash, 8 bytes."""
    colours: bytes
    """Red, green and blue at 8 x 8, 192 bytes."""


def take_print(image: Image.Image, encoded: bytes) -> Print:
    """The print of an RGB image and the file it came from."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small.convert("L"), np.float64)
    frequencies = np.rint(_COSINES @ grey @ _COSINES.T)  # on a plain surface all are 0, not the noise of rounding
    bits = np.packbits(frequencies > np.median(frequencies)).tobytes()
    colours = small.resize((8, 8), Image.Resampling.BOX).tobytes()
    return Print(blake2b(encoded, digest_size=16).digest(), bits, colours)


def find_copies(prints: Sequence[Print]) -> list[list[int]]:
    """Groups of two or more indices whose pictures are copies, each sorted; a copy of a copy belongs to the group."""
    first: dict[bytes, int] = {}
    roots = [first.setdefault(one.file, index) for index, one in enumerate(prints)]
    distinct = np.array(list(first.values()), dtype=np.int64)

    def root(index: int) -> int:
        while roots[index] != index:
            roots[index] = index = roots[roots[index]]
        return index

    for a, b in _near_pairs([prints[index] for index in distinct.tolist()]):
        low, high = sorted((root(int(distinct[a])), root(int(distinct[b]))))
        roots[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(len(prints)):
        groups.setdefault(root(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _near_pairs(prints: Sequence[Print]) -> Iterator[tuple[int, int]]:
    """Pairs of copies; one pair may come more than once."""
    bits = np.frombuffer(b"".join(one.bits for one in prints), np.uint8).reshape(-1, 8)
    hashes = bits.view(np.uint64)[:, 0]
    colours = np.frombuffer(b"".join(one.colours for one in prints), np.uint8).reshape(-1, 192)
    spread = np.unpackbits(bits, axis=1).reshape(-1, 64 // BANDS, BANDS)  # each part takes from all frequencies
    for part in range(BANDS):
        keys = np.packbits(spread[:, :, part], axis=1).view(np.uint16)[:, 0]
        order = np.lexsort((colours.mean(axis=1), hashes, keys))
        keys, at = keys[order], np.arange(len(order))
        for step in range(1, MAX_NEIGHBOURS + 1):
            at = at[at + step < len(order)]
            at = at[keys[at] == keys[at + step]]
            if not len(at):
                break
            yield from _close(hashes, colours, order[at], order[at + step])


def _close(
    hashes: np.ndarray[Any, Any], colours: np.ndarray[Any, Any], a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]
) -> Iterator[tuple[int, int]]:
    """The pairs of `a` and `b` within both bounds."""
    near = np.bitwise_count(hashes[a] ^ hashes[b]) <= MAX_BITS
    a, b = a[near], b[near]
    apart = np.abs(colours[a].astype(np.int16) - colours[b]).mean(axis=1)
    alike = apart <= MAX_COLOUR
    yield from zip(a[alike].tolist(), b[alike].tolist(), strict=True)
