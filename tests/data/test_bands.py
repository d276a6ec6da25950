"""Images of any number of channels are read with their stored values, from every file that holds them."""

import io
import pickle
import re
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from featherbone.data.bands import Bands, count_channels, read_bands, read_encoded, read_values, size_of
from featherbone.data.channels import find_channels, measure
from featherbone.data.doctor.table import look_at
from featherbone.data.formats.class_folders import FolderSplit
from featherbone.data.frames import fit, scale_image
from featherbone.data.images import read_image
from featherbone.data.loading import seeded
from featherbone.data.text_array import TextArray
from featherbone.data.transforms import Preprocessing, training_transform
from featherbone.errors import BadData, BadImage, BadOption


def values(count, dtype=np.uint16, height=6, width=9):
    numbers = np.random.default_rng(count).integers(0, 256, (height, width, count))
    return (numbers * (200 if dtype == np.uint16 else 1)).astype(dtype)


def save_pages(path, image):
    first, *others = [Image.fromarray(np.ascontiguousarray(image[:, :, i])) for i in range(image.shape[2])]
    first.save(path, save_all=True, append_images=others)


def save_grey(path, image):
    Image.fromarray(image[:, :, 0]).save(path)


def save_colours(path, image):
    Image.fromarray(image).save(path)


def save_samples(path, image):
    tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig")


def save_planes(path, image):
    tifffile.imwrite(path, np.moveaxis(image, 2, 0), photometric="minisblack", planarconfig="separate")


FILES = {
    "array": ("a.npy", np.save, values(5, np.float32)),
    "integers": ("a.npy", np.save, values(2, np.int16)),
    "grey-array": ("a.npy", np.save, values(1)),
    "pages": ("a.tif", save_pages, values(5)),
    "float-pages": ("a.tif", save_pages, values(2, np.float32)),
    "samples": ("a.tiff", save_samples, values(6)),
    "byte-samples": ("a.tiff", save_samples, values(5, np.uint8)),
    "planes": ("a.tif", save_planes, values(7, np.float32)),
    "grey-16-png": ("a.png", save_grey, values(1)),
    "grey-16-tiff": ("a.tif", save_grey, values(1)),
    "grey-8-png": ("a.png", save_grey, values(1, np.uint8)),
    "alpha": ("a.png", save_colours, values(4, np.uint8)),
    "colour-16-tiff": ("a.tif", save_samples, values(3)),
}
FOUND = {"grey-16-png": None, "grey-16-tiff": None, "grey-8-png": None, "alpha": None}
"""What is read in RGB unless the channels are stated."""


@pytest.mark.parametrize("kind", FILES)
def test_files_keep_their_values(kind, tmp_path):
    name, save, expected = FILES[kind]
    path = tmp_path / name
    save(path, expected)
    count = expected.shape[2]
    for source in (path, path.read_bytes()):
        assert np.array_equal(read_bands(source, count, "a").values, expected.astype(np.float32))
        assert size_of(source, "a") == expected.shape[:2]
        assert count_channels(source, "a") == FOUND.get(kind, count)
    with pytest.raises(BadImage, match=f"a: {count} channels, but 9 are read; give images .*--channels {count}"):
        read_bands(path, 9, "a")


def test_arrays_and_tensors_are_read_as_they_are():
    array = values(4, np.float64) - 7
    for source in (array, torch.from_numpy(array).movedim(2, 0), Bands(array.astype(np.float32))):
        assert np.array_equal(read_bands(source, 4).values, array)
    assert read_bands(array[:, :, 0], 1).values.shape == (6, 9, 1)
    assert read_bands(Image.fromarray(values(1)[:, :, 0]), 1).values.max() > 255
    picture = Image.new("RGB", (4, 4))
    for wrong, why in (
        (array[None], "give numbers"),
        (array.astype(complex), "give numbers"),
        (array.astype(str), "give numbers"),
        (np.where(array == array.max(), np.nan, array), r"0\.5% of its values are not finite"),
        (array * 1e300, "not finite"),
        (array[:, :0], "give numbers"),
        (picture, "3 channels, but 4 are read"),
        (picture.convert("P"), "mode P"),
        ([array], "list is not a picture"),
    ):
        with pytest.raises(BadImage, match=why):
            read_bands(wrong, 4)


def test_bytes_in_rgb_arrays_are_pictures(tmp_path):
    image = values(3, np.uint8)
    np.save(tmp_path / "a.npy", image)
    assert count_channels(tmp_path / "a.npy", "a") is None
    assert np.array_equal(read_image(tmp_path / "a.npy"), image)
    np.save(tmp_path / "a.npy", values(5, np.uint8))
    with pytest.raises(BadImage, match=r"a\.npy: array \(6, 9, 5\) of uint8: give"):
        read_image(tmp_path / "a.npy")


