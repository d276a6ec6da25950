"""Whatever picture comes in leaves upright, in 8-bit RGB; whatever is none is refused with a remedy."""

import ast
import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featherbone
from featherbone.data.doctor.table import look_at
from featherbone.data.images import FORMATS, open_image, orientation_of, read_file, read_image, upright_size
from featherbone.data.label_files import read_values
from featherbone.errors import BadImage

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source) -> np.ndarray:
    image = read_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""How each EXIF orientation lies in the file (EXIF 2.32, tag 0x0112)."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_undone(orientation, kind):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # one bright corner tells all eight apart
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    read = pixels(encode(stored, kind, exif=exif))
    assert read.shape == upright.shape
    np.testing.assert_allclose(read, upright, atol=8)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", FORMATS)
def test_the_size_of_the_head_is_that_of_the_picture(tmp_path, kind, orientation):
    for mode in (*("I;16",) * (kind in ("PNG", "TIFF")), "L", "RGB"):
        file = tmp_path / "a.jpg"
        exif = Image.Exif()  # saving AVIF empties it
        exif[0x0112] = orientation
        file.write_bytes(encode(Image.new(mode, (33, 17)), kind, exif=exif))
        assert upright_size(file) == read_image(file).size[::-1]
    has_exif = kind not in ("BMP", "GIF", "PPM")
    assert upright_size(file) == ((33, 17) if has_exif and orientation > 4 else (17, 33))
    with open_image(file, "a") as image:
        assert orientation_of(image) == (orientation if has_exif else 1)


def test_an_orientation_behind_the_pixels_of_png_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, late = encode(Image.fromarray(COLOUR)), exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(late)) + b"eXIf" + late + struct.pack(">I", zlib.crc32(b"eXIf" + late))
    (tmp_path / "a.png").write_bytes(plain[:-12] + chunk + plain[-12:])
    assert upright_size(tmp_path / "a.png") == (4, 3)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.rot90(COLOUR, -1))


def test_transparency_of_every_kind_lies_over_white():
    rgba = np.dstack([COLOUR, np.full((3, 4), 255, np.uint8)])
    rgba[0, :, 3], rgba[1, :, 3] = 0, 51
    expected = COLOUR.copy()
    expected[0] = 255
    expected[1] = np.rint(0.2 * COLOUR[1] + 0.8 * 255)
    np.testing.assert_allclose(pixels(encode(Image.fromarray(rgba))), expected, atol=1)
    np.testing.assert_allclose(pixels(Image.fromarray(rgba[:, :, [0, 3]], "LA"))[..., 1], expected[..., 0], atol=1)
    keyed = COLOUR.copy()
    keyed[0, 0] = (1, 2, 3)
    read = pixels(encode(Image.fromarray(keyed), transparency=(1, 2, 3)))
    assert (read[0, 0] == 255).all() and (read[1:] == COLOUR[1:]).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("transparent", [False, True])
