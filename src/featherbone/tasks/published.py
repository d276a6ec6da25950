"""Published models by name: the papers' detectors and segmentation models, and the ImageNet classifiers of timm.

A name stands wherever a command takes a run, and a file becomes a run by `convert_file`.

A file of mmdetection or mmsegmentation holds `state_dict` beside its configuration, which is not read. Weights keep
their values; `NAMES` maps their names, and the shapes in the file determine the options of the network.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models import get_pretrained_cfg, split_model_name_tag
from torch import Tensor

from featherbone.backbones import lightvit, lit
from featherbone.backbones.checkpoints import ARGUMENTS, published_file
from featherbone.backbones.published import Checkpoint, drive, github
from featherbone.data.frames import OPENCV
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadCheckpoint, BadOption, BadRun, UnknownModel, did_you_mean
from featherbone.hub import is_repository
from featherbone.tasks.backbone import (
    MAX_TEXT,
    full_name,
    has_weights,
    licence_of,
    preprocessing_of,
    require_licence,
    weights_licence,
)
from featherbone.tasks.card import Card, versions
from featherbone.tasks.run import build_task, fit, load_task, save_weights, vary
from featherbone.tasks.task import KINDS
from featherbone.tasks.variant import split_variant

WITHOUT_CATEGORY = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Numbers up to 90 that no category of COCO has."""


READING: dict[str, Any] = {"val_share": 0.2, "seed": 0, "ignore_index": None, "unlabelled": "negative"}
"""How data is read on which a published model is measured."""


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
    checkpoint: Checkpoint
    figures: Mapping[str, float]
    """Published metrics in per cent, at the published test size."""

    @property
    def task(self) -> str:
        """Name of the head's task."""
        return next(kind.name for kind in KINDS.values() if self.head in kind.heads)


def _lit(size: str, head: str, data: DataNames, file: str, **figures: float) -> PublishedModel:
    return PublishedModel(f"lit_{size}", head, data, github("v2.0", file), figures)


def _lightvit(size: str, number: str, box: float, mask: float) -> PublishedModel:
    return PublishedModel(f"lightvit_{size}", "mask_rcnn", COCO, drive(number), {"AP": box, "mask_AP": mask})


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
"""Published detectors and segmentation models by name; those of classifiers are the names of their backbones."""

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


def is_classifier(name: str) -> bool:
    """Whether timm, with our backbones, knows the name, and its tag of weights if it has one."""
    architecture, tag = split_model_name_tag(name)
    return bool(timm.is_model(architecture)) and (not tag or name in timm.list_pretrained(f"{architecture}.*"))


def is_published(run: str | Path) -> bool:
    """Whether a command that takes a run was given the name of a model; what exists as a path is a path."""
    return not Path(run).exists() and (str(run) in PUBLISHED or is_classifier(str(run)))


def load_model(run: str | Path, accept_licence: str | None = None) -> tuple[Card, Any]:
    """Card and model of a run folder, a repository on the hub, or a published model by its name, in evaluation mode.

    With a suffix, as in `lvt_run@recursion=1`, it is a variant of the model. Raises `BadRun` with near matches,
    `BadOption` as `vary`, `BadLicence`, and `BadCheckpoint` where weights are not available.
    """
    name, arguments = split_variant(run)
    if Path(name).exists() or is_repository(Path(name)):
        return load_task(Path(run))
    if name in PUBLISHED:
        checkpoint = PUBLISHED[name].checkpoint
        require_licence(name, checkpoint.licence, accept_licence)
        return open_file(published_file(name, checkpoint), name, arguments=arguments)
    if is_classifier(name):
        if has_weights(name):
            require_licence(name, licence_of(name), accept_licence)
        card = vary(classifier_card(name), arguments)
        return card, build_task(card, pretrained=True).eval()
    tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    near = did_you_mean(name, (*PUBLISHED, *timm.list_models(), *tagged)) if len(name) < MAX_TEXT else ""
    raise BadRun(
        f"{name}: not a run folder or exported file, for there is no such path, and no published model{near}; give the "
        f"path of a run, a name that featherbone models lists, or one of {', '.join(PUBLISHED)}"
    )


