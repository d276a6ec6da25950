"""The papers' published detectors and segmentation models by name, and their files as runs.

A file of mmdetection or mmsegmentation holds `state_dict` beside its configuration, which is not read. Weights keep
their values; `NAMES` maps their names, and the shapes in the file determine the options of the network.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.backbones import lightvit, lit
from featherbone.backbones.checkpoints import ARGUMENTS
from featherbone.data.frames import OPENCV
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadCheckpoint, BadOption, BadRun, UnknownModel, did_you_mean
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import Card, versions
from featherbone.tasks.run import build_task, fit, save_weights
from featherbone.tasks.task import KINDS

LIT = "https://github.com/ziplab/LIT/releases/download/v2.0"
DRIVE = "https://drive.google.com/file/d"
"""The page of a file, where only a person can download it."""
LICENCE = "not stated; code is under apache-2.0. Look it up before you distribute the model"
WITHOUT_CATEGORY = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Numbers up to 90 that no category of COCO has."""


@dataclass(frozen=True)
class DataNames:
    """The classes of a public data set, and how its files are read."""

    file: str
    image_size: tuple[int, int]
    """Shorter and longer side of the published test."""
    multiple: int
    """Of which the sides of an input are multiples."""
    category_ids: tuple[int, ...] | None = None
    zero_ignored: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of a model's outputs."""
        return tuple((Path(__file__).parent / "class_names" / self.file).read_text().splitlines())


COCO = DataNames("coco.txt", (800, 1333), 32, tuple(i for i in range(1, 91) if i not in WITHOUT_CATEGORY))
ADE20K = DataNames("ade20k.txt", (512, 2048), 1, zero_ignored=True)


@dataclass(frozen=True)
class PublishedModel:
    """A model that a paper's authors published."""

    backbone: str
    head: str
    data: DataNames
    address: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """Published metrics in per cent, at the published test size."""
    size: int | None = None
    """Bytes of the file, where known."""
    sha256: str | None = None
    licence: str = LICENCE
    """Of the weights."""


def _lit(size: str, head: str, data: DataNames, file: str, **figures: float) -> PublishedModel:
    return PublishedModel(f"lit_{size}", head, data, f"{LIT}/{file}.pth", figures)


def _lightvit(size: str, drive: str, box: float, mask: float) -> PublishedModel:
    return PublishedModel(f"lightvit_{size}", "mask_rcnn", COCO, f"{DRIVE}/{drive}/view", {"AP": box, "mask_AP": mask})


PUBLISHED: dict[str, PublishedModel] = {
    "lit_tiny.retinanet_coco": _lit("tiny", "retinanet", COCO, "retina_lit_ti", AP=41.6),
    "lit_small.retinanet_coco": _lit("small", "retinanet", COCO, "retina_lit_s", AP=41.6),
    "lit_tiny.mask_rcnn_coco": _lit("tiny", "mask_rcnn", COCO, "mask_rcnn_lit_ti", AP=42.0, mask_AP=39.1),
    "lit_small.mask_rcnn_coco": _lit("small", "mask_rcnn", COCO, "mask_rcnn_lit_s", AP=42.9, mask_AP=39.6),
    "lit_tiny.semantic_fpn_ade20k": _lit("tiny", "semantic_fpn", ADE20K, "sem_fpn_lit_ti", mIoU=41.3),
    "lit_small.semantic_fpn_ade20k": _lit("small", "semantic_fpn", ADE20K, "sem_fpn_lit_s", mIoU=41.7),
    "lightvit_tiny.mask_rcnn_coco": _lightvit("tiny", "15sSit0VpcsmL3Pr-fdjM6nRdmSZre0zh", 37.8, 35.9),
    "lightvit_small.mask_rcnn_coco": _lightvit("small", "146RWYNShe5IrltvmgWoelj27LaRQBcXE", 40.0, 37.4),
    "lightvit_base.mask_rcnn_coco": _lightvit("base", "19IHkVO_Qy__NHe0syrUpIKrhGNoS9VCd", 41.7, 38.8),
    "lightvit_tiny.mask_rcnn_coco_3x": _lightvit("tiny", "1EfhtuCVCoprbwb_6W-32z_po4hGvAzu8", 41.5, 38.4),
    "lightvit_small.mask_rcnn_coco_3x": _lightvit("small", "16l5lXYwz3Anx28ncqPfc3mir-nyZyRd6", 43.2, 39.9),
    "lightvit_base.mask_rcnn_coco_3x": _lightvit("base", "1hLKdemruEKW2DO0227ZNm1zSZCqMWVfi", 45.0, 41.2),
}
"""Published models by name."""