def test_the_doctor_reads_what_training_reads(tmp_path):
    """Bytes in RGB arrays, and no stack where RGB is read."""
    (tmp_path / "1.stack").mkdir()
    save_grey(tmp_path / "1.stack/r.png", values(1, np.uint8))
    np.save(tmp_path / "0.npy", values(3, np.uint8))
    images = FolderSplit(tmp_path, TextArray(("0.npy", "1.stack")), np.zeros(2, np.int64), ("a",))
    assert look_at(images, 0).size == images.image(0).size == (9, 6)
    for read in (look_at, FolderSplit.image):
        with pytest.raises(BadImage, match="a stack of channels, but RGB is read"):
            read(images, 1)


def test_arrays_execute_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return sys.exit, (3,)

    path = tmp_path / "a.npy"
    np.save(path, np.array([[Trap()]], object), allow_pickle=True)
    path.with_suffix(".pkl").write_bytes(pickle.dumps(Trap()))
    for content in (path.read_bytes(), b"\x93NUMPY" + pickle.dumps(Trap())):
        for read in (lambda c: read_bands(c, 1, "a"), lambda c: read_image(c, "a")):
            with pytest.raises(BadImage, match="a: damaged"):
                read(content)


@pytest.fixture
def stack(tmp_path):
    """Channels 0 and 1 in 16 bits, and 2 to 4 of an array, in a folder with what systems leave there."""
    folder = tmp_path / "a.stack"
    folder.mkdir()
    for name, image in (("B03.png", values(5)[:, :, 1:]), ("B02.png", values(5))):
        save_grey(folder / name, image)
    np.save(folder / "c.npy", values(5)[:, :, 2:].astype(np.float32))
    for name in (".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"junk")
    return folder


def test_a_stack_is_the_channels_of_its_pictures(stack, tmp_path):
    assert np.array_equal(read_bands(stack, 5).values, values(5))
    assert np.array_equal(read_bands(read_encoded(stack, "a"), 5).values, values(5))
    assert count_channels(stack, "a") == 5 and size_of(stack, "a") == (6, 9)
    (stack / "c.npy").unlink()
    assert read_values(stack, "a").dtype == np.uint16 and count_channels(stack, "a") == 2


def test_what_is_wrong_with_a_stack_is_named(stack, tmp_path):
    for read in (lambda: read_image(stack), lambda: read_image(read_encoded(stack, "a"), "a.stack")):
        with pytest.raises(BadImage, match=r"a\.stack: a stack of channels, but RGB is read; give a picture, or train"):
            read()
    with pytest.raises(BadImage, match=r"a\.stack: 5 channels, but 4 are read; .* or train a model with --channels 5"):
        read_bands(stack, 4)
    for name, content, message in (
        ("B03.png", b"", "a.stack/B03.png: an empty file"),
        ("z.txt", b"", "a.stack: a stack with z.txt, which is not a picture; put the pictures of its channels, and"),
    ):
        kept = (stack / name).read_bytes() if (stack / name).exists() else None
        (stack / name).write_bytes(content)
        with pytest.raises(BadImage, match=re.escape(message)):
            read_bands(stack, 5)
        (stack / name).unlink() if kept is None else (stack / name).write_bytes(kept)
    save_grey(stack / "B03.png", values(1, height=5))
    with pytest.raises(BadImage, match=r"a\.stack: different sizes, 9x6 of B02\.png and 9x5 of B03\.png; save"):
        read_bands(stack, 5)
    (tmp_path / "b.stack").mkdir()
    (tmp_path / "b.stack/.DS_Store").touch()
    (tmp_path / "c.stack").touch()
    for name, message in (
        ("b", "an empty stack; put"),
        ("c", "a file, where a folder was expected; a stack"),
        ("d", "there is no such file"),
    ):
        for read in (size_of, count_channels, read_encoded):
            with pytest.raises(BadImage, match=rf"^{name}: {message}"):
                read(tmp_path / f"{name}.stack", name)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's
def test_truncated_arrays_and_pages_are_damaged(tmp_path):
    for name in ("array", "pages", "samples"):
        file, save, image = FILES[name]
        save(tmp_path / file, image)
        content = (tmp_path / file).read_bytes()
        with pytest.raises(BadImage, match="a: "):
            read_bands(content[: len(content) // 2], image.shape[2], "a")


def test_smaller_copies_of_a_page_are_no_channels(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(values(1)[:, :, 0])
        file.write(values(1)[::2, ::2, 0], subfiletype=1)
    assert read_values(tmp_path / "a.tif", "a").shape == (6, 9, 1)
    assert count_channels(tmp_path / "a.tif", "a") is None
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(values(1)[:, :, 0])
        file.write(values(1)[::2, ::2, 0])
    with pytest.raises(BadImage, match="b: different sizes, 9x6 of page 1 and 5x3 of page 2; save the"):
        read_values(tmp_path / "b.tif", "b")


def test_the_message_without_tifffile_names_the_extra(tmp_path, monkeypatch):
    save_samples(tmp_path / "a.tif", values(6))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(BadImage, match=r"a: .* pip install 'featherbone\[tiff\]', or save it as \.npy"):
        read_bands(tmp_path / "a.tif", 6, "a")


def test_colours_of_16_bits_in_png_are_refused():
    file = io.BytesIO()
    Image.fromarray(values(1)[:, :, 0]).save(file, "PNG")
    assert read_bands(file.getvalue(), 1, "a").values.max() > 255

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    # one pixel of 16 bits in RGB, which Pillow does not write
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" + bytes(6))) + chunk(b"IEND", b"")
    with pytest.raises(BadImage, match=r"a: 16 bits a channel, of which Pillow reads 8; save it as \.npy"):
        read_bands(content, 3, "a")


def test_pictures_show_the_first_channels():
    image = np.zeros((10, 10, 5), np.float32)
    image[5:, :, 0], image[:, 5:, 1], image[:, :, 3] = 1000, -3, 7
    shown = np.asarray(Bands(image).picture())
    assert shown.shape == (10, 10, 3)
    assert (shown[5:, :, 0] == 255).all() and (shown[:5, :, 0] == 0).all()
    assert (shown[:, :5, 1] == 255).all() and (shown[:, :, 2] == 0).all()
    grey = np.asarray(Bands(image[:, :, :2]).picture())
    assert (grey == grey[:, :, :1]).all() and grey.max() == 255


def stored(count, **more):
    return Preprocessing(16, 16, mean=(3.0,) * count, std=(2.0,) * count, channels=count, **more)


def test_inputs_are_normalised_values():
    image = Bands(values(5, np.float32, 16, 16))
    expected = (image.tensor() - 3) / 2
    assert torch.allclose(stored(5, crop=1.0).transform()(image), expected)
    assert torch.allclose(stored(5, rule="fit").transform()(image), expected)
    assert stored(5).picture(expected).size == (16, 16)
    wide = stored(5, rule="fit").transform()(Bands(values(5, np.float32, 8, 16)))
    assert wide.shape == (5, 16, 16) and not wide[:, 8:].any() and wide[:, :8].any()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(5, 4), (20, 31)])
def test_the_resize_is_that_of_pictures_without_rounding(interpolation, size):
    smooth = values(3, np.uint8, 12, 12) // 2 + 64  # a cubic filter exceeds the range of what it is applied to
    frame = fit(12, 12, *size)
    of_picture = scale_image(Image.fromarray(smooth), frame, interpolation)
    of_bands = scale_image(Bands(smooth.astype(np.float32)), frame, interpolation)
    assert (of_picture.float() - of_bands).abs().max() <= 1  # two passes, each rounded


def test_augmentation_takes_any_channels():
    image = Bands(values(5, np.float32, 30, 40))
    transform = training_transform(stored(5), color_jitter=0.5, erasing=0.5, min_area=0.3)
    shown = []
    for seed in (0, 0, 1):
        with seeded(seed):
            shown.append(transform(image))
    assert shown[0].shape == (5, 16, 16)
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])


