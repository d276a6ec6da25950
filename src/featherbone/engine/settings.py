"""The settings of a training run: one dataclass, in which each option is stated once.

A setting comes from the first of these that states it:

1. the options given to `featherbone.train` or on the command line,
2. the recipe (`recipe`),
3. the preset (`preset`),
4. without a recipe, for training that starts from given weights: `FINE_TUNING`,
5. the defaults of the head, if it states any,
6. the defaults of the task (`KINDS` in tasks/task.py),
7. the default of the field.

Training starts from published weights (`pretrained`) wherever there are some that one may use, unless the options or
the recipe say otherwise or name other weights.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import tyro

from featherbone.errors import BadOption, did_you_mean
from featherbone.metrics.operating_point import parse_target
from featherbone.tasks.backbone import has_weights
from featherbone.tasks.task import KINDS
from featherbone.tasks.variant import parse_keywords


def in_words(value: Any) -> str:
    """A value as the command line takes it, or `none`."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def option(
    default: Any, text: str, low: float | None = None, high: float | None = None, shown: str | None = None
) -> Any:
    """A field with its help text and, for numbers, the smallest and largest value allowed.

    `shown` are words for a default that depends on more than the task.
    """
    bounds = None if low is None else (low, high)
    return field(default=default, metadata={"help": text, "range": bounds, "default": shown or in_words(default)})


