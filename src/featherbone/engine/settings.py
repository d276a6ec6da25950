"""Every knob of a training run, with its default, and the presets that turn several at once."""

import ast
from typing import Any, Literal, TypedDict, Unpack, get_type_hints

from featherbone.errors import BadOption, did_you_mean


class Settings(TypedDict, total=False):
    """How to train. What is not given comes from the recipe, the preset, or `DEFAULTS`."""

    image_size: int | None
    """Side of the square input in pixels; by default the model's own."""
    batch_size: int
    """Images per update, over all processes and accumulated parts."""
    epochs: int
    """Passes over the training images."""
    lr: float
    """Peak learning rate."""
    min_lr: float
    """Learning rate at the end."""
    warmup_epochs: float
    """Epochs of linear warm-up from `warmup_lr`."""
    warmup_lr: float
    """Learning rate of the first update."""
    cooldown_epochs: int
    """Epochs at `min_lr` after the cosine, on top of `epochs`."""
    optimizer: str
    """timm's name of the optimiser."""
    weight_decay: float
    """Decay of all but 1-D parameters and those the model names."""
    layer_decay: float | None
    """Factor on the learning rate for each block further from the head; none by default."""
    clip_grad: float | None
    """Largest norm of the gradient; none by default."""
    accumulate: int
    """Parts a batch is computed in, to save memory."""
    recompute: bool
    """Recompute activations in the backward pass, to save memory."""
    compile: bool
    """Compile the network before training."""
    smoothing: float
    """Label smoothing."""
    mixup: float
    """Alpha of mixup; 0 is off."""
    cutmix: float
    """Alpha of CutMix; 0 is off."""
    auto_augment: str
    """timm's name of an augmentation policy; empty for none."""
    color_jitter: float
    """Strength of brightness, contrast and saturation changes."""
    erasing: float
    """Chance that a box is erased."""
    flip: float
    """Chance of a horizontal flip."""
    min_area: float
    """Least share of the image that a random crop shows."""
    drop_path: float
    """Chance that the last block is skipped; earlier ones less."""
    dropout: float
    """Dropout before the classifier."""
    ema: float | None
    """Decay of the moving average of the weights, which is then what is evaluated and saved; none by default."""
    freeze: int
    """Parts of the network, from the stem on, that are not trained; -1 freezes all but the head."""
    model_args: str
    """More keywords of the backbone, for example recursion=3,mix_token=True."""
    pretrained: bool
    """Start from timm's weights."""
    checkpoint: str | None
    """Start from this file of published weights."""
    teacher: str | None
    """Run folder or timm name of a network to learn from."""
    distillation: Literal["soft", "hard"]
    """Learn from the teacher's probabilities or its first class."""
    distillation_weight: float
    """Share of the teacher in the loss."""
    temperature: float
    """Softness of the teacher's probabilities."""
    val_share: float
    """Share of each class held out where the data has no validation split."""
    seed: int
    """All randomness follows from it."""
    device: str
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """Arithmetic of the network; auto is bf16 where the device is fast at it."""
    workers: int | None
    """Processes that read images; by default by the number of cores."""
    save_seconds: float
    """Time between checkpoints within an epoch."""
    tensorboard: bool
    """Write curves for TensorBoard into the run folder."""


DEFAULTS: Settings = {
    "image_size": None,
    "batch_size": 32,
    "epochs": 50,
    "lr": 5e-4,
    "min_lr": 1e-6,
    "warmup_epochs": 3,
    "warmup_lr": 1e-6,
    "cooldown_epochs": 0,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "layer_decay": None,
    "clip_grad": None,
    "accumulate": 1,
    "recompute": False,
    "compile": False,
    "smoothing": 0.1,
    "mixup": 0.0,
    "cutmix": 0.0,
    "auto_augment": "rand-m7-mstd0.5-inc1",
    "color_jitter": 0.0,
    "erasing": 0.1,
    "flip": 0.5,
    "min_area": 0.25,
    "drop_path": 0.0,
    "dropout": 0.0,
    "ema": None,
    "freeze": 0,
    "model_args": "",
    "pretrained": False,
    "checkpoint": None,
    "teacher": None,
    "distillation": "soft",
    "distillation_weight": 0.5,
    "temperature": 2.0,
    "val_share": 0.2,
    "seed": 0,
    "device": "auto",
    "precision": "auto",
    "workers": None,
    "save_seconds": 60.0,
    "tensorboard": False,
}