NAMES: tuple[tuple[str, str], ...] = (
    (r"backbone\.norm(\d)", r"pyramid.norms.\1"),
    (r"neck\.lateral_convs\.(\d)\.conv", r"head.fpn.laterals.\1"),
    (r"neck\.extra_trans_convs\.(\d)\.conv", r"head.fpn.finer.\1"),
    (r"neck\.extra_fpn_convs\.(\d)\.conv", r"head.fpn.outputs.\1"),
    (r"bbox_head\.retina_cls", "head.classes.last"),
    (r"bbox_head\.retina_reg", "head.boxes.last"),
    (r"rpn_head\.rpn_conv", "head.rpn.shared"),
    (r"rpn_head\.rpn_cls", "head.rpn.classes"),
    (r"rpn_head\.rpn_reg", "head.rpn.boxes"),
    (r"roi_head\.bbox_head\.shared_fcs\.0", "head.rois.box.first"),
    (r"roi_head\.bbox_head\.shared_fcs\.1", "head.rois.box.second"),
    (r"roi_head\.bbox_head\.fc_cls", "head.rois.box.classes"),
    (r"roi_head\.bbox_head\.fc_reg", "head.rois.box.boxes"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv", r"head.rois.mask.convolutions.\1"),
    (r"roi_head\.mask_head\.upsample", "head.rois.mask.finer"),
    (r"roi_head\.mask_head\.conv_logits", "head.rois.mask.classes"),
    (r"decode_head\.conv_seg", "head.branch.classify"),
)
"""Patterns of published module names, and ours; `_our_name` has those that count."""


def find_published(name: str) -> PublishedModel:
    """The published model of that name. Raises `UnknownModel` with near matches."""
    if name not in PUBLISHED:
        raise UnknownModel(f"no published model {name!r}{did_you_mean(name, PUBLISHED)}: {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def convert_file(
    file: Path, name: str, out: Path, image_size: tuple[int, int] | None = None, fixed: bool = False
) -> Card:
    """Write the published weights in `file` as a run folder of the model `name`, and return its card.

    `image_size` are the shorter and the longer side to which images are scaled, by default those of the published
    test; with `fixed`, height and width of one input for all images. Raises `BadCheckpoint` naming what does not fit.
    """
    weights = read_published(file)
    card = published_card(name, weights, image_size, fixed)
    task = build_task(card)
    try:
        fit(task, our_weights(weights, task), file)
    except BadRun as error:
        raise BadCheckpoint(f"{error}; give the file of {name}, {PUBLISHED[name].address}") from None
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out, task)
    card.write(out)
    return card


def published_card(
    name: str, weights: Mapping[str, Tensor], image_size: tuple[int, int] | None = None, fixed: bool = False
) -> Card:
    """The card of a published model with these weights; other arguments as in `convert_file`."""
    model = find_published(name)
    data = model.data
    task = next(kind.name for kind in KINDS.values() if model.head in kind.heads)
    reading = {"val_share": 0.2, "seed": 0, "ignore_index": None, "unlabelled": "negative"}
    return Card(
        task,
        model.backbone,
        data.classes,
        _preprocessing(model, image_size, fixed),
        model_args=_model_args(model.backbone, weights),
        head=model.head,
        head_args={"relu": False} if model.head == "retinanet" else {},
        data={"category_ids": list(data.category_ids)} if data.category_ids else {},
        settings={**reading, "zero_ignored": data.zero_ignored, "published": name},
        weights_licence=model.licence,
        versions=versions(),
    )


def our_weights(weights: Mapping[str, Tensor], task: Any) -> dict[str, Tensor]:
    """Published weights by the names of `task`; a name that fits no rule stays as it is."""
    family = lightvit if isinstance(task.backbone, lightvit.LightViT) else lit
    inside = {key: value for key, value in weights.items() if re.match(r"backbone\.(?!norm\d\.)", key)}
    backbone = {key.removeprefix("backbone."): value for key, value in inside.items()}
    backbone = family.checkpoint_filter_fn(backbone, task.backbone)
    rest = {key: value for key, value in weights.items() if key not in inside}
    return {f"pyramid.backbone.{key}": value for key, value in backbone.items()} | _rename(rest)


