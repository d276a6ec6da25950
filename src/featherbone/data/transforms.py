"""What happens to an image before the network sees it."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from featherbone.errors import BadOption

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """From any RGB image to the network's input; it travels with the weights.

    The shorter side is resized to the input's over `crop`, the centre cut out, and channels of 0 to 1 normalised.
    """

    height: int
    width: int
    crop: float = 0.875
    """Share of the resized image that the centre crop keeps."""
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def transform(self) -> Transform:
        """RGB image to tensor (3, H, W)."""
        return create_transform(
            (3, self.height, self.width),
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop,
        )


def training_transform(
    preprocessing: Preprocessing,
    auto_augment: str = "rand-m9-mstd0.5-inc1",
    color_jitter: float = 0.0,
    erasing: float = 0.0,
    flip: float = 0.5,
    min_area: float = 0.08,
) -> Transform:
    """RGB image to tensor (3, H, W): a random crop of at least `min_area`, flip, RandAugment, jitter and erasing.

    `auto_augment` is timm's name of a policy, empty for none; `erasing` and `flip` are chances.
    """
    try:
        return create_transform(
            (3, preprocessing.height, preprocessing.width),
            is_training=True,
            scale=(min_area, 1.0),
            hflip=flip,
            color_jitter=color_jitter or None,
            auto_augment=auto_augment or None,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            re_prob=erasing,
            re_mode="pixel",
        )
    except (AssertionError, KeyError, ValueError) as error:  # timm's ways to refuse the name of a policy
        raise BadOption(
            f"auto_augment {auto_augment!r} is no policy of timm's ({error}); try rand-m9-mstd0.5"
        ) from None