def test_preprocessing_states_what_is_wrong():
    for wrong, why in (
        (dict(mean=(1.0,), std=(1.0, 1.0), channels=2), "one for each of 2 channels"),
        (dict(mean=(1.0, 1.0)), "one for each of 3 channels"),
        (dict(mean=(), std=(), channels=0), "0 channels; give 1 to 1024"),
        (dict(mean=(1.0,), std=(1.0,), channels=1, interpolation="lanczos"), "one of bilinear, bicubic"),
        (dict(mean=(1e10,), std=(1.0,), channels=1), "up to 1e"),
    ):
        with pytest.raises(BadOption, match=why):
            Preprocessing(16, 16, **wrong)


def split(root, images):
    names = [f"{i}.npy" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        np.save(root / name, image)
    return FolderSplit(root, TextArray(names), np.zeros(len(names), np.int64), ("a",))


def test_mean_and_deviation_are_those_of_the_pixels(tmp_path):
    images = np.random.default_rng(0).normal((5, 300, 7), (2, 0.5, 0), (6, 8, 8, 3)).astype(np.float32)
    mean, std, count = measure(split(tmp_path, images), 3, tmp_path)
    assert count == 6
    assert np.allclose(mean, images.astype(float).mean((0, 1, 2)))
    assert np.allclose(std[:2], images.astype(float).std((0, 1, 2))[:2]) and std[2] == 1


def test_images_that_cannot_be_read_are_not_measured(tmp_path):
    images = split(tmp_path, [values(2), values(3), values(2)])
    assert find_channels(images, tmp_path) == 2
    assert measure(images, 2, tmp_path)[2] == 2
    with pytest.raises(BadData, match=r"none of 3 training images can be read; the first: 0\.npy: 2 channels"):
        measure(images, 5, tmp_path)
    for i in range(3):
        (tmp_path / f"{i}.npy").write_bytes(b"")
    with pytest.raises(BadData, match=r"none of 3 images tried can be read; the first: 0\.npy: damaged"):
        find_channels(images, tmp_path)
