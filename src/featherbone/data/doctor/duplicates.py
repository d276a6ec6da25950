"""Images that are copies of each other, also after compression or a change of size.

The hash of an image is a 64-bit perceptual hash, from the signs of its lowest cosine frequencies, with its colours at
8 x 8. Two images are copies where at most `MAX_BITS` bits differ and the colours by at most `MAX_COLOUR` on average.
Measured on 650 photos of flowers: their copies at JPEG quality 30, at a half or a third of the size, at twice the size
and squeezed to a square differ by at most 4 bits and 3.1 in colour; of the 210,925 pairs of different photos the
nearest differ by 8 bits and 13 in colour.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BITS = 6
"""Maximum number of bits in which copies differ."""
MAX_COLOUR = 6.0
"""Maximum mean difference of the colours of copies, of 255."""
BANDS = 4
"""Parts of 16 bits; only images that agree in one are compared, as all within 3 bits do, and most within 6."""
MAX_NEIGHBOURS = 200
"""Maximum number of images that each is compared with in a part, nearest first, to limit the time."""

_SIDE = 32
_COSINES = np.cos(np.pi * np.outer(np.arange(1, 9), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))  # (8, 32)


@dataclass(frozen=True, slots=True)
class ImageHash:
    """What is kept of an image to find its copies."""

    file: bytes  # digest of the encoded file
    bits: bytes  # perceptual hash, 8 bytes
    colours: bytes  # red, green and blue at 8 x 8, 192 bytes


def hash_image(image: Image.Image, encoded: bytes) -> ImageHash:
    """The hash of an RGB image and of its file."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small.convert("L"), np.float64)
    frequencies = np.rint(_COSINES @ grey @ _COSINES.T)  # on a plain surface all are 0, not the noise of rounding
    bits = np.packbits(frequencies > np.median(frequencies)).tobytes()
    colours = small.resize((8, 8), Image.Resampling.BOX).tobytes()
    return ImageHash(blake2b(encoded, digest_size=16).digest(), bits, colours)


def find_copies(hashes: Sequence[ImageHash]) -> list[list[int]]:
    """Groups of two or more indices of copies, each sorted; a copy of a copy belongs to the group."""
    first: dict[bytes, int] = {}
    roots = [first.setdefault(one.file, index) for index, one in enumerate(hashes)]
    distinct = np.array(list(first.values()), np.int64)

    def root(index: int) -> int:
        while roots[index] != index:
            roots[index] = index = roots[roots[index]]
        return index

    for pairs in _near_pairs([hashes[index] for index in distinct.tolist()]):
        for a, b in distinct[pairs].tolist():
            low, high = sorted((root(a), root(b)))
            roots[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(len(hashes)):
        groups.setdefault(root(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _near_pairs(hashes: Sequence[ImageHash]) -> Iterator[NDArray[np.int64]]:
    """Pairs (n, 2) of indices of copies; a pair may be repeated."""
    bits = np.frombuffer(b"".join(one.bits for one in hashes), np.uint8).reshape(-1, 8)
    words = bits.view(np.uint64)[:, 0]
    colours = np.frombuffer(b"".join(one.colours for one in hashes), np.uint8).reshape(-1, 192)
    spread = np.unpackbits(bits, axis=1).reshape(-1, 64 // BANDS, BANDS)  # each part takes from all frequencies
    for part in range(BANDS):
        keys = np.packbits(spread[:, :, part], axis=1).view(np.uint16)[:, 0]
        order = np.lexsort((colours.mean(axis=1), words, keys))
        keys, at = keys[order], np.arange(len(order))
        for step in range(1, MAX_NEIGHBOURS + 1):
            at = at[at + step < len(order)]
            at = at[keys[at] == keys[at + step]]
            if not len(at):
                break
            pairs = np.stack([order[at], order[at + step]], 1)
            pairs = pairs[np.bitwise_count(np.bitwise_xor(*words[pairs].T)) <= MAX_BITS]
            apart = np.abs(colours[pairs[:, 0]].astype(np.int16) - colours[pairs[:, 1]]).mean(axis=1)
            yield pairs[apart <= MAX_COLOUR]
