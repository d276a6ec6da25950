"""Published checkpoints: what they are wrapped in."""

from typing import Any

from torch import Tensor

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


def unwrap(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights alone of a checkpoint that may be wrapped in `WRAPPERS` and prefixed by `module.`."""
    for key in WRAPPERS:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    return {name.removeprefix("module."): value for name, value in checkpoint.items()}
