"""Light-weight vision transformers, from a folder of images to a verified file.

Importing registers the backbones with timm; the functions below load what they need when they are first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read when torch is first imported: its threads then spin only briefly before they sleep while they wait for each
# other. Spinning for long, their default, makes training several times slower where another program uses a core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from featherbone import backbones as backbones

if TYPE_CHECKING:
    from featherbone.commands import (
        bench,
        demo,
        doctor,
        evaluate,
        explain,
        export,
        make_data,
        models,
        predict,
        serve_web,
        train,
    )
    from featherbone.deployment import deploy
    from featherbone.predictor import Predictor, load

__all__ = [
    "Predictor",
    "bench",
    "demo",
    "deploy",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "load",
    "make_data",
    "models",
    "predict",
    "serve_web",
    "train",
]

_HOMES = {"Predictor": "predictor", "load": "predictor", "deploy": "deployment"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'featherbone' has no attribute {name!r}")
    return getattr(import_module(f"featherbone.{_HOMES.get(name, 'commands')}"), name)