PRESETS: dict[str, Settings] = {
    "small-data": {
        "batch_size": 16,
        "epochs": 100,
        "warmup_epochs": 5,
        "clip_grad": 1.0,
        "mixup": 0.2,
        "cutmix": 0.0,
        "auto_augment": "rand-m6-mstd0.5-inc1",
        "ema": 0.995,
    },
}
"""`small-data`: tens to hundreds of images; more updates per image, an average of the weights, gentler augmentation."""

RANGES: dict[str, tuple[float, float]] = {
    "image_size": (32, 8192),
    "batch_size": (1, 1e6),
    "epochs": (1, 1e6),
    "lr": (0, 1e3),
    "min_lr": (0, 1e3),
    "warmup_epochs": (0, 1e6),
    "warmup_lr": (0, 1e3),
    "cooldown_epochs": (0, 1e6),
    "weight_decay": (0, 1e3),
    "layer_decay": (1e-6, 1),
    "clip_grad": (1e-12, 1e12),
    "accumulate": (1, 1e6),
    "smoothing": (0, 0.999),
    "mixup": (0, 1e3),
    "cutmix": (0, 1e3),
    "color_jitter": (0, 1),
    "erasing": (0, 1),
    "flip": (0, 1),
    "min_area": (0.01, 1),
    "drop_path": (0, 0.999),
    "dropout": (0, 0.999),
    "ema": (0, 1),
    "freeze": (-1, 1e6),
    "distillation_weight": (0, 1),
    "temperature": (1e-3, 1e3),
    "val_share": (0.01, 0.9),
    "seed": (0, 2**32 - 1),
    "workers": (0, 1024),
    "save_seconds": (0, 1e9),
}
"""Least and largest value of each number."""


def complete(preset: str | None = None, recipe: Settings | None = None, **given: Unpack[Settings]) -> Settings:
    """All settings: what is `given`, else the recipe's, else the preset's, else the default.

    Raises `BadOption` for a name that does not exist or a value out of range.
    """
    if preset is not None and preset not in PRESETS:
        raise BadOption(f"no preset {preset!r}; there is {', '.join(PRESETS)}")
    known = get_type_hints(Settings)
    for name in given:
        if name not in known:
            raise BadOption(f"no option {name!r}{did_you_mean(name, known)} See: featherbone train --help")
    settings: Any = {**DEFAULTS, **(PRESETS[preset] if preset else {}), **(recipe or {}), **given}
    for name, (least, most) in RANGES.items():
        value = settings[name]
        if value is None and DEFAULTS[name] is None:  # type: ignore[literal-required]
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise BadOption(f"{name} {value!r} is outside {least:g} to {most:g}")
    for name, choices in CHOICES.items():
        if settings[name] not in choices:
            raise BadOption(f"{name} {settings[name]!r} is none of {', '.join(choices)}")
    parse_model_args(settings["model_args"])
    return settings


CHOICES = {"precision": ("auto", "fp32", "bf16", "fp16"), "distillation": ("soft", "hard")}


def parse_model_args(text: str) -> dict[str, Any]:
    """`a=1,b=True` as keywords; values are Python literals or plain words. Raises `BadOption`."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call), "a call is what was written"
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("a value without a name")
        return {
            str(word.arg): word.value.id if isinstance(word.value, ast.Name) else ast.literal_eval(word.value)
            for word in call.keywords
        }
    except (SyntaxError, ValueError, AssertionError):
        raise BadOption(f"model_args {text!r}: write keywords, as in recursion=3,mix_token=True") from None
