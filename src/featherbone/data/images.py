"""Any picture a user has, as upright 8-bit RGB."""

import io
import struct
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from featherbone.errors import BadImage

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # others run programs of their own, or are dead
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))

ImageSource = str | Path | bytes | Image.Image | np.ndarray[Any, Any] | torch.Tensor
"""A path, an encoded file's bytes, a PIL image, an array (H, W[, 1, 3 or 4]) or a tensor ([3,] H, W)."""


def read_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """The picture of `source` in RGB, upright by its EXIF orientation, transparency over white, 16 bits scaled to 8.

    Floating-point arrays and tensors hold 0 to 1. `name` is how errors call the source. Raises `BadImage`.
    """
    if isinstance(source, np.ndarray | torch.Tensor):
        return _from_array(source)
    name = name or (str(source) if isinstance(source, str | Path) else "image")
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(ImageOps.exif_transpose(source), name)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            image.load()  # turned in its place, it needs no copy
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, name)
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise BadImage(f"{name}: a folder, where a picture was expected") from None
    except PermissionError:
        raise BadImage(f"{name}: may not be read; change its permissions") from None
    except UnidentifiedImageError:
        if not (source if isinstance(source, bytes) else Path(str(source)).stat().st_size):
            raise BadImage(f"{name}: an empty file; replace it or leave it out") from None
        raise BadImage(f"{name}: not a picture that can be read; {_formats()}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise BadImage(f"{name}: larger than {limit} megapixels; scale it down or cut it into tiles") from None
    except (OSError, RuntimeError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        reason = str(error) or type(error).__name__
        raise BadImage(f"{name}: damaged ({reason}); replace the file or leave it out") from None


class Stored(ABC):
    """Images that lie in files below a folder."""

    root: Path

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call the image: its path below the folder."""

    def encoded(self, index: int) -> bytes:
        """The image's file as it lies on disk. Raises `OSError`."""
        return (self.root / self.name(index)).read_bytes()

    def read(self, index: int) -> Image.Image:
        """The image in RGB, upright. Raises `BadImage`."""
        return read_image(self.root / self.name(index), self.name(index))


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of the picture that `read_image` gives, from the file's head alone. Raises `BadImage`."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise BadImage(f"{path.name}: damaged ({error}); replace the file or leave it out") from None


def _formats() -> str:
    return "use JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise BadImage(f"{name}: a floating-point picture has no fixed range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise BadImage(f"{name}: 32-bit values outside 0 to 65535; save it with 8 or 16 bits a channel")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_array(source: np.ndarray[Any, Any] | torch.Tensor) -> Image.Image:
    given = f"{'tensor' if isinstance(source, torch.Tensor) else 'array'} {tuple(source.shape)} of {source.dtype}"
    if isinstance(source, torch.Tensor):
        tensor = source.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = source
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise BadImage(f"{given}: give an array (H, W) or (H, W, 1, 3 or 4), or a tensor (H, W) or (1, 3 or 4, H, W)")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise BadImage(f"{given}: floating-point pictures hold 0 to 1, before any normalisation")
        array = np.rint(array * 255)
    elif array.dtype == np.uint16:
        array = array // 257
    elif array.dtype != np.uint8:
        raise BadImage(f"{given}: use uint8, uint16 or floating point from 0 to 1")
    array = array.astype(np.uint8)
    return _to_rgb(Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array), given)