class Unread:
    """Takes the place of every class and function that a checkpoint names, but those of tensors: an empty dictionary.

    It must be a plain one, as torch's safe loader fills no others.
    """

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def read_published(file: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint of mmdetection or mmsegmentation. Nothing in it is executed. Raises `BadCheckpoint`.

    Moving averages (`ema_`), which these tools keep beside the weights that they test, are omitted.
    """
    if not file.is_file():
        raise BadOption(f"{file}: there is no such checkpoint file")
    try:
        with torch.serialization.safe_globals(ARGUMENTS):
            others = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        with torch.serialization.safe_globals([*ARGUMENTS, *((Unread, name) for name in others)]):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever a damaged file leads to
        raise BadCheckpoint(f"{file}: not a checkpoint that torch can read ({error}); download it again") from None
    state = found.get("state_dict", found) if isinstance(found, dict) else {}
    weights = {name.removeprefix("module."): x for name, x in state.items() if isinstance(x, Tensor)}
    weights = {name: x for name, x in weights.items() if not name.startswith("ema_")}
    if not any(name.startswith("backbone.") for name in weights):
        raise BadCheckpoint(f"{file}: no weights of a detector or segmentation model; for a classifier: --checkpoint")
    return weights


def _preprocessing(model: PublishedModel, image_size: tuple[int, int] | None, fixed: bool) -> Preprocessing:
    usual = preprocessing_of(model.backbone, image_size or model.data.image_size)
    if fixed:
        return replace(usual, crop=1.0, interpolation="bilinear", rule="fit")
    if usual.height > usual.width:
        raise BadOption(f"image_size {image_size}: give the shorter side first")
    return replace(usual, crop=1.0, interpolation=OPENCV, rule="sides", multiple=model.data.multiple)


def _model_args(backbone: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options of a backbone that its published weights determine, and those of all published dense models."""
    if "backbone.global_token" in weights:
        return {"num_global_tokens": weights["backbone.global_token"].shape[1], "image_only": True}
    if backbone == "lit_tiny":
        return {"class_token": False, "positions": True, "global_pool": "avg"}
    tables = [x for name, x in weights.items() if name.startswith("backbone.layers.2.") and name.endswith("bias_table")]
    if not tables:
        raise BadCheckpoint("there are no position biases of LIT-S in the file; give the file of this model")
    side = (round(len(tables[0]) ** 0.5) + 1) // 2  # of the map of stride 16
    return {"table_size": 16 * side, "dense_norms": [i for i in range(4) if f"backbone.norm{i}.weight" in weights]}


def _rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of norms, necks and heads by our names; an unknown name is kept."""
    first = sum(name.startswith("neck.extra_fpn_convs.") for name in weights) // 2
    laterals = sum(name.startswith("neck.lateral_convs.") for name in weights) // 2
    convs = sum(name.startswith("bbox_head.cls_convs.") for name in weights) // 2

    def fpn(found: re.Match[str]) -> str:
        index = int(found[1])
        return f"head.fpn.coarser.{index - laterals}" if index >= laterals else f"head.fpn.outputs.{index + first}"

    counted: tuple[tuple[str, Any], ...] = (
        (r"neck\.fpn_convs\.(\d)\.conv", fpn),
        (r"bbox_head\.cls_convs\.(\d)\.conv", lambda found: f"head.classes.{2 * int(found[1])}"),
        (r"bbox_head\.reg_convs\.(\d)\.conv", lambda found: f"head.boxes.{2 * int(found[1])}"),
        (r"decode_head\.scale_heads\.(\d)\.(\d)\.(conv|bn)", _branch),
        (r"head\.(classes|boxes)\.last", rf"head.\1.{2 * convs}"),
    )
    ours = {}
    for name, value in weights.items():
        for pattern, replacement in (*NAMES, *counted):
            name = re.sub(rf"^{pattern}\b", replacement, name)
        ours[name] = value
    return ours


def _branch(found: re.Match[str]) -> str:
    return f"head.branch.paths.{found[1]}.{int(found[2]) // 2}.{int(found[3] == 'bn')}"
