"""Every knob of a training run, with its default, and the presets that turn several at once."""

import ast
from typing import Any, Literal, TypedDict, Unpack, get_type_hints

from featherbone.errors import BadOption, did_you_mean


class Settings(TypedDict, total=False):
    """How to train. What is not given comes from the recipe, the preset, or `DEFAULTS`."""

    image_size: int | tuple[int, int] | None
    """Side of the square input in pixels, or height and width; by default the model's own, or that of the head."""
    head: str | None
    """What reads the backbone's maps; by default the task's first: retinanet or yolov3 for detection, mask_rcnn for
    instances, segformer or semantic_fpn for semantic, panoptic_fpn_light or panoptic_fpn for panoptic segmentation."""
    head_args: str
    """More keywords of the head, for example dim=96,num_convs=2; anchors=fit fits YOLOv3's to the training objects."""
    batch_size: int
    """Images per update, over all processes and accumulated parts."""
    epochs: int
    """Passes over the training images."""
    lr: float
    """Peak learning rate."""
    min_lr: float
    """Learning rate at the end."""
    head_lr: float
    """Factor on the learning rate of all that is not the backbone."""
    schedule: Literal["cosine", "step", "poly"]
    """How the learning rate falls to `min_lr`: along a cosine, by (1 - progress)^`power`, or to a tenth at each of
    `milestones`."""
    power: float
    """Of the poly schedule."""
    milestones: tuple[int, ...]
    """Epochs after which the step schedule divides the learning rate by ten."""
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
    scale: tuple[float, float]
    """Least and largest factor by which an image is scaled before it is cut to the input (large-scale jitter)."""
    photometric: float
    """Chance that brightness, contrast, saturation and hue change."""
    expand: float
    """Largest factor by which a canvas grows round an image, with the chance of one half; 1 is off."""
    iou_crop: float
    """Chance of a crop that keeps a least overlap with some object."""
    mosaic: float
    """Chance that four images are put together."""
    class_share: float
    """Largest share of one class in the part of an image that is shown; ten parts are tried."""
    ignore_index: int | None
    """Value of masks that is no class, beside 255."""
    zero_ignored: bool
    """Value 0 of masks is no class and the first class is 1, as in ADE20K."""
    class_weights: str
    """Weights of the classes in the loss: empty for none, balanced for median frequency over frequency, or numbers."""
    hard_share: float
    """Below 1, teach only pixels given less than 0.7 for their class, and at least this share of all."""
    dice: float
    """Weight of the Dice loss beside cross-entropy."""
    drop_path: float
    """Chance that the last block is skipped; earlier ones less."""
    dropout: float
    """Dropout before the classifier."""
    ema: float | None
    """Decay of the moving average of the weights, which is then what is evaluated and saved; none by default."""
    freeze: int
    """Parts of the network, from the stem on, that are not trained; -1 freezes all but the head."""
    freeze_norm: bool
    """Keep the backbone's batch norms as they are: batches of a detector are small."""
    model_args: str
    """More keywords of the backbone, for example recursion=3,mix_token=True."""
    pretrained: bool
    """Start from timm's weights."""
    checkpoint: str | None
    """Start from this file of published weights."""
    backbone_from: str | None
    """Start the backbone from this run folder, of any task, with the same backbone."""
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
    unlabelled: Literal["leave-out", "negative"]
    """What an image is that no annotation file mentions: left out, or taken to show no object."""
    crowds: Literal["ignore", "objects"]
    """What annotations with iscrowd 1 are: groups of which nothing is learned or counted, as COCO means them, or single
    objects, as CVAT writes brush masks."""
    eval_every: int
    """Epochs from one evaluation to the next; the last is always evaluated."""
    seed: int
    """All randomness follows from it."""
    device: str
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """Arithmetic of the network; auto is bf16 where the device is fast at it."""
    deterministic: bool
    """On a GPU, compute with deterministic kernels only, which is slower; a CPU always does."""
    sync_batchnorm: bool
    """In several processes on GPUs, normalise by the statistics of the whole batch instead of each process's part."""
    workers: int | None
    """Processes that read images; by default by the number of cores."""
    save_seconds: float
    """Time between checkpoints within an epoch."""
    tensorboard: bool
    """Write curves for TensorBoard into the run folder."""


DEFAULTS: Settings = {
    "image_size": None,
    "head": None,
    "head_args": "",
    "batch_size": 32,
    "epochs": 50,
    "lr": 5e-4,
    "min_lr": 1e-6,
    "head_lr": 1.0,
    "schedule": "cosine",
    "power": 1.0,
    "milestones": (),
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
    "scale": (1.0, 1.0),
    "photometric": 0.0,
    "expand": 1.0,
    "iou_crop": 0.0,
    "mosaic": 0.0,
    "class_share": 1.0,
    "ignore_index": None,
    "zero_ignored": False,
    "class_weights": "",
    "hard_share": 1.0,
    "dice": 0.0,
    "drop_path": 0.0,
    "dropout": 0.0,
    "ema": None,
    "freeze": 0,
    "freeze_norm": False,
    "model_args": "",
    "pretrained": False,
    "checkpoint": None,
    "backbone_from": None,
    "teacher": None,
    "distillation": "soft",
    "distillation_weight": 0.5,
    "temperature": 2.0,
    "val_share": 0.2,
    "unlabelled": "leave-out",
    "crowds": "ignore",
    "eval_every": 1,
    "seed": 0,
    "device": "auto",
    "precision": "auto",
    "deterministic": False,
    "sync_batchnorm": False,
    "workers": None,
    "save_seconds": 60.0,
    "tensorboard": False,
}