@dataclass(frozen=True)
class Settings:
    """How to train. `complete` builds and checks it; a card holds it as a plain dict (`to_dict`)."""

    image_size: int | tuple[int, int] | None = option(
        None,
        "Side of the square input in pixels, or height and width; by default the model's, or that of the head.",
        32,
        8192,
    )
    channels: int | None = option(
        None,
        "Read images with this number of channels and their values as stored, whose mean and standard deviation are"
        " then measured on training images.",
        1,
        1024,
        shown="RGB for pictures, that of the first image for arrays, stacks and TIFF files of several pages",
    )
    head: str | None = option(
        None,
        "Head on the backbone's feature maps; by default the task's first: retinanet, yolov3 or nms_free for detection,"
        " mask_rcnn or nms_free_masks for instances, segformer or semantic_fpn for semantic, panoptic_fpn_light,"
        " panoptic_fpn or nms_free_panoptic for panoptic segmentation.",
    )
    head_args: str = option(
        "",
        "Keyword arguments of the head, for example dim=96,num_convs=2; anchors=fit fits YOLOv3's anchors to the data.",
    )
    batch_size: int | Literal["auto"] = option(
        32,
        "Images per update, over all processes and accumulated parts; auto is the largest power of two that fits into"
        " the memory. The learning rate does not depend on it.",
        1,
        1e6,
    )
    epochs: int = option(50, "Passes over the training images.", 1, 1e6)
    minutes: float | None = option(
        None, "Time of training on this machine, measured at its start, which determines the epochs.", 1e-3, 1e6
    )
    patience: int | None = option(
        None, "Epochs without a better validation metric after which training stops; by default none.", 1, 1e6
    )
    lr: float = option(5e-4, "Peak learning rate.", 0, 1e3)
    min_lr: float = option(1e-6, "Learning rate at the end.", 0, 1e3)
    head_lr: float = option(1.0, "Factor on the learning rate of everything but the backbone.", 0, 1e3)
    schedule: Literal["cosine", "step", "poly"] = option(
        "cosine",
        "How the learning rate falls to min_lr: along a cosine, by (1 - progress)^power, or by a factor of ten at each"
        " of the milestones.",
    )
    power: float = option(1.0, "Exponent of the poly schedule.", 0.01, 100)
    milestones: tuple[int, ...] = option(
        (), "Epochs after which the step schedule divides the learning rate by ten.", 1, 1e6
    )
    warmup_epochs: float = option(3, "Epochs of linear warm-up from warmup_lr.", 0, 1e6)
    warmup_lr: float = option(1e-6, "Learning rate of the first update.", 0, 1e3)
    cooldown_epochs: int = option(0, "Epochs at min_lr after the cosine, in addition to epochs.", 0, 1e6)
    optimizer: str = option("adamw", "timm's name of the optimiser.")
    weight_decay: float = option(0.05, "Weight decay; 1-D parameters and those the model names have none.", 0, 1e3)
    layer_decay: float | None = option(
        None, "Factor on the learning rate for each block further from the head; none by default.", 1e-6, 1
    )
    clip_grad: float | None = option(None, "Maximum norm of the gradient; none by default.", 1e-12, 1e12)
    accumulate: int = option(1, "Parts in which a batch is computed, to save memory.", 1, 1e6)
    recompute: bool = option(False, "Recompute activations in the backward pass, to save memory.")
    compile: bool = option(False, "Compile the network before training.")
    smoothing: float = option(0.1, "Label smoothing.", 0, 0.999)
    mixup: float = option(0.0, "Alpha of mixup; 0 is off.", 0, 1e3)
    cutmix: float = option(0.0, "Alpha of CutMix; 0 is off.", 0, 1e3)
    auto_augment: str = option("rand-m7-mstd0.5-inc1", "timm's name of an augmentation policy; empty for none.")
    color_jitter: float = option(0.0, "Strength of brightness, contrast and saturation changes.", 0, 1)
    erasing: float = option(0.1, "Probability of erasing a box.", 0, 1)
    flip: float = option(0.5, "Probability of a horizontal flip.", 0, 1)
    min_area: float = option(0.25, "Minimum share of the image in a random crop.", 0.01, 1)
    scale: tuple[float, float] = option(
        (1.0, 1.0),
        "Minimum and maximum factor by which an image is scaled before it is cropped to the input (large-scale"
        " jitter).",
        0.05,
        4,  # the enlarged image is held in memory
    )
    photometric: float = option(0.0, "Probability of changing brightness, contrast, saturation and hue.", 0, 1)
    expand: float = option(
        1.0, "Maximum factor by which the canvas grows around an image, with probability one half; 1 is off.", 1, 10
    )
    iou_crop: float = option(0.0, "Probability of a crop that keeps a minimum overlap with some object.", 0, 1)
    mosaic: float = option(0.0, "Probability of joining four images into one.", 0, 1)
    class_share: float = option(1.0, "Maximum share of one class in a crop; ten crops are tried.", 0.05, 1)
    ignore_index: int | None = option(None, "Mask value that is not a class, in addition to 255.", 0, 65535)
    zero_ignored: bool = option(False, "Mask value 0 is not a class and the first class is 1, as in ADE20K.")
    class_weights: str = option(
        "",
        "Weights of the classes in the loss: empty for none, balanced for median frequency over frequency, or numbers.",
    )
    hard_share: float = option(
        1.0,
        "Below 1, train only on pixels whose class has a probability below 0.7, and on at least this share of all"
        " pixels.",
        0.001,
        1,
    )
    dice: float = option(0.0, "Weight of the Dice loss, added to cross-entropy.", 0, 1e3)
    repeat_factor: float | None = option(
        None,
        "Share of the training images (t) below which images of a class are repeated in an epoch, by sqrt(t / share of"
        " the class) (repeat-factor sampling); by default none are.",
        1e-6,
        1,
    )
    drop_path: float = option(0.0, "Probability of skipping the last block; lower for earlier blocks.", 0, 0.999)
    dropout: float = option(0.0, "Dropout before the classifier.", 0, 0.999)
    ema: float | None = option(
        None, "Decay of the moving average of the weights, which is then evaluated and saved; none by default.", 0, 1
    )
    freeze: int = option(
        0,
        "Number of parts of the network, from the stem on, that are not trained; -1 freezes all but the head.",
        -1,
        1e6,
    )
    freeze_norm: bool = option(False, "Keep the backbone's batch norms fixed, as detectors train in small batches.")
    model_args: str = option("", "Keyword arguments of the backbone, for example recursion=random,mix_token=True.")
    pretrained: bool = option(
        False,
        "Start from published weights: timm's, downloaded from the hub, or the papers'.",
        shown="where there are some for the model, unless other weights are given",
    )
    checkpoint: str | None = option(None, "Start from this file of published weights.")
    accept_licence: str | None = option(
        None, "Licence of published weights that is not permissive, by its name, which you accept."
    )
    backbone_from: str | None = option(
        None, "Start the backbone from this run folder, of any task, with the same backbone."
    )
    teacher: str | None = option(None, "Run folder or timm name of the teacher, for distillation.")
    distillation: Literal["soft", "hard"] = option("soft", "Train on the teacher's probabilities, or on its top class.")
    distillation_weight: float = option(0.5, "Share of the teacher in the loss.", 0, 1)
    temperature: float = option(2.0, "Softmax temperature of the teacher's probabilities.", 1e-3, 1e3)
    val_share: float = option(
        0.2, "Share of each class that is held out where the data has no validation split.", 0.01, 0.9
    )
    val_seed: int | None = option(None, "Seed of the held-out images; by default that of the run.", 0, 2**32 - 1)
    unlabelled: Literal["leave-out", "negative"] = option(
        "leave-out", "Images that no annotation file mentions: omit them, or use them as images without objects."
    )
    crowds: Literal["ignore", "objects"] = option(
        "ignore",
        "Annotations with iscrowd 1: groups that are neither trained on nor counted, as in COCO, or single objects, as"
        " CVAT writes brush masks.",
    )
    operating_point: str | None = option(
        None,
        "Threshold of the score, chosen on the validation images at the end, that predictions and exports then use:"
        " precision=0.9, recall=0.8 or f1.",
    )
    eval_every: int = option(1, "Epochs between evaluations; the last epoch is always evaluated.", 1, 1e6)
    seed: int = option(0, "Seed of all randomness.", 0, 2**32 - 1)
    device: str = option("auto", "auto, cpu, cuda or mps.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Precision of the network; auto is bf16 where the device is fast at it."
    )
    deterministic: bool = option(
        False, "On a GPU, use deterministic kernels only, which are slower; a CPU always does."
    )
    sync_batchnorm: bool = option(
        False, "With several processes on GPUs, normalise by the statistics of the whole batch."
    )
    workers: int | None = option(None, "Processes that read images; by default chosen by the number of cores.", 0, 1024)
    save_seconds: float = option(60.0, "Seconds between checkpoints within an epoch.", 0, 1e9)
    tracker: tuple[Literal["tensorboard", "mlflow", "wandb", "trackio"], ...] = option(
        (), "Experiment trackers that get settings, metrics and pictures of predictions: docs/runs.md."
    )

    @property
    def held_out_by(self) -> int:
        """The seed by which images are held out."""
        return self.seed if self.val_seed is None else self.val_seed

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, as a card holds them."""
        return asdict(self)

    def override(self, **values: Any) -> "Settings":
        """A copy with some values replaced, checked like those of `complete`."""
        return replace(self, **{name: _check(name, value) for name, value in values.items()})


FINE_TUNING: dict[str, Any] = {"lr": 3e-4, "layer_decay": 0.75, "epochs": 20, "warmup_epochs": 1}
"""Defaults of training that starts from given weights."""
OPTIONS = {option.name: option for option in fields(Settings)}
TYPES: dict[str, Any] = get_type_hints(Settings)


def complete(
    preset: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    task: str = "classification",
    model: str | None = None,
    **given: Any,
) -> Settings:
    """All settings of a task, in the order of precedence that the module states.

    Without the name of the `model`, published weights are used only where `pretrained` is given. Raises `BadOption`
    for an unknown name, an option without effect for the task, or a value out of range.
    """
    kind = KINDS[task]
    if preset is not None and preset not in kind.presets:
        raise BadOption(f"no preset {preset!r}; available: {', '.join(kind.presets)}")
    stated = {**(recipe or {}), **given}
    foreign = {name for other in KINDS.values() for name in other.options} - kind.options
    for name in stated:
        if name not in OPTIONS:
            raise BadOption(f"no option {name!r}{did_you_mean(name, OPTIONS)} See: featherbone train --help")
        if name in foreign:
            raise BadOption(f"option {name} has no effect for {task}; omit it, or choose another task or recipe")
    own = stated.get("checkpoint") or stated.get("backbone_from")
    if stated.get("pretrained") is None and not own and model is not None and has_weights(model):
        stated["pretrained"] = True
    started = FINE_TUNING if recipe is None and (own or stated.get("pretrained")) else {}
    usual = {**kind.defaults, **head_defaults(kind.find_head(stated.get("head"))[1]), **started}
    settings = Settings().override(**{**usual, **(kind.presets[preset] if preset else {}), **stated})
    if settings.scale[0] > settings.scale[1]:
        raise BadOption(f"scale {settings.scale}: the minimum comes first")
    if settings.schedule == "step" and not settings.milestones:
        raise BadOption("schedule step needs milestones: the epochs after which the rate falls, for example 8 11 of 12")
    if stated.get("minutes") is not None and stated.get("epochs") is not None:
        raise BadOption("epochs and minutes both state how long to train; omit one")
    if settings.operating_point is not None:
        parse_target(settings.operating_point)
    for name in ("model_args", "head_args"):
        parse_keywords(getattr(settings, name), name)
    return settings


def head_defaults(head: Any) -> Mapping[str, Any]:
    """Settings whose defaults differ for a head (a class, or None)."""
    return getattr(head, "defaults", {})


def from_card(card: Mapping[str, Any], task: str, **given: Any) -> Settings:
    """The settings of a run from its card, which may be of an earlier version, with some replaced."""
    known = {name: value for name, value in card.items() if name in OPTIONS}
    return Settings().override(**{**KINDS[task].defaults, **known, **given})


def _check(name: str, value: Any) -> Any:
    """A value in the field's type. Raises `BadOption` for one of another type or out of range."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    kind, bounds = TYPES[name], OPTIONS[name].metadata["range"]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices and value not in choices:
        raise BadOption(f"{name} {value!r} is not one of {', '.join(choices)}")
    words = [word for part in get_args(kind) if get_origin(part) is Literal for word in get_args(part)]
    if bounds is not None and value not in words and not (value is None and type(None) in get_args(kind)):
        low, high = bounds
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
                raise BadOption(f"{name} {number!r} is outside {low:g} to {high:g}")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BadOption(f"{name} {value!r}: {error}; see: featherbone train --help") from None


