"""Any image a user has, as upright 8-bit RGB."""

import io
import math
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, features
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from featherbone.data.listing import is_stack
from featherbone.errors import BadImage, FeatherboneError

FORMATS = {
    **{"JPEG": "Jpeg", "PNG": "Png", "WEBP": "WebP", "BMP": "Bmp", "GIF": "Gif", "TIFF": "Tiff", "PPM": "Ppm"},
    **({"AVIF": "Avif"} if features.check("avif") else {}),  # Pillow 11.3 or newer
}
"""Formats that are read, with Pillow's plugins for them. Others run programs (EPS runs Ghostscript) or are rare."""
for plugin in FORMATS.values():
    import_module(f"PIL.{plugin}ImagePlugin")
FOREIGN = {
    rb"....ftyp(hei|hev|mif|msf)": "a HEIC photo; convert it to JPEG, as with heif-convert of libheif",
    rb"....ftypavi": "AVIF, which needs Pillow 11.3 or newer; update pillow, or convert the picture to PNG",
    rb"....JXL |\xff\x0a": "JPEG XL; convert it to JPEG or PNG, as with djxl of libjxl",
    rb"....jP  |\xff\x4f\xff\x51": "JPEG 2000; convert it to PNG or TIFF, as with opj_decompress of OpenJPEG",
    rb"%!PS|%PDF|\xc5\xd0\xd3\xc6": "PostScript or PDF, which is never run; export it as PNG",
    rb"8BPS": "a Photoshop document; export it as PNG",
    rb"version https://git-lfs": "a pointer of Git LFS; fetch the picture itself with: git lfs pull",
    rb"(\xef\xbb\xbf)?\s*<": "text (HTML, XML or SVG); replace it by the picture",
}
"""First bytes of files that cannot be read, what they are, and what to do with them."""
NPY = b"\x93NUMPY"
"""First bytes of NumPy's files."""
MAX_BYTES = 2**31
"""Size of the largest file that is read."""

WHITES = (1023, 4095, 65535)
"""Largest values of 10, 12 and 16 bits."""

Encoded = bytes | bytearray | memoryview
"""The content of an image file."""
ImageSource = str | os.PathLike[str] | Encoded | Image.Image | np.ndarray[Any, Any] | torch.Tensor
"""A path, an image file's bytes, a PIL image, an array (H, W[, 1, 3 or 4]) or a tensor ([1, 3 or 4,] H, W).

Channels of arrays and tensors are RGB or RGBA, not the BGR of OpenCV: pass `array[..., ::-1]`. Values are uint8 from 0
to 255, uint16 from 0 to 1023, 4095 or 65535 (the first that no value exceeds is white), or floating point from 0 to 1.
"""
SOURCES = "a path, the bytes of an image file, a PIL image, an array (H, W, 3) or a tensor (3, H, W)"


@contextmanager
def open_image(source: str | Path | bytes, name: str) -> Iterator[ImageFile.ImageFile]:
    """The picture in a file or its bytes, of an allowed format, to be decoded inside the block.

    Whatever fails inside the block is raised as `BadImage`, which calls the source `name`.
    """
    with reasons(name), io.BytesIO(source) if isinstance(source, bytes) else _open_file(Path(source), name) as file:
        image = _identify(file, name)
        limit = Image.MAX_IMAGE_PIXELS or math.inf  # Pillow warns above it and refuses twice as much
        pixels = image.width * image.height
        if pixels > 2 * limit:
            raise Image.DecompressionBombError
        if not pixels:
            raise BadImage(f"{name}: {image.width}x{image.height} pixels; replace or remove it")
        bomb = Image.DecompressionBombWarning
        with warnings.catch_warnings(action="ignore", category=bomb) if pixels > limit else nullcontext():
            yield image


def read_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """The picture of `source` in RGB, upright by its EXIF orientation, transparency over white, 16 bits scaled to 8.

    Values of 16 bits, those of uint16 arrays included, are scaled by `white_of`. Floating-point arrays and tensors hold
    0 to 1. `name` is how errors call the source. Raises `BadImage`.
    """
    if isinstance(source, np.ndarray | torch.Tensor):
        return _from_array(source)
    if isinstance(source, Image.Image):
        name = name or "image"
        with reasons(name):
            return _from_pil(source, name)
    file, name = file_of(source, name)
    if is_stack(name):  # of which `Split.encoded` makes an array
        raise BadImage(f"{name}: a stack of channels, but RGB is read; give a picture, or train a model on stacks")
    if is_array(file):
        return _from_array(read_array(file, name), name)
    with open_image(file, name) as image:
        deep = is_deep(image)
        image.load()  # turned in its place, it needs no copy
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(_stretch(image) if deep else image, name)


