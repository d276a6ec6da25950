"""Backbones by name, and what their own configuration says of their input."""

import pickle
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg, split_model_name_tag
from torch import nn

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadCheckpoint, BadOption, UnknownModel, did_you_mean


def require_model(name: str) -> None:
    """Raise `UnknownModel`, with near matches, unless timm knows the architecture (and its tag, if one is given)."""
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise UnknownModel(f"no backbone {name!r}{hint} See: featherbone models '{architecture[:3]}*'")
    tags = [model.partition(".")[2] for model in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UnknownModel(f"backbone {architecture!r} has no weights {tag!r}; it has {', '.join(tags) or 'none'}")


def preprocessing_of(name: str, image_size: int | tuple[int, int] | None = None) -> Preprocessing:
    """The input that the backbone's own configuration asks for, or a square of `image_size` pixels, or (H, W)."""
    require_model(name)
    cfg = get_pretrained_cfg(name)
    assert cfg is not None, f"{name} is registered without a configuration"
    square = (image_size, image_size) if isinstance(image_size, int) else image_size
    height, width = square or cfg.input_size[1:]
    if min(height, width) < 32:
        raise BadOption(f"image size {height}x{width}; backbones take 32 pixels or more")
    return Preprocessing(height, width, cfg.crop_pct, cfg.interpolation, tuple(cfg.mean), tuple(cfg.std))


def weights_licence(name: str) -> str:
    """The licence of timm's weights of that name, as far as timm states it."""
    cfg = get_pretrained_cfg(name)
    return (cfg.license if cfg else None) or "not stated by timm; look it up before you ship"


def build_backbone(name: str, pretrained: bool = False, checkpoint: str | None = None, **arguments: Any) -> nn.Module:
    """A timm model; `pretrained` starts it from its usual weights, or from the file `checkpoint` of published ones.

    Raises `BadOption` for arguments it does not take and `BadCheckpoint` for weights that cannot be had or do not fit.
    """
    require_model(name)
    overlay: dict[str, Any] = {}
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise BadOption(f"{checkpoint}: there is no such checkpoint file")
        overlay = {"pretrained_cfg_overlay": {"file": checkpoint}}
    try:
        return timm.create_model(name, pretrained=pretrained, **overlay, **arguments)
    except TypeError as error:
        raise BadOption(f"{name} does not take these arguments: {error}") from None
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{error} (on the command line: --checkpoint FILE)") from None
    except (RuntimeError, OSError, ValueError, pickle.UnpicklingError) as error:
        if not pretrained:
            raise
        raise BadCheckpoint(missing_weights(name, checkpoint, error)) from None


def missing_weights(name: str, checkpoint: str | None, error: Exception) -> str:
    """What to do when starting weights cannot be had or do not fit."""
    reason = " ".join(str(error).split())
    if checkpoint is not None:
        return f"{checkpoint} does not fit {name}: {reason}; give a checkpoint of this model, or leave --checkpoint out"
    return (
        f"no weights to start {name} from ({reason}); train without --pretrained, or download a checkpoint "
        f"yourself and give it with --checkpoint FILE"
    )
