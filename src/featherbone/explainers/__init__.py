"""What a model looked at: pictures of the attention and feature maps of one image, and a page of them all.

The four families are explained in their papers' terms; other timm backbones by Grad-CAM, plain ViTs by
attention rollout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.backbones.lightvit import LightViT
from featherbone.backbones.lit import LIT
from featherbone.backbones.lvt import LVT
from featherbone.backbones.xformer import XFormer
from featherbone.data.bands import read_input, to_picture
from featherbone.data.transforms import Preprocessing
from featherbone.devices import find_device
from featherbone.draw import save_picture
from featherbone.errors import BadOption
from featherbone.explainers.cam import cam_sections
from featherbone.explainers.figures import Section, view_section
from featherbone.explainers.lightvit import lightvit_sections
from featherbone.explainers.lit import lit_sections
from featherbone.explainers.lvt import lvt_sections
from featherbone.explainers.rollout import is_plain_vit, rollout_sections
from featherbone.explainers.view import View, see
from featherbone.explainers.xformer import xformer_sections
from featherbone.report import render
from featherbone.results import Classification
from featherbone.tasks.backbone import (
    build_backbone,
    full_name,
    has_weights,
    licence_of,
    preprocessing_of,
    require_architecture,
    require_licence,
    require_model,
)
from featherbone.tasks.classification import Classifier
from featherbone.tasks.published import PUBLISHED, imagenet_subset, is_published, load_model
from featherbone.tasks.variant import split_variant, suffix_of

FAMILIES: tuple[tuple[type[nn.Module], Callable[[Any, Tensor, View], list[Section]]], ...] = (
    (LVT, lvt_sections),
    (LIT, lit_sections),
    (LightViT, lightvit_sections),
    (XFormer, xformer_sections),
)
PAGE = "explain.html"


@dataclass(frozen=True)
class ExplainResult:
    """The files that explain one image."""

    page: Path
    """One self-contained HTML file."""
    pictures: tuple[Path, ...]
    """The page's pictures as PNG."""
    record: Classification | None
    """Prediction of a run; None for a backbone by name."""

    def to_json(self) -> dict[str, Any]:
        record = None if self.record is None else self.record.to_json()
        return {"page": str(self.page), "pictures": [str(path) for path in self.pictures], "record": record}

    def __str__(self) -> str:
        prediction = "" if self.record is None else f"{self.record.name} {self.record.score:.1%}\n"
        return f"{prediction}{len(self.pictures)} pictures in {self.page.parent}\npage    {self.page}"


@dataclass(frozen=True)
class Subject:
    """A network to explain."""

    name: str
    net: Any  # a timm model in evaluation mode
    preprocessing: Preprocessing
    weights: str  # origin of the weights, in the words of the page
    task: Classifier | None = None  # the task of a run; None for a backbone by name
    warning: str = ""  # shown at the top of the page


def explain(
    model: str | Path,
    image: Path,
    *,
    out: Path,
    point: tuple[float, float] | None = None,
    pretrained: bool = True,
    device: str = "auto",
    accept_licence: str | None = None,
) -> ExplainResult:
    """Draw what a model looked at in `image`: pictures and the page `explain.html` in the folder `out`.

    `model` is a run folder or a timm name, with published weights wherever there are any; without `pretrained`, or
    where there are none, with random ones. `point` (x, y), in pixels of the image, is the query whose attention is
    shown; by default the centre. Raises `BadOption` for a point outside the network's input and for a network without
    a map to show, `BadImage`, and the errors of `load_model`.
    """
    subject = find_subject(model, pretrained, accept_licence)
    own = read_input(image, subject.preprocessing.channels)
    view = see(to_picture(own), subject.preprocessing, point)
    x = subject.preprocessing.transform()(own)[None].to(find_device(device))
    subject.net.to(x.device)
    record = None
    if subject.task is not None:
        with torch.no_grad():
            record = subject.task.decoder(subject.task(x), [])[0]
    sections = [view_section(view), *explain_net(subject, x, view)]
    page, pictures = Path(out) / PAGE, []
    for shown in (shown for section in sections for shown in section.pictures):
        pictures.append(page.with_name(f"{shown.name}.png"))
        save_picture(shown.image, pictures[-1])
    render(
        PAGE,
        page,
        model=subject.name,
        subtitle=f"{Path(image).name}, with {subject.weights}",
        warning=subject.warning,
        record=record,
        sections=sections,
    )
    return ExplainResult(page, tuple(pictures), record)


def find_subject(model: str | Path, pretrained: bool = True, accept_licence: str | None = None) -> Subject:
    """The network of a run folder or of a published model. Raises `BadOption`, and the errors of `load_model`."""
    name, arguments = split_variant(model)
    named, suffix = is_published(name), suffix_of(model)
    if not pretrained and not named:
        raise BadOption(f"{model} is a run and has its own weights; omit --no-pretrained")
    if name in PUBLISHED and named:
        raise BadOption(f"{model} is a model for {PUBLISHED[name].task}; explain takes classifiers in this version")
    if named:
        require_model(name)
    start = named and pretrained and has_weights(name)
    if not named or (start and imagenet_subset(name)):
        card, task = load_model(model, accept_licence)
        if card.task != "classification":
            raise BadOption(f"{model} is a run for {card.task}; explain takes runs for classification in this version")
        weights = f"the weights {card.starting_weights}" if named else f"the weights of run {Path(name).resolve().name}"
        return Subject(card.backbone + suffix, task.backbone, card.preprocessing, weights, task)
    if start:
        require_licence(name, licence_of(name), accept_licence)
    require_architecture(arguments, "model_args")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_backbone(name, pretrained=start, **arguments).eval()
    if start:
        return Subject(name + suffix, net, preprocessing_of(name), f"the weights {full_name(name)}")
    reason = "" if has_weights(name) else f"There are no weights of {name} to use. "
    warning = (
        "These weights are untrained. The maps below show how the mechanism works, not what matters in the picture. "
        f"{reason}Pass a run folder{', or omit --no-pretrained' if not reason else ''}."
    )
    return Subject(name + suffix, net, preprocessing_of(name), "untrained weights", warning=warning)


def explain_net(subject: Subject, x: Tensor, view: View) -> list[Section]:
    """All sections for one network input (1, C, H, W). Raises `BadOption` if there is nothing to show."""
    if is_plain_vit(subject.net):
        return rollout_sections(subject.net, x, view)
    found = cam_sections(subject.net, x, view, None if subject.task is None else subject.task.classes)
    for family, sections in FAMILIES:
        if isinstance(subject.net, family):
            return [*found, *sections(subject.net, x, view)]
    if not found:
        raise BadOption(
            f"{subject.name} has nothing to draw: it is not a plain ViT, and no class score depends on its last "
            "feature map (it reads only a class token, or its classifier is zero); explain supports lvt, lit, "
            "lightvit, xformer (a reconstruction), plain ViTs, and networks that pool a feature map, such as resnet18"
        )
    return found