def test_palettes_become_their_colours(kind, transparent):
    image = Image.fromarray(GREY // 20)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([value for i in range(12) for value in (i, 2 * i, 255 - i)])
    read = pixels(encode(image, kind, **({"transparency": 5} if transparent else {})))
    expected = np.array([(i, 2 * i, 255 - i) for i in range(12)], np.uint8).reshape(3, 4, 3)
    if transparent:
        expected[1, 1] = 255
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    deep = np.array([[0, 257, 25700], [32896, 65278, 65535]], np.uint16)
    expected = np.array([[0, 1, 100], [128, 254, 255]])
    for source in (encode(Image.fromarray(deep), kind), deep, torch.from_numpy(deep), Image.fromarray(deep)):
        np.testing.assert_array_equal(pixels(source), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize(("white", "kind"), [(1023, "PNG"), (4095, "PNG"), (4095, "TIFF"), (65535, "PNG")])
def test_the_range_in_use_is_what_is_scaled(tmp_path, white, kind):
    """Data of 10 and 12 bits in files of 16: black and almost black until they are scaled by their own range."""
    deep = np.array([[0, white // 2, white]], np.uint16)
    for source in (encode(Image.fromarray(deep), kind), deep, torch.from_numpy(deep), Image.fromarray(deep)):
        np.testing.assert_array_equal(pixels(source)[0, :, 1], [0, 127, 255])
    (tmp_path / "0.img").write_bytes(encode(Image.fromarray(deep), kind))
    look = look_at(Files(tmp_path), 0)
    assert look.kind == ("sixteen-bit" if white == 65535 else "low-range")


class Files:
    """One file."""

    def __init__(self, root):
        self.root = root

    def name(self, index):
        return f"{index}.img"

    def encoded(self, index):
        return (self.root / f"{index}.img").read_bytes()


def test_transparency_of_deep_arrays_is_not_stretched():
    deep = np.full((1, 1, 4), 4095, np.uint16)
    deep[..., 3], deep[..., 1] = 65535, 0
    assert pixels(deep)[0, 0].tolist() == [255, 0, 255]


def deep_png(values: np.ndarray) -> bytes:
    """PNG of 16 bits a channel (H, W, 2, 3 or 4), which Pillow does not write."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    parts = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    chunks = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("white", [1023, 4095, 65535])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_the_range_of_deep_colours_is_scaled_too(white, channels):
    values = np.full((1, 3, channels), 65535, np.uint16)
    values[0, :, : channels - (channels != 3)] = np.array([0, white // 2 + 1, white])[:, None]
    read = pixels(deep_png(values))[0, :, 0].tolist()
    assert read[0] == 0 and read[2] == 255 and read[1] == pytest.approx(128, abs=43)  # of 10 bits two are left


def test_ranges_that_files_state_are_taken():
    dark = np.array([[0, 500, 1000]], np.uint16)
    stated = encode(Image.fromarray(dark), "TIFF", tiffinfo={281: 4095})
    assert pixels(stated)[0, :, 0].tolist() == [0, 31, 62]
    ppm = b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes()
    assert pixels(ppm)[0, :, 0].tolist() == [0, 127, 255]
    assert pixels(b"P5 3 1 4095\n" + np.array([0, 20, 40], ">u2").tobytes())[0, :, 0].tolist() == [0, 1, 2]


def test_grey_and_one_bit_are_repeated():
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(GREY)))[..., 2], GREY)
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(GREY > 100)))[..., 0], (GREY > 100) * 255)


def test_cmyk_keeps_its_colours():
    blue = Image.new("RGB", (16, 16), (20, 40, 200))
    np.testing.assert_allclose(pixels(encode(blue.convert("CMYK"), "JPEG", quality=95)), np.asarray(blue), atol=6)


def test_arrays_and_tensors_of_every_allowed_kind():
    channels_first = torch.from_numpy(COLOUR).permute(2, 0, 1)
    for source in (COLOUR, COLOUR / 255, (COLOUR / 255).astype(np.float32), channels_first, channels_first / 255):
        np.testing.assert_array_equal(pixels(source), COLOUR)
    for source in (GREY, GREY[..., None], torch.from_numpy(GREY), torch.from_numpy(GREY)[None]):
        np.testing.assert_array_equal(pixels(source), np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(pixels(COLOUR[::-1, ::-1]), COLOUR[::-1, ::-1])
    half = (channels_first / 255).bfloat16().requires_grad_()
    np.testing.assert_allclose(pixels(half), COLOUR, atol=1)
    assert pixels(np.zeros((3, 4, 4), np.uint8)).min() == 255  # all transparent


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"array \(4, 4, 2\) of uint8: give an array \(H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), r"array \(0, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"array \(1, 4, 4, 3\)"),
        (torch.zeros(5, 5, 3), r"tensor \(5, 5, 3\) of torch.float32: .* tensor \(H, W\) or \(1, 3 or 4, H, W\)"),
        (np.full((4, 4), 1.5), "hold 0 to 1, before any normalisation"),
        (np.full((4, 4), np.nan), "hold 0 to 1"),
        (torch.full((3, 4, 4), -0.1), "hold 0 to 1"),
        (np.zeros((4, 4), np.int64), "use uint8, uint16 or floating point from 0 to 1"),
        (np.zeros((4, 4), bool), "use uint8"),
        (torch.zeros(4, 4, dtype=torch.int32), "use uint8"),
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), "no fixed range; save it with 8 or 16 bits"),
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), "outside 0 to 65535; save it with 8 or 16 bits"),
    ],
)
def test_other_arrays_are_refused_by_name_and_remedy(source, remedy):
    with pytest.raises(BadImage, match=remedy):
        read_image(source)


def test_files_that_are_no_pictures_are_refused_by_name_and_remedy(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    bad = {
        "cut.jpg": (encode(noise, "JPEG")[:900], "damaged .*replace or remove it"),
        "cut.png": (encode(noise)[:900], "damaged .*replace or remove it"),
        "empty.jpg": (b"", "an empty file; replace or remove it"),
        "letter.jpg": (b"Dear reader, " * 20, "not a picture that can be read; use JPEG, PNG"),
        "bomb.png": (encode(Image.new("1", (20_000, 20_000))), "larger than 178 megapixels; scale it down or cut it"),
    }
    for name, (content, remedy) in bad.items():
        (tmp_path / name).write_bytes(content)
        for source in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(BadImage, match=f"{name}: {remedy}"):
                read_image(source)
        with pytest.raises(BadImage, match=f"^row 7: {remedy}"):
            read_image(content, "row 7")
    with pytest.raises(BadImage, match=r"gone\.jpg: there is no such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(BadImage, match="a folder, where a picture was expected"):
        read_image(tmp_path)


READERS = (read_image, upright_size, lambda path: read_values(path, path.name), lambda path: read_file(path, path.name))


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        (tmp_path / "zero.jpg").symlink_to("/dev/zero")
        for name in ("pipe.jpg", "socket.png", "zero.jpg"):
            with pytest.raises(BadImage, match=f"{name}: a pipe, socket or device, .* remove it"):
                read(tmp_path / name)
    with open(tmp_path / "long.jpg", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(BadImage, match=r"1,000,000,000,000 bytes; the maximum is .* cut it into tiles"):
        read(tmp_path / "long.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(BadImage, match="there is no such file"):
        read(tmp_path / "broken.jpg")


def test_sizes_that_are_declared_only_cost_nothing(tmp_path):
    """Heads of tiny files that declare 10^9 x 10^9, or 30,000 x 30,000 pixels."""
    big = struct.pack(">II", 10**9, 10**9)
    header = b"IHDR" + big + bytes((8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    png += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    entries = [(256, 30_000), (257, 30_000), (258, 8), (259, 1), (262, 1), (273, 8), (278, 30_000), (279, 9)]
    tiff = b"II*\0" + struct.pack("<IH", 8, len(entries))
    tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + b"\0" * 4
    bmp = b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 10**9, 10**9, 1, 24, 0, 0, 0, 0, 0, 0)
    files = {"PNG": png, "PPM": b"P6 1000000000 1000000000 255\n", "TIFF": tiff, "BMP": bmp}
    files["GIF"] = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + bytes(9) + b"\x02\0;"
    for kind, content in files.items():
        (tmp_path / "a.png").write_bytes(content)
        for read in READERS[:3]:
            with pytest.raises(BadImage, match="larger than 178 megapixels; scale it down or cut it"):
                print(kind, read(tmp_path / "a.png"))


def test_large_pictures_are_read_without_a_warning(tmp_path):
    """Pillow warns from 89 megapixels on, in opening and again in decoding TIFF."""
    for kind in ("PNG", "TIFF"):
        Image.new("1", (9500, 9500)).save(tmp_path / "a", kind)
        assert upright_size(tmp_path / "a") == (9500, 9500)
        with open_image(tmp_path / "a", "a") as image:
            image.load()


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photo; convert it to JPEG, as with heif-convert"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "a HEIC photo; convert it to JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL; convert it"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000; convert it to PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript or PDF, which is never run; export it"),
        (b"8BPS\0\1", "a Photoshop document; export it as PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS; .*git lfs pull"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "text .* replace it by the picture"),
    ],
)
def test_other_formats_are_named_with_the_way_to_convert(tmp_path, start, remedy):
    (tmp_path / "a.jpg").write_bytes(start + b"\0" * 300)
    for read in READERS[:3]:
        with pytest.raises(BadImage, match=f"a.jpg: {remedy}"):
            read(tmp_path / "a.jpg")


def test_every_picture_is_opened_by_one_function():
    source = Path(featherbone.__file__).parent
    opened = {
        (file.relative_to(source).as_posix(), ast.unparse(call.func))
        for file in source.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("Image.open", "PIL.Image.open", "Image.OPEN")
    }
    names = {file.relative_to(source).as_posix() for file in source.rglob("*.py") if "Image.OPEN" in file.read_text()}
    assert opened == set() and names == {"data/images.py"}


def test_damage_of_any_kind_is_a_bad_image_or_a_picture():
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM"):
        good = np.frombuffer(encode(noise, kind), np.uint8)
        for _ in range(60):
            damaged = good[: generator.integers(1, len(good) + 1)].copy()
            damaged[generator.integers(0, len(damaged), 3)] = generator.integers(0, 256, 3)
            try:
                assert read_image(damaged.tobytes()).mode == "RGB"
            except BadImage as error:
                assert ";" in str(error)  # what to do follows


@pytest.mark.parametrize("name", ["two words.png", "花 ß é.png", "percent %20 #1.png"])
def test_any_name_will_do(tmp_path: Path, name):
    Image.fromarray(COLOUR).save(tmp_path / name)
    np.testing.assert_array_equal(pixels(tmp_path / name), COLOUR)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read_and_the_file_closed(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(pixels(tmp_path / "a.gif")[0, 0], [255, 0, 0], atol=2)


def test_deep_tiff_of_either_byte_order_and_floats(tmp_path):
    deep = np.array([[0, 25700, 65535]], np.uint16)
    for order in "<>":
        values = deep.astype(f"{order}u2").tobytes()
        tags = [(256, 3), (257, 1), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, len(values))]
        head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
        entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
        assert len(head + entries) + 4 == 122
        read = pixels(head + entries + b"\0" * 4 + values)
        np.testing.assert_array_equal(read[0, :, 0], [0, 100, 255])
    with pytest.raises(BadImage, match="no fixed range; save it with 8 or 16 bits"):
        read_image(encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"))


def test_the_given_picture_is_not_changed():
    exif = Image.Exif()
    exif[0x0112] = 6
    given = Image.open(io.BytesIO(encode(Image.fromarray(COLOUR), exif=exif)))
    assert read_image(given).size == (3, 4)
    assert given.size == (4, 3) and given.getexif()[0x0112] == 6


def test_a_picture_closed_before_it_was_read_is_refused(tmp_path):
    Image.new("RGB", (40, 32)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        pass
    with pytest.raises(BadImage, match=r"loaded before its file is closed"):
        read_image(image)