OF_OBJECTS: Settings = {
    "batch_size": 8,
    "warmup_epochs": 1,
    "clip_grad": 10.0,
    "scale": (0.6, 1.4),
    "photometric": 0.5,
}
"""Other defaults of detection and instance segmentation."""

OF_PIXELS: Settings = {"batch_size": 8, "warmup_epochs": 1, "schedule": "poly", "scale": (0.5, 2.0), "photometric": 0.5}
"""Other defaults of semantic segmentation."""

TASK_DEFAULTS: dict[str, Settings] = {
    "classification": {},
    "detection": OF_OBJECTS,
    "instance": OF_OBJECTS,
    "semantic": {**OF_PIXELS, "class_share": 0.75},
    "panoptic": OF_OBJECTS,
}

ONLY: dict[tuple[str, ...], tuple[str, ...]] = {
    ("classification",): (
        *("smoothing", "mixup", "cutmix", "auto_augment", "color_jitter", "erasing", "min_area", "dropout"),
        *("teacher", "distillation", "distillation_weight", "temperature"),
    ),
    ("detection", "instance", "semantic", "panoptic"): (
        *("head", "head_args", "head_lr", "scale", "photometric", "expand", "backbone_from", "freeze_norm"),
    ),
    ("detection", "instance", "panoptic"): ("iou_crop",),
    ("detection", "instance"): ("mosaic", "unlabelled", "crowds"),
    ("semantic",): ("class_share", "ignore_index", "zero_ignored", "class_weights", "hard_share", "dice"),
}
"""Settings that have a meaning for some tasks alone."""

PRESETS: dict[str, dict[str, Settings]] = {
    "small-data": {
        "classification": {
            "batch_size": 16,
            "epochs": 100,
            "warmup_epochs": 5,
            "clip_grad": 1.0,
            "mixup": 0.2,
            "cutmix": 0.0,
            "auto_augment": "rand-m6-mstd0.5-inc1",
            "ema": 0.995,
        },
        "detection": {"batch_size": 4, "epochs": 100, "lr": 1e-3, "warmup_epochs": 3, "ema": 0.998, "mosaic": 0.5},
        "instance": {"batch_size": 2, "epochs": 100, "lr": 3e-4, "warmup_epochs": 3, "ema": 0.998},
        "semantic": {
            "batch_size": 4,
            "epochs": 100,
            "lr": 2e-3,
            "warmup_epochs": 3,
            "clip_grad": 1.0,
            "ema": 0.998,
            "scale": (0.8, 1.5),
        },
        "panoptic": {"batch_size": 2, "epochs": 100, "lr": 3e-4, "warmup_epochs": 3, "ema": 0.998},
    },
}
"""`small-data`: tens to hundreds of images; more updates per image, an average of the weights, other augmentation."""

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
    "scale": (0.05, 4),  # the enlarged image is held whole
    "photometric": (0, 1),
    "expand": (1, 10),
    "iou_crop": (0, 1),
    "mosaic": (0, 1),
    "class_share": (0.05, 1),
    "ignore_index": (0, 65535),
    "hard_share": (0.001, 1),
    "dice": (0, 1e3),
    "head_lr": (0, 1e3),
    "power": (0.01, 100),
    "milestones": (1, 1e6),
    "eval_every": (1, 1e6),
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


def complete(
    preset: str | None = None,
    recipe: Settings | None = None,
    task: str = "classification",
    **given: Unpack[Settings],
) -> Settings:
    """All settings of a task: what is `given`, else the recipe's, else the preset's, else the default.

    Raises `BadOption` for a name that does not exist or means nothing to the task, or a value out of range.
    """
    if preset is not None and preset not in PRESETS:
        raise BadOption(f"no preset {preset!r}; there is {', '.join(PRESETS)}")
    known = get_type_hints(Settings)
    foreign = {name for tasks, names in ONLY.items() if task not in tasks for name in names}
    for name in given:
        if name not in known:
            raise BadOption(f"no option {name!r}{did_you_mean(name, known)} See: featherbone train --help")
    chosen_by_recipe = [name for name, value in (recipe or {}).items() if value != DEFAULTS[name]]  # type: ignore[literal-required]
    for name in (*given, *chosen_by_recipe):
        if name in foreign:
            raise BadOption(f"option {name} means nothing to {task}; leave it out, or choose another task or recipe")
    chosen: Settings = PRESETS[preset][task] if preset else {}
    settings: Any = {**DEFAULTS, **TASK_DEFAULTS[task], **chosen, **(recipe or {}), **given}
    for name, (least, most) in RANGES.items():
        value = settings[name]
        if value is None and DEFAULTS[name] is None:  # type: ignore[literal-required]
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number <= most:
                raise BadOption(f"{name} {number!r} is outside {least:g} to {most:g}")
    if settings["scale"][0] > settings["scale"][1]:
        raise BadOption(f"scale {settings['scale']}: the least factor comes first")
    if settings["schedule"] == "step" and not settings["milestones"]:
        raise BadOption("schedule step needs milestones: the epochs after which the rate falls, as in 8 11 of 12")
    for name, choices in CHOICES.items():
        if settings[name] not in choices:
            raise BadOption(f"{name} {settings[name]!r} is none of {', '.join(choices)}")
    for name in ("model_args", "head_args"):
        parse_keywords(settings[name], name)
    return settings


CHOICES = {
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "distillation": ("soft", "hard"),
    "schedule": ("cosine", "step", "poly"),
    "unlabelled": ("leave-out", "negative"),
    "crowds": ("ignore", "objects"),
}


def parse_keywords(text: str, option: str = "model_args") -> dict[str, Any]:
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
        raise BadOption(f"{option} {text!r}: write keywords, as in recursion=3,mix_token=True") from None
