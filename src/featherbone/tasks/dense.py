"""Dense tasks: any timm backbone as a pyramid of maps, a head on it, and the decoder of the head's raw tensors."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from featherbone.data.augment import Augmentation
from featherbone.data.frames import inner_sizes
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption
from featherbone.heads.levels import Level
from featherbone.tasks.backbone import build_backbone, input_arguments, preprocessing_of, require_architecture
from featherbone.tasks.card import Card

HEAD_OPTIONS = frozenset(
    {"head", "head_args", "head_lr", "scale", "photometric", "expand", "backbone_from", "freeze_norm"}
)
"""Settings of training that have an effect for every dense task."""
SMALL_DATA = {"batch_size": 2, "epochs": 100, "lr": 3e-4, "warmup_epochs": 3, "ema": 0.998}
"""The preset small-data for Mask R-CNN and panoptic heads: tens to hundreds of images."""
AUGMENTATIONS = ("flip", "scale", "photometric", "expand", "iou_crop", "mosaic", "class_share")
"""Settings of training that `Augmentation` takes."""


class Pyramid(nn.Module):
    """One map for each stride of a backbone, from 4 on, finest first: the deepest map of that stride.

    A backbone may state by `dense_levels` the levels that a dense head takes, and by `dense_norms` the eps of a
    LayerNorm after some of them. Layers after the last map are removed.
    """

    backbone: Any
    """A timm model with `forward_intermediates`."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        info = getattr(backbone.feature_info, "info", backbone.feature_info)
        allowed = getattr(backbone, "dense_levels", range(len(info)))
        by_octave: dict[int, tuple[int, Level]] = {}
        for index in allowed:
            level = Level(info[index]["num_chs"], info[index]["reduction"])
            if level.octave >= 2:
                by_octave[level.octave] = index, level
        chosen = [by_octave[octave] for octave in sorted(by_octave)]
        self.levels = [level for _, level in chosen]
        self.indices = [index for index, _ in chosen]
        backbone.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        norms: dict[int, float] = getattr(backbone, "dense_norms", {})
        self.norms = nn.ModuleList(
            LayerNorm2d(level.channels, eps=norms[index]) if index in norms else nn.Identity()
            for index, level in chosen
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) to maps (B, C, h, w) of `levels`."""
        maps = self.backbone.forward_intermediates(
            images, indices=self.indices, intermediates_only=True, output_fmt="NCHW"
        )
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]


class Head(Protocol):
    """A head on a pyramid; heads of detection and panoptic segmentation also have `losses` and a class `decoder`."""

    image_size: ClassVar[int]
    """Default side of the input, in pixels."""

    def __call__(self, maps: list[Tensor], sizes: Tensor) -> Any:
        """Maps (B, C, h, w) of a pyramid to raw tensors of fixed shapes.

        `sizes` (B, 2) are height and width of the scaled image on each input, without padding.
        """


class DenseTask(nn.Module):
    """A head on the maps of a backbone, with the decoder of its raw tensors; the loss is by default the head's."""

    head: Any
    """A `Head`."""

    def __init__(
        self,
        pyramid: Pyramid,
        head: nn.Module,
        decoder: Any,
        loss: Callable[[Any, Any], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.pyramid, self.head, self.decoder, self.loss = pyramid, head, decoder, loss

    @property
    def backbone(self) -> Any:
        """The timm model."""
        return self.pyramid.backbone

    @property
    def classes(self) -> tuple[str, ...]:
        return self.decoder.classes

    def forward(self, images: Tensor, score: float = 0.0) -> Any:
        """Normalised images (B, C, H, W) to the head's raw tensors.

        A second stage computes only the masks of objects with a score above `score`; the others are 0.
        """
        second_stage = {"score": score} if getattr(self.head, "nms_inside", False) else {}
        return self.head(self.pyramid(images), inner_sizes(images), **second_stage)

    def losses(self, raw: Any, targets: Any) -> dict[str, Tensor]:
        """Named terms whose sum is minimised."""
        return (self.loss or self.head.losses)(raw, targets)


def augmentation_of(settings: Any) -> Augmentation:
    """The augmentation that the settings of training state."""
    return Augmentation(**{name: getattr(settings, name) for name in AUGMENTATIONS})


def dense_preprocessing(backbone: str, head: Any, image_size: int | tuple[int, int] | None) -> Preprocessing:
    """The backbone's normalisation, the whole image on a canvas of `image_size`, by default the head's."""
    own = preprocessing_of(backbone, image_size or head.image_size)
    return replace(own, crop=1.0, interpolation="bilinear", rule="fit")


def build_pyramid(card: Card, arguments: Mapping[str, Any], pretrained: bool, checkpoint: str | None) -> Pyramid:
    """The backbone of a card, with these keyword arguments, as a pyramid."""
    require_architecture(arguments, "model_args")
    of_size = input_arguments(card.backbone, card.preprocessing.height, card.preprocessing.width)
    return Pyramid(build_backbone(card.backbone, pretrained, checkpoint, **{**of_size, **arguments}))


def build_head(card: Card, head: Any, pyramid: Pyramid, counts: Sequence[int]) -> nn.Module:
    """A head of `counts` classes (of things and of stuff) with those of the card's `head_args` that it takes."""
    require_architecture(card.head_args, "head_args")
    with taking_arguments(card):
        with_decoder = {*parameters(head), *parameters(getattr(head, "decoder", head))} - {"strides", "pyramid"}
        if unknown := card.head_args.keys() - with_decoder:
            raise TypeError(f"{head.__name__} has no {sorted(unknown)[0]!r}")
        return head(pyramid.levels, *counts, **chosen_for(head, card.head_args))


def build_head_decoder(card: Card, head: Any, strides: Sequence[float]) -> Any:
    """The decoder of a head with those of the card's `head_args` that it takes; `strides` are of the head's maps."""
    given = chosen_for(head.decoder, card.head_args)
    if "strides" in parameters(head.decoder):
        given["strides"] = tuple(strides)
    with taking_arguments(card):
        return head.decoder(**given)


@contextmanager
def taking_arguments(card: Card) -> Iterator[None]:
    """Turn a head's refusal of its arguments into a `BadOption`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise BadOption(f"{card.head} on {card.backbone} does not take these arguments: {error}") from None


def chosen_for(function: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a function or class takes."""
    return {name: value for name, value in arguments.items() if name in parameters(function)}


def parameters(function: Any) -> tuple[str, ...]:
    """Names of the arguments of a function or class."""
    return tuple(inspect.signature(function).parameters)
