"""Backbones by name, and the input that their configuration states."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg, split_model_name_tag
from torch import nn

from featherbone.backbones.checkpoints import recorded_loads, require_complete, ways_out
from featherbone.backbones.published import CLASSIFIERS
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadCheckpoint, BadLicence, BadOption, UnknownModel, did_you_mean


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
    """The input of the backbone's configuration, or a square of `image_size` pixels, or (H, W)."""
    require_model(name)
    cfg = get_pretrained_cfg(name)
    assert cfg is not None, f"{name} is registered without a configuration"
    square = (image_size, image_size) if isinstance(image_size, int) else image_size
    height, width = square or cfg.input_size[1:]
    if min(height, width) < 32:
        raise BadOption(
            f"image size {height}x{width} is too small: backbones need at least 32 pixels per side; pass a larger "
            "--image-size"
        )
    return Preprocessing(height, width, cfg.crop_pct, cfg.interpolation, tuple(cfg.mean), tuple(cfg.std))


def has_weights(name: str) -> bool:
    """Whether there are published weights of a backbone that one may use."""
    architecture, _ = split_model_name_tag(name)
    if architecture in CLASSIFIERS:
        return not CLASSIFIERS[architecture].unusable
    cfg = get_pretrained_cfg(name)
    return cfg is not None and bool(cfg.has_weights)


def full_name(name: str) -> str:
    """The backbone's name with the tag of its weights."""
    cfg = get_pretrained_cfg(name)
    architecture, _ = split_model_name_tag(name)
    return f"{architecture}.{cfg.tag}" if cfg is not None and cfg.tag else name


def licence_of(name: str) -> str | None:
    """The licence of the published weights of a backbone; None where timm states none."""
    architecture, _ = split_model_name_tag(name)
    if architecture in CLASSIFIERS:
        return CLASSIFIERS[architecture].licence
    cfg = get_pretrained_cfg(name)
    return cfg.license if cfg is not None else None


PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0")
"""Licences of weights that allow every use; all others that are stated must be accepted first."""


def needs_acceptance(licence: str | None) -> bool:
    """Whether weights of this licence must be accepted before use; a licence that is not stated is only named."""
    return not (licence is None or licence.startswith("not stated") or licence in PERMISSIVE)


def require_licence(name: str, licence: str | None, accepted: str | None) -> None:
    """Raise `BadLicence` unless the licence of the weights of `name` is permissive, not stated, or `accepted`."""
    if needs_acceptance(licence) and accepted != licence:
        given = f"{accepted!r} is accepted, but " if accepted else ""
        raise BadLicence(
            f"{given}the weights of {name} are under the licence {licence!r}, which may forbid commercial or other "
            f"use; read it, and accept it with --accept-licence {licence}, or choose another model; to train without "
            "them: --no-pretrained"
        )


def weights_licence(name: str, pretrained: bool, checkpoint: str | None) -> str:
    """The licence of the weights that training starts from, as far as it is stated."""
    if checkpoint is not None:
        return (
            f"not stated: the weights are those of {Path(checkpoint).name}; look it up before you distribute the model"
        )
    if not pretrained:
        return "yours: trained from scratch"
    return licence_of(name) or "not stated by timm; look it up before you distribute the model"


def build_backbone(name: str, pretrained: bool = False, checkpoint: str | None = None, **arguments: Any) -> nn.Module:
    """A timm model; `pretrained` starts it from its usual weights, or from the file `checkpoint` of published ones.

    Raises `BadOption` for unknown arguments and `BadCheckpoint` for weights that are not available or do not fit.
    """
    require_model(name)
    overlay: dict[str, Any] = {}
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise BadOption(f"{checkpoint}: there is no such checkpoint file")
        overlay = {"pretrained_cfg_overlay": {"file": checkpoint}}
    try:
        with recorded_loads() as loads, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* start from random weights")  # a classifier for other classes is new
            model = timm.create_model(name, pretrained=pretrained, **overlay, **arguments)
        if pretrained:
            require_complete(model, loads, checkpoint or f"the weights of {name}")
        return model
    except (BadCheckpoint, BadOption):
        raise
    except Exception as error:  # timm raises whatever the arguments or the file lead to
        if isinstance(error, TypeError) and (not pretrained or "keyword argument" in str(error)):
            raise BadOption(f"{name} does not take these arguments: {error}") from None
        if not pretrained:
            raise
        raise BadCheckpoint(missing_weights(name, checkpoint, error)) from None


def input_arguments(name: str, height: int, width: int) -> dict[str, Any]:
    """The keyword argument of a backbone that is made for one input size, where this is another one."""
    cfg = get_pretrained_cfg(name)
    other = cfg is not None and cfg.fixed_input_size and (height, width) != cfg.input_size[1:]
    return {"img_size": (height, width)} if other else {}


LOADING = (
    *("pretrained", "checkpoint_path", "cache_dir", "num_classes", "features_only", "out_indices"),
    *("feature_cfg", "model_cfg", "kwargs_filter", "scriptable", "exportable", "no_jit"),
)
"""Arguments of timm's builder that do not describe an architecture; some open files. The first is a prefix."""
MAX_ARGUMENT, MAX_TEXT, MAX_LIST = 10_000, 200, 1_000


def require_architecture(arguments: Mapping[str, Any], option: str) -> None:
    """Raise `BadOption` unless `arguments` describe an architecture, by plain values of limited size."""
    for name, value in arguments.items():
        if name in LOADING or name.startswith(LOADING[0]):
            raise BadOption(
                f"{option} {name}: determines the source of weights or the form of the model; pass arguments of "
                "the architecture only, and weights with --checkpoint FILE"
            )
        if not _is_plain(value):
            raise BadOption(
                f"{option} {name}: {str(value)[:80]!r}; give a number up to {MAX_ARGUMENT}, True, False, None, a text "
                f"of up to {MAX_TEXT} characters, or a list of these"
            )


def _is_plain(value: Any, depth: int = 3) -> bool:
    if isinstance(value, list | tuple):
        return depth > 0 and len(value) <= MAX_LIST and all(_is_plain(item, depth - 1) for item in value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return value is None or (isinstance(value, int | float) and abs(value) <= MAX_ARGUMENT)


def missing_weights(name: str, checkpoint: str | None, error: Exception) -> str:
    """The message for starting weights that are not available or do not fit."""
    reason = " ".join(str(error).split())
    if checkpoint is not None:
        return f"{checkpoint} does not fit {name}: {reason}; pass a checkpoint of this model, or omit --checkpoint"
    return f"no weights of {name} ({reason}); try again, or get a checkpoint yourself and {ways_out(name)}"
