"""Published checkpoints: unwrapped and loaded, or an error that names every weight that does not fit."""

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from torch import Tensor, nn

from featherbone.backbones.published import CLASSIFIERS, Checkpoint
from featherbone.errors import BadCheckpoint, BadDownload

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")

ARGUMENTS: list[Any] = [argparse.Namespace]
"""Classes of plain values in published checkpoints, the arguments of their scripts, which torch's safe loader refuses
unless they are named. It runs no code of a file either way."""


def build(
    model_class: type[nn.Module],
    variant: str,
    pretrained: bool,
    checkpoint_filter_fn: Callable[[dict[str, Any], nn.Module], dict[str, Tensor]],
    **kwargs: Any,
) -> Any:
    """The registered model `variant` with four levels of features, by timm's builder.

    With `pretrained`, its weights are what `checkpoint_filter_fn` makes of the file, by default the published one.
    Raises `BadCheckpoint` where there is no file or where it does not `fit`.
    """
    overlay = kwargs.pop("pretrained_cfg_overlay", None)
    if pretrained and (file := require_source(variant, kwargs.get("pretrained_cfg"), overlay)):
        overlay = {**(overlay or {}), "file": str(file)}
    with torch.serialization.safe_globals(ARGUMENTS):
        return build_model_with_cfg(
            model_class,
            variant,
            pretrained,
            pretrained_filter_fn=lambda checkpoint, model: fit(checkpoint_filter_fn(checkpoint, model), model),
            feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
            pretrained_cfg_overlay=overlay,
            **kwargs,
        )


def unwrap(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint that may be wrapped in `WRAPPERS` and prefixed by `module.`."""
    for key in WRAPPERS:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    return {name.removeprefix("module."): value for name, value in checkpoint.items()}


def require_source(variant: str, cfg: Any = None, overlay: dict[str, Any] | None = None) -> Path | None:
    """The published file of weights, or None where timm's configuration names other ones.

    Raises `BadCheckpoint`, with the ways to get weights, if there are none or they cannot be downloaded.
    """
    resolved, usual = resolve_pretrained_cfg(variant, cfg, overlay), resolve_pretrained_cfg(variant)
    if resolved.file and not Path(resolved.file).exists():
        raise BadCheckpoint(f"{resolved.file}: there is no such file to start {variant} from; give an existing one")
    if resolved.file or resolved.state_dict or resolved.hf_hub_id or resolved.url != usual.url:
        return None
    unknown = Checkpoint(unusable=f"see {resolved.origin_url} and give a file: --checkpoint FILE")
    return published_file(variant, CLASSIFIERS.get(variant, unknown))


def published_file(name: str, checkpoint: Checkpoint) -> Path:
    """The file with the published weights of the model `name`, downloaded unless it is in the cache, torch.hub's.

    Raises `BadCheckpoint` where there is no file to use, or none can be downloaded, with the ways to do without.
    """
    if checkpoint.unusable:
        raise BadCheckpoint(f"{name} comes without weights: {checkpoint.unusable}")
    file = cached_file(name, checkpoint)
    if file.is_file() and checkpoint.size in (None, file.stat().st_size):
        return file
    reason = f"the weights of {name} must be downloaded in a browser, from {checkpoint.address}"
    if not checkpoint.by_hand:
        from featherbone.download import download  # its progress bar is slow to import

        try:
            download(checkpoint.address, file, checkpoint.size, checkpoint.sha256)
            return file
        except BadDownload as error:
            reason = f"no weights of {name}: {error}; try again, or download them yourself"
    raise BadCheckpoint(f"{reason}; save them as {file}, or {ways_out(name)}")


def ways_out(name: str) -> str:
    """What to do where published weights are not available."""
    return (
        f"give the file: with --checkpoint FILE to train, or with: featherbone convert FILE {name} --out RUN. To train "
        f"without them: --model {name.partition('.')[0]} --no-pretrained"
    )


def cached_file(name: str, checkpoint: Checkpoint) -> Path:
    """Where published weights are kept: under the file's name, as by torch.hub, or under the model's."""
    file = f"{name}.pth" if checkpoint.by_hand else checkpoint.address.rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def fit(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights that timm can load into `model`; a classifier for another number of classes is omitted with a warning.

    Raises `BadCheckpoint` with the name of every other weight that is missing, unexpected or of another shape. The
    first convolution may differ in its input channels, which timm adapts.
    """
    cfg: Any = model.pretrained_cfg
    classifiers = [cfg["classifier"]] if isinstance(cfg["classifier"], str) else cfg["classifier"]
    head = tuple(f"{name}.{part}" for name in classifiers for part in ("weight", "bias"))
    stem = f"{cfg['first_conv']}.weight"
    expected = model.state_dict()

    # timm compares the model with the configuration of the checkpoint; the file is right
    cfg["num_classes"] = len(weights.get(head[0], ()))
    if stem in weights and weights[stem].ndim == 4:
        cfg["input_size"] = (weights[stem].shape[1], *cfg["input_size"][1:])

    new_head = cfg["num_classes"] != model.num_classes
    if not model.num_classes:  # everything that belongs to the head
        head = tuple(n for n in weights if n.partition(".")[0] == head[0].partition(".")[0] and n not in expected)
    if new_head:
        weights = {name: value for name, value in weights.items() if name not in head}
        expected = {name: value for name, value in expected.items() if name not in head}

    # torch fills in num_batches_tracked of old checkpoints by itself
    missing = [name for name in expected if name not in weights and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in weights if name not in expected]
    reshaped = [
        f"{name} {tuple(value.shape)} for {tuple(expected[name].shape)}"
        for name, value in weights.items()
        if name in expected and not _has_shape(value, expected[name].shape, any_channels=name == stem)
    ]
    misfits = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(misfits.values()):
        named = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in misfits.items() if names)
        raise BadCheckpoint(f"the checkpoint does not fit {cfg['architecture']}, give one of this model. {named}")
    if new_head and model.num_classes:
        warnings.warn(
            f"{cfg['architecture']}: the checkpoint has {cfg['num_classes']} classes and the model "
            f"{model.num_classes}; {', '.join(head)} start from random weights",
            stacklevel=2,
        )
    return weights


