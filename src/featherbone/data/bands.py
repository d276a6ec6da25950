"""Images of any number of channels, with the values that their files store."""

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor
from torch.nn import functional as F

from featherbone.data.images import (
    ImageSource,
    array_shape,
    file_of,
    is_array,
    is_deep,
    open_image,
    read_array,
    read_file,
    read_image,
    reasons,
    upright_size,
)
from featherbone.data.listing import is_image, is_junk, is_stack
from featherbone.errors import BadImage

MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F", "RGB", "RGBA", "CMYK")
"""Pillow's modes whose bands are channels."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF files."""
SUBFILE, SAMPLES = 254, 277
"""TIFF's tags of the kind of a page and of its samples per pixel."""
AUXILIARY = 5
"""Bits of the kind of a page: a smaller copy, or a mask."""
SHOWN = 2, 98
"""Percentiles of a channel that are black and white in a picture."""


@dataclass(frozen=True, eq=False)
class Bands:
    """An image of C channels."""

    values: NDArray[np.float32]
    """(H, W, C), finite, as stored: not scaled."""

    @property
    def height(self) -> int:
        return self.values.shape[0]

    @property
    def width(self) -> int:
        return self.values.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as of a PIL image."""
        return self.width, self.height

    def crop(self, box: tuple[int, int, int, int]) -> "Bands":
        """The part x1 y1 x2 y2, which is inside the image."""
        x1, y1, x2, y2 = box
        return Bands(self.values[y1:y2, x1:x2])

    def tensor(self) -> Tensor:
        """The values (C, H, W)."""
        return torch.from_numpy(np.ascontiguousarray(self.values.transpose(2, 0, 1)))

    def resized(self, height: int, width: int, interpolation: str) -> Tensor:
        """The values (C, height, width) by a bilinear or bicubic filter, antialiased."""
        values = self.tensor()
        if (height, width) == (self.height, self.width):
            return values
        return F.interpolate(values[None], (height, width), mode=interpolation, antialias=True)[0]

    def picture(self) -> Image.Image:
        """The first three channels as red, green and blue, or the first as grey; each scaled between `SHOWN`."""
        shown = self.values[:, :, :3] if self.values.shape[2] >= 3 else self.values[:, :, :1]
        low, high = np.percentile(shown, SHOWN, axis=(0, 1))
        scaled = (shown - low) / np.where(high > low, high - low, 1)
        pixels = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
        return Image.fromarray(np.broadcast_to(pixels, (self.height, self.width, 3)).copy())


AnyImage = Image.Image | Bands
"""What the input of a network is made from: an RGB picture, or an image with its stored values."""


def read_input(source: ImageSource | Bands, channels: int | None, name: str | None = None) -> AnyImage:
    """The RGB picture of `source` (`channels` is None), or its image of `channels` stored values. Raises `BadImage`."""
    if channels is not None:
        return read_bands(source, channels, name)
    if isinstance(source, Bands):
        source = np.ascontiguousarray(source.values)
    return read_image(source, name)


def to_picture(image: AnyImage) -> Image.Image:
    """An image as people see it, in RGB."""
    return image.picture() if isinstance(image, Bands) else image


def read_bands(source: ImageSource | Bands, channels: int, name: str | None = None) -> Bands:
    """The image of `channels` channels in a file, its bytes, an array (H, W[, C]) or a tensor ([C,] H, W).

    Channels of a TIFF file are those of all its pages of one size, in order; those of a stack, which is a folder, are
    those of all pictures in it. `name` is how errors call the source.
    Raises `BadImage`, also for another number of channels and for values that are not finite.
    """
    values: NDArray[Any]
    if isinstance(source, Bands):
        values, given = source.values, "image"
    elif isinstance(source, torch.Tensor):
        given = f"tensor {tuple(source.shape)} of {source.dtype}"
        if source.is_meta or source.layout != torch.strided:
            raise BadImage(f"{given}: a tensor without pixels or sparse; give a dense one of this machine")
        dense = source.detach().cpu()
        dense = dense.float() if dense.is_floating_point() else dense  # NumPy has no bfloat16
        values = (dense.movedim(0, 2) if dense.ndim == 3 else dense).numpy()
    elif isinstance(source, np.ndarray):
        values, given = source, f"array {source.shape} of {source.dtype}"
    elif isinstance(source, Image.Image):
        given = name or "image"
        with reasons(given):
            values = _values_of(ImageOps.exif_transpose(source), given)
    else:
        file, given = file_of(source, name)
        values = read_values(file, given)
    return _checked(values, channels, name or given)


def read_values(source: Path | bytes, name: str) -> NDArray[Any]:
    """The stored values (H, W, C) of a file, its bytes or a stack, upright. Raises `BadImage`."""
    if _is_stack(source):
        return _read_stack(source, name)
    if is_array(source):
        return read_array(source, name)
    if not _is_tiff(source):
        with open_image(source, name) as image:
            return _decode(image, name)
    with suppress(BadImage), open_image(source, name) as image:
        return _read_pages(image, name)
    return _by_tifffile(source, name)


def read_encoded(path: Path, name: str) -> bytes:
    """The bytes of a file as it is stored; of a stack those of its array, as an .npy file. Raises `BadImage`."""
    if not is_stack(path):
        return read_file(path, name)
    file = io.BytesIO()
    np.save(file, _read_stack(path, name), allow_pickle=False)
    return file.getvalue()


def count_channels(source: Path | bytes, name: str) -> int | None:
    """The channels of an array in a file, of a stack, or of a TIFF file of several pages or more than four channels.

    None for other pictures, which are read in RGB, and for uint8 arrays (H, W, 3). Raises `BadImage`.
    """
    if is_array(source):
        shape, dtype = array_shape(source, name)
        count = shape[2] if len(shape) == 3 else 1
        return None if count == 3 and dtype == np.uint8 else count
    if _is_tiff(source):
        with suppress(BadImage), open_image(source, name) as image:
            if len(_pages(image)) == 1 and _samples(image) <= 4:
                return None
    elif not _is_stack(source):
        return None
    return read_values(source, name).shape[2]


def size_of(source: Path | bytes, name: str) -> tuple[int, int]:
    """Height and width of the upright image, from the head of its file where that is enough. Raises `BadImage`."""
    if _is_stack(source):
        first = _channel_files(source, name)[0]
        return size_of(first, f"{name}/{first.name}")
    if is_array(source):
        height, width = array_shape(source, name)[0][:2]
        return height, width
    try:
        return upright_size(source, name)
    except BadImage:
        if _is_tiff(source):
            with suppress(BadImage):
                height, width = _by_tifffile(source, name).shape[:2]
                return height, width
        raise


def _checked(values: NDArray[Any], channels: int, name: str) -> Bands:
    values = _with_channels(values, name)
    if values.shape[2] != channels:
        raise BadImage(
            f"{name}: {values.shape[2]} channels, but {channels} are read; give images (height, width, {channels}), or "
            f"train a model with --channels {values.shape[2]}"
        )
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        share = 1 - float(np.isfinite(numbers).mean())
        raise BadImage(f"{name}: {share:.1%} of its values are not finite; replace them by a number")
    return Bands(numbers)


def _with_channels(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Numbers (H, W, C), of (H, W[, C])."""
    values = values[:, :, None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "buif":
        raise BadImage(
            f"{name}: an array {values.shape} of {values.dtype}; give numbers (height, width, channels), or of a "
            "tensor (channels, height, width)"
        )
    return values


def _is_stack(source: Path | bytes) -> TypeGuard[Path]:
    return isinstance(source, Path) and is_stack(source)


def _channel_files(stack: Path, name: str) -> list[Path]:
    """The pictures in a stack, in the order of their names."""
    with reasons(name):
        files = sorted(file for file in stack.iterdir() if not is_junk(file.name))
    odd = next((file.name for file in files if not is_image(file) or is_stack(file)), None)
    if odd is not None or not files:
        found = "an empty stack" if odd is None else f"a stack with {odd}, which is not a picture"
        raise BadImage(f"{name}: {found}; put the pictures of its channels, and nothing else, into this folder")
    return files


def _read_stack(stack: Path, name: str) -> NDArray[Any]:
    """The channels (H, W, C) of all pictures in a stack."""
    parts = {}
    for file in _channel_files(stack, name):
        place = f"{name}/{file.name}"
        parts[file.name] = _with_channels(read_values(file, place), place)
    return _join(parts, name)


def _is_tiff(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return source.startswith(TIFF)
    return source.suffix.lower() in (".tif", ".tiff")


def _decode(image: ImageFile, name: str) -> NDArray[Any]:
    """The values (H, W, C) of a picture, or of a page, that is not decoded yet."""
    if is_deep(image) and len(image.getbands()) > 1:
        raise BadImage(
            f"{name}: 16 bits a channel, of which Pillow reads 8; save it as .npy, or as TIFF of one page a channel"
        )
    image.load()
    return _values_of(ImageOps.exif_transpose(image), name)


def _values_of(image: Image.Image, name: str) -> NDArray[Any]:
    """The values (H, W, C) of a decoded picture."""
    if image.mode not in MODES:
        raise BadImage(f"{name}: a picture of mode {image.mode}, whose values are not channels; save it as .npy")
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    return values.reshape(image.height, image.width, -1)


def _read_pages(image: ImageFile, name: str) -> NDArray[Any]:
    """The channels of all pages of a TIFF. Raises `BadImage` for what Pillow reads only in part."""
    parts = {}
    for page in _pages(image):
        image.seek(page)
        if _samples(image) != len(image.getbands()):
            raise BadImage(f"{name}: more channels than Pillow reads")
        parts[f"page {page + 1}"] = _decode(image, name)
    return _join(parts, name)


def _join(parts: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """The channels of all named parts, which must have one size."""
    sizes = {part: f"{values.shape[1]}x{values.shape[0]}" for part, values in parts.items()}
    first = next(iter(sizes), "")
    if other := next((part for part in sizes if sizes[part] != sizes[first]), None):
        raise BadImage(
            f"{name}: different sizes, {sizes[first]} of {first} and {sizes[other]} of {other}; save the channels of "
            "an image in one size"
        )
    return np.concatenate([*parts.values()], 2)


def _pages(image: ImageFile) -> list[int]:
    """Numbers of the pages of a TIFF, but for smaller copies and masks of others; opens the first one again."""
    found = []
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        assert isinstance(image, TiffImageFile), "found by its first bytes"
        if not image.tag_v2.get(SUBFILE, 0) & AUXILIARY:
            found.append(page)
    image.seek(0)
    return found


def _samples(image: ImageFile) -> int:
    assert isinstance(image, TiffImageFile), "found by its first bytes"
    return int(image.tag_v2.get(SAMPLES, 1))


def _by_tifffile(source: Path | bytes, name: str) -> NDArray[Any]:
    """The channels of all pages of a TIFF that Pillow does not read in full."""
    try:
        import tifffile
    except ModuleNotFoundError:
        raise BadImage(
            f"{name}: a TIFF file that Pillow does not read in full; install tifffile with: pip install "
            "'featherbone[tiff]', or save it as .npy"
        ) from None
    content = source if isinstance(source, bytes) else read_file(source, name)
    with reasons(name), tifffile.TiffFile(io.BytesIO(content)) as file:
        parts = {}
        page: Any
        for number, page in enumerate(file.pages, 1):
            if page.is_reduced or page.is_mask:
                continue
            values = page.asarray()
            if page.axes.startswith("S"):  # stored channel by channel
                values = np.moveaxis(values, 0, -1)
            parts[f"page {number}"] = values.reshape(*values.shape[:2], -1)
        return _join(parts, name)
