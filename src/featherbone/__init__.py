"""Light-weight vision transformers, from a folder of images to a verified file.

Importing registers the backbones with timm and changes nothing else; the functions below are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featherbone import backbones as backbones

if TYPE_CHECKING:
    from featherbone.commands import (
        bench,
        compare,
        convert,
        demo,
        doctor,
        evaluate,
        explain,
        export,
        licences,
        make_panoptic,
        make_shards,
        models,
        predict,
        push,
        serve_web,
        train,
    )
    from featherbone.deployment import deploy
    from featherbone.predictor import Predictor, load

__all__ = [
    "Predictor",
    "bench",
    "compare",
    "convert",
    "demo",
    "deploy",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "licences",
    "load",
    "make_panoptic",
    "make_shards",
    "models",
    "predict",
    "push",
    "serve_web",
    "train",
]

_HOMES = {"Predictor": "predictor", "load": "predictor", "deploy": "deployment"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'featherbone' has no attribute {name!r}")
    return getattr(import_module(f"featherbone.{_HOMES.get(name, 'commands')}"), name)