@contextmanager
def recorded_loads() -> Iterator[list[Any]]:
    """The missing and unexpected names of each `load_state_dict` inside the block.

    timm loads without `strict` and does not return the names if the number of classes differs.
    """
    load, found = nn.Module.load_state_dict, []

    def record(*args: Any, **kwargs: Any) -> Any:
        found.append(load(*args, **kwargs))
        return found[-1]

    nn.Module.load_state_dict = record  # type: ignore[method-assign]
    try:
        with torch.serialization.safe_globals(ARGUMENTS):
            yield found
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]


def require_complete(model: Any, loads: Sequence[Any], source: str) -> None:
    """Raise `BadCheckpoint` unless all of `model` but its classifier was in `source`, finite, at the last of `loads`.

    A classifier that was not there becomes 0, so that training starts from equal probabilities. Weights of `source`
    that the model does not have are named in a warning.
    """
    classifiers = model.pretrained_cfg.get("classifier") or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    ours = tuple(f"{name}." for name in names)
    state = model.state_dict()
    expected = [name for name in state if not name.startswith(ours) and not name.endswith(".num_batches_tracked")]
    lacking = set(loads[-1].missing_keys) if loads else set()
    missing = [name for name in expected if name in lacking]
    if missing:
        raise BadCheckpoint(
            f"{source} lacks {len(missing)} of {len(expected)} weights of {model.pretrained_cfg['architecture']}: "
            f"{_first(missing)}; give a complete checkpoint of this model"
        )
    if broken := not_finite(state):
        raise BadCheckpoint(f"{source} has weights that are not finite: {_first(broken)}; give another checkpoint")
    unused = [name for name in (loads[-1].unexpected_keys if loads else ()) if not name.startswith(ours)]
    if unused:
        warnings.warn(f"{source}: {len(unused)} weights are not of this model: {_first(unused)}", stacklevel=3)
    for name in lacking - set(missing):
        if name.startswith(ours):
            nn.init.zeros_(model.get_parameter(name))


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, x in tensors.items() if x.is_floating_point() and not bool(x.isfinite().all())]


def _first(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _has_shape(weight: Tensor, shape: torch.Size, any_channels: bool) -> bool:
    if any_channels and weight.ndim == len(shape):
        return weight[:, 0].shape == shape[:1] + shape[2:]
    return weight.shape == shape