def file_of(source: str | os.PathLike[str] | Encoded, name: str | None) -> tuple[Path | bytes, str]:
    """A path or the bytes of a file, and how errors call it. Raises `BadImage` for anything else."""
    name = name or (os.fspath(source) if isinstance(source, str | os.PathLike) else "image")
    if not isinstance(source, str | os.PathLike | Encoded):
        several = ", or call predict with several" if isinstance(source, list | tuple) else ""
        file = ", or of an open file its content: file.read()" if hasattr(source, "read") else ""
        raise BadImage(f"{name}: {type(source).__name__} is not a picture; give {SOURCES}{several}{file}")
    if isinstance(source, str) and "://" in source:
        raise BadImage(f"{name}: a URL, which is not fetched; download the picture and give its path or its bytes")
    return bytes(source) if isinstance(source, Encoded) else Path(source), name


def is_array(source: Path | bytes) -> bool:
    """Whether a file is one of NumPy's arrays, by its name or its bytes."""
    return source.startswith(NPY) if isinstance(source, bytes) else source.suffix.lower() == ".npy"


def read_array(source: Path | bytes, name: str) -> np.ndarray[Any, Any]:
    """The array of an .npy file or its bytes; executes nothing in it. Raises `BadImage`."""
    with reasons(name), io.BytesIO(source) if isinstance(source, bytes) else _open_file(source, name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def array_shape(source: Path | bytes, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape, of at least two axes, and type of the array of an .npy file, from its head. Raises `BadImage`."""
    with reasons(name), io.BytesIO(source) if isinstance(source, bytes) else _open_file(source, name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if len(shape) not in (2, 3) or 0 in shape:
        raise BadImage(f"{name}: an array {shape}; save images as arrays (height, width, channels)")
    return shape, dtype


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a picture, not decoded yet, has 16 bits a channel."""
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile)


def white_of(image: Image.Image) -> int:
    """The value that is white in a decoded picture with 16 bits a channel: what TIFF states, or 1023, 4095 or 65535.

    Cameras of 10 and 12 bits store their values in 16. White is the first of the three that no value exceeds.
    """
    if image.format == "PPM":  # of which Pillow scales the values
        return WHITES[-1]
    if image.mode.startswith("I"):
        return _white(int(np.asarray(image).max(initial=0)), image)
    return _white(int(np.max([band.getextrema() for band in image.split()[: _num_colours(image)]])) << 8, image)


def read_file(path: Path, name: str) -> bytes:
    """The bytes of a picture's file, as it is stored. Raises `BadImage`."""
    with reasons(name), _open_file(path, name) as file:
        return file.read()


def orientation_of(image: ImageFile.ImageFile) -> int:
    """How the picture, not decoded yet, is turned by EXIF, 1 to 8; from 5 on width and height change places."""
    known = isinstance(image, PngImageFile) and image.fp is not None and not _has_late_text(image.fp)
    exif = Image.Image.getexif(image) if known else image.getexif()  # PNG's own decodes the picture
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def upright_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Height and width of the picture that `read_image` gives, from the file's head only. Raises `BadImage`."""
    with open_image(source, name or (source.name if isinstance(source, Path) else "image")) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):  # of which newer versions of Pillow give the upright size
            width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
        return (width, height) if orientation_of(image) > 4 else (height, width)


