"""Preprocessing and augmentation of images."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import Compose, InterpolationMode, RandomHorizontalFlip, RandomResizedCrop

from featherbone.data.bands import AnyImage, Bands
from featherbone.data.frames import OPENCV, Frame, fit, scale_image
from featherbone.errors import BadOption

WHITE = (255, 255, 255)
"""Colour behind transparent pictures."""

MAX_SIDE, MAX_MEAN, MAX_STORED = 8192, 1000, 1e9
"""Largest side of an input in pixels, and largest mean and standard deviation of its channels, and of stored values."""
MAX_CHANNELS = 1024
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming", "random", OPENCV)

STORED_INTERPOLATIONS = ("bilinear", "bicubic")
"""Those of images with stored values."""
JITTER = ("auto_augment", "color_jitter", "photometric")
"""Settings of training that have an effect only for pictures in RGB."""

Transform = Callable[[AnyImage], Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """From any image to the network's input; stored with the weights.

    By the rule "crop" the shorter side is resized to the input's divided by `crop` and the centre is cropped; by "fit"
    the whole image is scaled to touch two borders and padded with 0 on the right and below. By "sides", that of
    mmdetection and mmsegmentation, it is scaled until its shorter side is `height` or its longer one `width`, in either
    orientation, and padded to multiples of `multiple`, so that every image has an input of its own size. Channels of
    RGB pictures, from 0 to 1, are normalised, or with `channels` those of `Bands`, as stored.
    """

    height: int
    width: int
    crop: float = 0.875
    """Share of the resized image that the centre crop keeps."""
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    rule: Literal["crop", "fit", "sides"] = "crop"
    multiple: int = 1
    """Of which the sides of an input by the rule "sides" are multiples."""
    channels: int | None = None
    """Number of channels of images that are read with their stored values; None for RGB pictures."""

    def __post_init__(self) -> None:
        if not all(1 <= side <= MAX_SIDE for side in (self.height, self.width)):
            raise BadOption(f"input of {self.height}x{self.width} pixels; give sides of 32 to {MAX_SIDE}")
        if not 1 <= self.multiple <= 1024:
            raise BadOption(f"multiple {self.multiple}; give the multiple that sides are padded to, usually 32, or 1")
        if not 0.01 <= self.crop <= 10:
            raise BadOption(f"crop {self.crop}; give the share of the image that is kept, usually 0.8 to 1")
        if self.interpolation not in INTERPOLATIONS:
            raise BadOption(f"interpolation {self.interpolation!r}; give one of {', '.join(INTERPOLATIONS)}")
        if self.channels is not None and not 1 <= self.channels <= MAX_CHANNELS:
            raise BadOption(f"{self.channels} channels; give 1 to {MAX_CHANNELS}")
        if self.channels is not None and self.interpolation not in STORED_INTERPOLATIONS:
            raise BadOption(
                f"interpolation {self.interpolation!r} of images with {self.channels} channels; give one of "
                f"{', '.join(STORED_INTERPOLATIONS)}"
            )
        most = MAX_MEAN if self.channels is None else MAX_STORED
        if not all(abs(x) <= most for x in self.mean) or not all(1e-6 <= x <= most for x in self.std):
            raise BadOption(
                f"mean {self.mean} and std {self.std}; give those of channels from 0 to 1, std above 0, both up to "
                f"{most:g}"
            )
        if not len(self.mean) == len(self.std) == self.num_channels:
            raise BadOption(f"mean {self.mean} and std {self.std}; give one for each of {self.num_channels} channels")

    @property
    def num_channels(self) -> int:
        """Number of channels of the input."""
        return self.channels or 3

    def transform(self) -> Transform:
        """Image to tensor (C, H, W)."""
        if self.rule != "crop":
            return self.place
        return Compose([_stored, *self.cut().transforms, self.normalise])

    def cut(self) -> Compose:
        """The first two steps of the rule "crop": resizing, and the centre crop."""
        return create_transform(
            (3, self.height, self.width), interpolation=self.interpolation, crop_pct=self.crop, normalize=False
        )

    def to_json(self) -> dict[str, Any]:
        """The fields for inputs of one size, and every rule by which another program computes them, as plain values."""
        fit = self.rule == "fit"
        height, width = (int(side / (1 if fit else self.crop)) for side in (self.height, self.width))
        if fit:
            side, rounding = "min(max(round(side * min(height / h, width / w)), 1), canvas_side)", "half_even"
        elif height == width:
            side, rounding = "floor(height * side / min(h, w))", "down"
        else:
            side, rounding = "round(side / min(h / height, w / width))", "half_even"
        resize = {"height": height, "width": width, "side": side, "rounding": rounding}
        stored = self.channels is not None
        resize |= {"filter": self.interpolation, "antialias": True, "result": "float32" if stored else "bytes"}
        return {
            **{name: value for name, value in asdict(self).items() if name not in ("multiple", "channels")},
            "orientation": "exif",
            "background": None if stored else WHITE,
            "resize": resize,
            "placement": "upper_left" if fit else "centre",
            "normalisation": "(value - mean) / std" if stored else "(byte / 255 - mean) / std",
            "padding": {"value": 0, "when": "after_normalisation"} if fit else None,
        }

    def frame(self, height: int, width: int) -> Frame:
        """The frame of an image of that size, by the rule "fit" or "sides"."""
        if self.rule != "sides":
            return fit(height, width, self.height, self.width)
        scale = min(self.width / max(height, width), self.height / min(height, width))
        inner = int(height * scale + 0.5) or 1, int(width * scale + 0.5) or 1
        return Frame(height, width, *inner, *self.canvas(*inner))

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the input on which a scaled image of that size is placed."""
        if self.rule != "sides":
            return self.height, self.width
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def normalise(self, pixels: Tensor) -> Tensor:
        """Bytes, or stored values, (C, h, w) to values of the network's input."""
        mean, std = (pixels.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        scale = 255 if self.channels is None else 1
        return pixels.contiguous().div(scale).sub_(mean).div_(std)

    def picture(self, values: Tensor) -> Image.Image:
        """Values of the network's input (C, h, w) as an RGB picture: the inverse of `normalise`."""
        mean, std = (values.new_tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        if self.channels is not None:
            return Bands((values * std + mean).permute(1, 2, 0).numpy()).picture()
        pixels = ((values * std + mean).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())

    def place(self, image: AnyImage) -> Tensor:
        """Image to tensor (C, H, W), scaled and padded as `frame` states."""
        frame = self.frame(image.height, image.width)
        shown = self.normalise(scale_image(image, frame, self.interpolation))
        return F.pad(shown, (0, frame.canvas_width - frame.inner_width, 0, frame.canvas_height - frame.inner_height))


def training_transform(
    preprocessing: Preprocessing,
    auto_augment: str = "rand-m9-mstd0.5-inc1",
    color_jitter: float = 0.0,
    erasing: float = 0.0,
    flip: float = 0.5,
    min_area: float = 0.08,
) -> Transform:
    """Image to tensor (C, H, W): a random crop of at least `min_area`, flip, RandAugment, jitter and erasing.

    `auto_augment` is timm's name of a policy, empty for none; it and `color_jitter` have no effect with
    `preprocessing.channels`. `erasing` and `flip` are probabilities.
    """
    erase = RandomErasing(erasing, mode="pixel", device="cpu")
    if preprocessing.channels is not None:
        size, filter = (preprocessing.height, preprocessing.width), InterpolationMode(preprocessing.interpolation)
        crop = RandomResizedCrop(size, (min_area, 1.0), interpolation=filter)
        return Compose([_stored, crop, RandomHorizontalFlip(flip), preprocessing.normalise, erase])
    try:
        augment = create_transform(
            (3, preprocessing.height, preprocessing.width),
            is_training=True,
            scale=(min_area, 1.0),
            hflip=flip,
            color_jitter=color_jitter or None,
            auto_augment=auto_augment or None,
            interpolation=preprocessing.interpolation,
            normalize=False,
        )
    except (AssertionError, KeyError, ValueError) as error:  # timm's ways to refuse the name of a policy
        raise BadOption(
            f"auto_augment {auto_augment!r} is not a policy of timm's ({error}); try rand-m9-mstd0.5"
        ) from None
    return Compose([augment, preprocessing.normalise, erase])


def _stored(image: AnyImage) -> AnyImage | Tensor:
    """The values of `Bands` (C, H, W), which transforms of torchvision and timm take; other images as they are."""
    return image.tensor() if isinstance(image, Bands) else image
