"""Copies are found whatever was done to them, other pictures are not, and the search agrees with the plain one."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherbone.data.doctor.duplicates import MAX_BITS, MAX_COLOUR, ImageHash, find_copies, hash_image

FLOWERS = (Path(__file__).parents[2] / "../shared/data/flowers5").resolve()
COPIES = {
    "compressed": lambda image: (image, 30),
    "half the size": lambda image: (image.resize((image.width // 2, image.height // 2)), 85),
    "a third of the size": lambda image: (image.resize((image.width // 3, image.height // 3)), 75),
    "twice the size": lambda image: (image.resize((image.width * 2, image.height * 2)), 75),
    "squeezed": lambda image: (image.resize((128, 128)), 75),
}


def recode(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


@pytest.mark.skipif(not FLOWERS.is_dir(), reason="needs the shared photos")
def test_copies_of_photos_are_found_and_other_photos_are_not():
    paths = sorted(FLOWERS.glob("val/*/*.jpg"))
    images = [Image.open(path).convert("RGB") for path in paths]
    hashes = [hash_image(image, path.read_bytes()) for image, path in zip(images, paths, strict=True)]
    assert find_copies(hashes) == []
    for name, copy in COPIES.items():
        copies = [hash_image(recode(*copy(image)), name.encode() + bytes([i])) for i, image in enumerate(images[:20])]
        assert find_copies(hashes + copies) == [[i, len(hashes) + i] for i in range(20)], name


def are_copies(a: ImageHash, b: ImageHash) -> bool:
    bits = (int.from_bytes(a.bits) ^ int.from_bytes(b.bits)).bit_count()
    colours = np.abs(np.frombuffer(a.colours, np.uint8).astype(float) - np.frombuffer(b.colours, np.uint8)).mean()
    return a.file == b.file or (bits <= MAX_BITS and colours <= MAX_COLOUR)


@pytest.mark.parametrize("flips", [0, 1, 2, 3])
def test_the_search_finds_what_comparing_all_pairs_finds(flips):
    generator = np.random.default_rng(flips)
    hashes = []
    for _ in range(100):
        bits, colours = generator.integers(0, 2, 64, np.uint8), generator.integers(0, 250, 192, np.uint8)
        for copy in range(generator.integers(1, 3)):
            flipped = bits.copy()
            flipped[generator.choice(64, copy * flips, replace=False)] ^= 1
            shifted = colours + generator.integers(0, 2) * 12 * copy  # too far in colour, though not in bits
            file = hashes[-1].file if copy and generator.random() < 0.2 else generator.bytes(16)
            hashes.append(ImageHash(file, np.packbits(flipped).tobytes(), shifted.astype(np.uint8).tobytes()))
    pairs = [[i, j] for i in range(len(hashes)) for j in range(i + 1, len(hashes)) if are_copies(hashes[i], hashes[j])]
    assert len(pairs) > 20
    assert find_copies(hashes) == pairs


def test_no_picture_and_one_have_no_copies():
    one = hash_image(Image.new("RGB", (5, 3)), b"")
    assert find_copies([]) == [] and find_copies([one]) == []


def test_plain_surfaces_are_copies_only_of_their_own_colour():
    colours = [(10, 10, 10), (90, 90, 90), (10, 10, 10), (90, 10, 10), (92, 91, 90)]
    hashes = [hash_image(Image.new("RGB", (64, 48), colour), bytes([i])) for i, colour in enumerate(colours)]
    assert find_copies(hashes) == [[0, 2], [1, 4]]


def test_many_plain_hashes_take_seconds_at_most():
    generator = np.random.default_rng(0)
    hashes = [ImageHash(generator.bytes(16), generator.bytes(8), generator.bytes(192)) for _ in range(5_000)]
    hashes += [ImageHash(generator.bytes(16), bytes(8), generator.bytes(192)) for _ in range(500)]  # one hash for all
    assert find_copies([*hashes, hashes[123]]) == [[123, len(hashes)]]