def command_options() -> Any:
    """The settings as a `TypedDict` for the command line: only what is given is passed on, defaults are shown."""
    annotations = {
        name: Annotated[TYPES[name], tyro.conf.arg(help=effect(name), help_behavior_hint=f"(default: {default(name)})")]
        for name in OPTIONS
    }
    return TypedDict("command_options", annotations, total=False)  # type: ignore[operator]


def effect(name: str) -> str:
    """What a setting does, and for which tasks where that is not all of them."""
    tasks = [kind.name for kind in KINDS.values() if name in kind.options]
    return OPTIONS[name].metadata["help"] + (f" For {_listed(tasks)} only." if tasks else "")


def default(name: str) -> str:
    """The default of a setting and those that differ: `32; for detection, instance 8; from given weights 16`."""
    own: dict[str, list[str]] = {}
    for kind in KINDS.values():
        if name in kind.defaults:
            own.setdefault(in_words(kind.defaults[name]), []).append(kind.name)
        for head, made in kind.heads.items():
            if name in head_defaults(made):
                own.setdefault(in_words(head_defaults(made)[name]), []).append(head)
    others = "".join(f"; for {_listed(tasks)} {value}" for value, tasks in own.items())
    if name in FINE_TUNING:
        others += f"; from given weights {in_words(FINE_TUNING[name])}"
    return f"{OPTIONS[name].metadata['default']}{others}"


def _listed(tasks: Sequence[str]) -> str:
    others = [task for task in KINDS if task not in tasks]
    return f"all tasks but {' and '.join(others)}" if len(others) <= 2 else ", ".join(tasks)