@contextmanager
def reasons(name: str) -> Iterator[None]:
    """What can fail in reading a picture, as `BadImage` with what to do."""
    try:
        yield
    except FeatherboneError:
        raise
    except FileNotFoundError:
        raise BadImage(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise BadImage(f"{name}: a folder, where a picture was expected") from None
    except NotADirectoryError:
        raise BadImage(f"{name}: a file, where a folder was expected; a stack is a folder of pictures") from None
    except PermissionError:
        raise BadImage(f"{name}: permission denied; change its permissions") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise BadImage(f"{name}: larger than {limit} megapixels; scale it down or cut it into tiles") from None
    except MemoryError:
        raise BadImage(f"{name}: too large for the memory; scale it down or cut it into tiles") from None
    except (OSError, RuntimeError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error) as error:
        reason = str(error) or type(error).__name__
        raise BadImage(f"{name}: damaged ({reason}); replace or remove it") from None


def _open_file(path: Path, name: str) -> IO[bytes]:
    """The file, if it is one: reading a pipe or a device might never end."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):
        raise BadImage(f"{name}: a pipe, socket or device, where a picture was expected; remove it")
    if status.st_size > MAX_BYTES:
        raise BadImage(f"{name}: a file of {status.st_size:,} bytes; the maximum is {MAX_BYTES:,}; cut it into tiles")
    return path.open("rb")


def _identify(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    """The picture by the head of its file, as `Image.open` does it, without its warning of large ones."""
    head = file.read(256)
    for kind in FORMATS:
        factory, accepts = Image.OPEN[kind]
        accepted = accepts is None or accepts(head[:16])
        if accepted and not isinstance(accepted, str):  # a string means that this Pillow lacks the format
            file.seek(0)
            with suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(file, "")
    if not head:
        raise BadImage(f"{name}: an empty file; replace or remove it")
    found = next((text for start, text in FOREIGN.items() if re.match(start, head, re.DOTALL)), None)
    readable = "not a picture that can be read; use JPEG, PNG, WebP, AVIF, BMP, GIF, TIFF or PPM"
    raise BadImage(f"{name}: {found or readable}")


def _has_late_text(file: IO[bytes]) -> bool:
    """Whether a PNG file has metadata behind its pixels."""
    start, kinds = file.tell(), [b""]
    file.seek(8)
    while kinds[-1] != b"IEND" and len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        kinds.append(kind)
        file.seek(size + 4, io.SEEK_CUR)
    file.seek(start)
    behind = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else []
    return not {b"eXIf", b"iTXt", b"zTXt", b"tEXt"}.isdisjoint(behind)


def _white(top: int, image: Image.Image | None = None) -> int:
    stated = 0
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(ExifTags.Base.BitsPerSample, (16,))[0]
        stated = image.tag_v2.get(ExifTags.Base.MaxSampleValue, ((1 << bits) - 1 if bits < 16 else 0,))[0]
    return next((white for white in (stated, *WHITES) if white >= max(top, 256)), WHITES[-1])


def _num_colours(image: Image.Image) -> int:
    """Channels without transparency."""
    return 1 if image.mode == "LA" else 3


def _stretch(image: Image.Image) -> Image.Image:
    """A picture of 16 bits a channel, of which Pillow kept the upper 8, scaled by its white; grey ones as they are."""
    if image.mode not in ("LA", "RGB", "RGBA") or (white := white_of(image)) == WHITES[-1]:
        return image
    table = [min(value * 255 // (white >> 8), 255) for value in range(256)]
    bands, count = image.split(), _num_colours(image)
    return Image.merge(image.mode, [*(band.point(table) for band in bands[:count]), *bands[count:]])


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise BadImage(f"{name}: a floating-point picture has no fixed range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise BadImage(f"{name}: 32-bit values outside 0 to 65535; save it with 8 or 16 bits a channel")
        return Image.fromarray((values * 255 // white_of(image)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_pil(source: Image.Image, name: str) -> Image.Image:
    try:
        return _to_rgb(ImageOps.exif_transpose(source), name)
    except (AssertionError, AttributeError, OSError, ValueError) as error:  # the first two: Pillow, of a closed file
        if isinstance(error, BadImage):
            raise
        raise BadImage(
            f"{name}: a PIL image of mode {source.mode} that cannot be read ({error}); give one in RGB, loaded before "
            "its file is closed"
        ) from None


def _from_array(source: np.ndarray[Any, Any] | torch.Tensor, name: str = "") -> Image.Image:
    kind = "tensor" if isinstance(source, torch.Tensor) else "array"
    given = f"{name and name + ': '}{kind} {tuple(source.shape)} of {source.dtype}"
    array = source
    if isinstance(array, torch.Tensor):
        if array.is_meta or array.layout != torch.strided:
            raise BadImage(f"{given}: a tensor without pixels or sparse; give a dense one of this machine")
        array = array.movedim(0, 2) if array.ndim == 3 else array
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()  # NumPy has no bfloat16
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise BadImage(
            f"{given}: give an array (H, W) or (H, W, 1, 3 or 4), or a tensor (H, W) or (1, 3 or 4, H, W); several "
            "as a list"
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise BadImage(
                f"{given}: floating-point pictures hold 0 to 1, before any normalisation; divide by 255, or pass uint8"
            )
        array = np.rint(array * 255)
    elif array.dtype == np.uint16:
        colours = array[..., :3] if array.ndim == 3 else array
        scaled = colours.astype(np.int64) * 255 // _white(int(colours.max()))
        array = np.concatenate((scaled, array[..., 3:] // 257), -1) if array.ndim == 3 else scaled
    elif array.dtype != np.uint8:
        raise BadImage(f"{given}: use uint8, uint16 or floating point from 0 to 1")
    array = array.astype(np.uint8)
    return _to_rgb(Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array), given)
