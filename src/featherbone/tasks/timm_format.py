"""timm's format on the hub: `config.json` and `model.safetensors`, the weights of a classifier's backbone."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta
from timm.models import split_model_name_tag

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadRun
from featherbone.files import parse_value, read_json, write_json
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import MAX_CLASSES, Card

CONFIG, TIMM_WEIGHTS = "config.json", "model.safetensors"
KEPT = ("first_conv", "classifier", "pool_size", "fixed_input_size")
"""What timm must know of a backbone to load its weights."""
REMEDY = "give a repository of a timm classifier for colour images"


class Input(TypedDict, total=False):
    """`pretrained_cfg` in `config.json`, as far as it is read."""

    input_size: tuple[int, int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    license: str | None


Index = Annotated[str, Meta(pattern=r"^\d{1,6}$")]


class Config(TypedDict):
    """`config.json`, as far as it is read."""

    architecture: str
    num_classes: Annotated[int, Meta(ge=1, le=MAX_CLASSES)]
    label_names: NotRequired[list[str] | dict[Index, str] | None]
    model_args: NotRequired[dict[str, Any]]
    pretrained_cfg: NotRequired[Input]


def write_config(folder: Path, card: Card, backbone: Any) -> None:
    """Write a classifier's `config.json`, from which `timm.create_model("hf-hub:...")` builds the backbone."""
    p = card.preprocessing
    given = {name: getattr(p, name) for name in ("interpolation", "mean", "std")}
    given |= {"input_size": (p.num_channels, p.height, p.width), "crop_pct": p.crop, "crop_mode": "center"}
    given |= {name: backbone.pretrained_cfg.get(name) for name in KEPT}
    values = {
        "architecture": split_model_name_tag(card.backbone)[0],
        "num_classes": len(card.classes),
        "num_features": backbone.num_features,
        "label_names": card.classes,
        "model_args": card.model_args,
        "pretrained_cfg": given,
    }
    write_json(folder / CONFIG, values)


def read_config(folder: Path) -> Card:
    """The card of a classifier in timm's format. Raises `BadRun` where `config.json` describes none."""
    path = str(folder / CONFIG)
    values = read_json(folder / CONFIG, path, dict[str, Any], BadRun, REMEDY)
    config = parse_value(values, path, Config, BadRun, REMEDY)
    cfg = parse_value(values.get("pretrained_cfg", values), f"{path}, pretrained_cfg", Input, BadRun, REMEDY)
    usual = preprocessing_of(config["architecture"])
    channels, height, width = cfg.get("input_size", (3, usual.height, usual.width))
    if channels != 3 or cfg.get("crop_mode", "center") != "center":
        raise BadRun(f"{path}: {channels} channels and crop_mode {cfg.get('crop_mode')}, not 3 and center; {REMEDY}")
    names, count = config.get("label_names") or {}, config["num_classes"]
    named = dict(enumerate(names)) if isinstance(names, list) else {int(key): name for key, name in names.items()}
    often = Counter(named.values())
    classes = [named.get(i, str(i)) for i in range(max(count, len(names)))]
    card = Card(
        "classification",
        config["architecture"],
        tuple(f"{name} ({i})" if often[name] > 1 else name for i, name in enumerate(classes)),
        Preprocessing(
            height,
            width,
            cfg.get("crop_pct", usual.crop),
            cfg.get("interpolation", usual.interpolation),
            cfg.get("mean", usual.mean),
            cfg.get("std", usual.std),
        ),
        model_args=config.get("model_args", {}),
        weights_licence=cfg.get("license") or "not stated; look it up before you distribute the model",
    )
    if fault := card.fault() or (len(classes) > count and f"{len(classes)} label_names of {count} classes"):
        raise BadRun(f"{path}: {fault}; {REMEDY}")
    return card