def convert_file(
    file: Path, name: str, out: Path, image_size: tuple[int, int] | None = None, fixed: bool = False
) -> Card:
    """Write the published weights in `file` as a run folder of the model `name`, and return its card.

    `image_size` are the shorter and the longer side to which images are scaled, by default those of the published
    test; with `fixed`, or for a classifier, height and width of one input for all images. Raises `BadCheckpoint` naming
    what does not fit.
    """
    card, task = open_file(file, name, image_size, fixed)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out, task)
    card.write(out)
    return card


def open_file(
    file: Path,
    name: str,
    image_size: tuple[int, int] | None = None,
    fixed: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[Card, Any]:
    """Card and model of the published weights in `file`, with other `arguments` of the backbone as `vary` takes them.

    The rest is as in `convert_file`.
    """
    if name not in PUBLISHED and is_classifier(name):
        card = vary(classifier_card(name, image_size), arguments or {})
        licence = weights_licence(name, True, str(file))
        card = replace(card, weights_licence=licence, starting_weights=file.name)
        return card, build_task(card, True, str(file)).eval()
    weights = read_published(file)
    card = vary(published_card(name, weights, image_size, fixed), arguments or {})
    with torch.random.fork_rng(devices=()):  # initial weights are drawn, then replaced
        task = build_task(card)
    try:
        fit(task, our_weights(weights, task), file)
    except BadRun as error:
        raise BadCheckpoint(f"{error}; give the file of {name}, {PUBLISHED[name].checkpoint.address}") from None
    return card, task.eval()


def published_card(
    name: str, weights: Mapping[str, Tensor], image_size: tuple[int, int] | None = None, fixed: bool = False
) -> Card:
    """The card of a published detector or segmentation model with these weights; other arguments as in `convert_file`.

    Raises `UnknownModel` with near matches.
    """
    if name not in PUBLISHED:
        near = did_you_mean(name, (*PUBLISHED, *timm.list_models()))
        raise UnknownModel(f"no published model {name!r}{near}: {', '.join(PUBLISHED)}, or a timm model")
    model, data = PUBLISHED[name], PUBLISHED[name].data
    return Card(
        model.task,
        model.backbone,
        data.classes,
        _preprocessing(model, image_size, fixed),
        model_args=_model_args(model.backbone, weights),
        head=model.head,
        head_args={"relu": False} if model.head == "retinanet" else {},
        data={"category_ids": list(data.category_ids)} if data.category_ids else {},
        settings={**READING, "zero_ignored": data.zero_ignored, "published": name},
        weights_licence=model.checkpoint.licence,
        starting_weights=name,
        versions=versions(),
    )


def classifier_card(name: str, image_size: tuple[int, int] | None = None) -> Card:
    """The card of a timm model with its published ImageNet weights. Raises `BadCheckpoint` where they have no classes.

    Class names are ImageNet's words; `synsets` among the data are its numbers, by which data sets name their folders.
    """
    preprocessing, subset = preprocessing_of(name, image_size), imagenet_subset(name)
    if subset is None:
        raise BadCheckpoint(
            f"the weights of {name} are not those of an ImageNet classifier; train the model on your images: "
            f"featherbone train --data DIR --model {name}"
        )
    info = ImageNetInfo(subset)
    return Card(
        "classification",
        name,
        imagenet_classes(info),
        preprocessing,
        data={"synsets": list(info.label_names())},
        settings={**READING, "zero_ignored": False, "published": name},
        weights_licence=weights_licence(name, True, None),
        starting_weights=full_name(name),
        versions=versions(),
    )


def imagenet_subset(name: str) -> str | None:
    """The classes of a backbone's published weights, by timm's name of the data set; None for other classes or none."""
    return infer_imagenet_subset({"num_classes": get_pretrained_cfg(name).num_classes})


def imagenet_classes(info: ImageNetInfo) -> tuple[str, ...]:
    """The first word of each class; where several classes have it, all words, their meaning, or its number."""
    rows = zip(info.label_descriptions(), info.label_descriptions(detailed=True), info.label_names(), strict=True)
    forms = [(words.partition(", ")[0], words, meaning, f"{words} ({synset})") for words, meaning, synset in rows]
    counts = Counter(form for row in forms for form in dict.fromkeys(row))
    return tuple(next(form for form in row if counts[form] == 1) for row in forms)


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
