"""What a model looked at: what each part of its prediction depended on, its attention and features, on one page.

The parts of a prediction, of every task and backbone, are explained by HiResCAM; the four families also in their
papers' terms, and plain ViTs by attention rollout.
"""

from collections.abc import Callable, Sequence
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
from featherbone.explainers.figures import Section, view_section
from featherbone.explainers.items import MAX_NAMED, ItemMap, describe, explain_items
from featherbone.explainers.lightvit import lightvit_sections
from featherbone.explainers.lit import lit_sections
from featherbone.explainers.lvt import lvt_sections
from featherbone.explainers.rollout import is_plain_vit, rollout_sections
from featherbone.explainers.view import View, see
from featherbone.explainers.xformer import xformer_sections
from featherbone.report import render
from featherbone.results import Record
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
from featherbone.tasks.inference import Inference
from featherbone.tasks.kind import Item
from featherbone.tasks.published import PUBLISHED, imagenet_subset, is_published, load_model
from featherbone.tasks.task import KINDS, kind_of
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
    record: Record | None
    """Prediction of a run; None for a backbone by name."""
    items: tuple[ItemMap, ...] = ()
    """The parts of the prediction that were explained."""

    def to_json(self) -> dict[str, Any]:
        files = {"page": str(self.page), "pictures": [str(path) for path in self.pictures]}
        return {
            **files,
            "record": None if self.record is None else self.record.to_json(),
            "items": [item.to_json() for item in self.items],
        }

    def __str__(self) -> str:
        rows = [str(item) for item in self.items] or ["nothing was found"] * (self.record is not None)
        return "\n".join([*rows, f"{len(self.pictures)} pictures in {self.page.parent}", f"page    {self.page}"])


@dataclass(frozen=True)
class Subject:
    """A network to explain."""

    name: str
    net: Any  # a timm model in evaluation mode
    preprocessing: Preprocessing
    weights: str  # origin of the weights, in the words of the page
    task: Any = None  # that of a run, or a classifier; None for a backbone without a classifier
    score: float | None = None  # above which results are shown
    named: bool = False  # whether the classes have names
    warning: str = ""  # shown at the top of the page


def explain(
    model: str | Path,
    image: Path,
    *,
    out: Path,
    items: Sequence[str] = (),
    score: float | None = None,
    point: tuple[float, float] | None = None,
    pretrained: bool = True,
    device: str = "auto",
    accept_licence: str | None = None,
) -> ExplainResult:
    """Draw what a model looked at in `image`: pictures and the page `explain.html` in the folder `out`.

    `model` is a run folder, the name of a published model, or a timm name, with published weights wherever there are
    any; without `pretrained`, or where there are none, with random ones. `items` are the parts of the prediction to
    explain, by number or class, by default the first; those with a score above `score`. `point` (x, y), in pixels of
    the image, is the query whose attention is shown; by default the centre. Raises `BadOption` for an unknown item, a
    point outside the network's input and a network without a map to show, `BadImage`, and the errors of `load_model`.
    """
    subject = find_subject(model, pretrained, accept_licence)
    own = read_input(image, subject.preprocessing.channels)
    view = see(to_picture(own), subject.preprocessing, point)
    x = subject.preprocessing.transform()(own)[None].to(find_device(device))
    (subject.task or subject.net).to(x.device)
    page, pictures = Path(out) / PAGE, []
    record, listed, explained, sections = None, list[Item](), list[ItemMap](), list[Section]()
    if subject.task is not None:
        kind = KINDS[subject.task.decoder.kind]
        Inference(score).require(kind)
        score = subject.score if score is None else score
        given = subject.task, kind, subject.preprocessing, score, own, x, view, items
        record, listed, drawn, section = explain_items(*given)
        sections += [] if section is None else [section]
        explained = [
            ItemMap(number, listed[number - 1], None if picture is None else page.with_name(f"{picture.name}.png"))
            for number, picture in drawn.items()
        ]
    if not (found := explain_net(subject, x, view)) and not sections:
        raise BadOption(
            f"{subject.name} has nothing to draw: it is not a plain ViT, and no class score depends on its last "
            "feature map (it reads only a class token, or its classifier is zero); explain supports lvt, lit, "
            "lightvit, xformer (a reconstruction), plain ViTs, and networks that pool a feature map, such as resnet18"
        )
    sections += [view_section(view), *found]
    for shown in (shown for section in sections for shown in section.pictures):
        pictures.append(page.with_name(f"{shown.name}.png"))
        save_picture(shown.image, pictures[-1])
    render(
        PAGE,
        page,
        model=subject.name,
        subtitle=f"{Path(image).name}, with {subject.weights}",
        warning=subject.warning,
        items=[(describe(item), item.score if item.share is None else item.share) for item in listed[:MAX_NAMED]],
        omitted=len(listed[MAX_NAMED:]),
        sections=sections,
    )
    return ExplainResult(page, tuple(pictures), record if subject.named else None, tuple(explained))


def find_subject(model: str | Path, pretrained: bool = True, accept_licence: str | None = None) -> Subject:
    """The network of a run folder or of a published model. Raises `BadOption`, and the errors of `load_model`."""
    name, arguments = split_variant(model)
    named, suffix = is_published(name), suffix_of(model)
    fixed = not named or name in PUBLISHED
    if not pretrained and fixed:
        raise BadOption(f"{model} has its own weights; omit --no-pretrained")
    if not fixed:
        require_model(name)
    start = not fixed and pretrained and has_weights(name)
    if fixed or (start and imagenet_subset(name)):
        card, task = load_model(model, accept_licence)
        weights = f"the weights {card.starting_weights}" if named else f"the weights of run {Path(name).resolve().name}"
        title = f"{card.backbone}{suffix}" + (f" with {card.head}" if card.head else "")
        shown = kind_of(card).shown_score(card)
        return Subject(title, task.backbone, card.preprocessing, weights, task, shown, named=True)
    if start:
        require_licence(name, licence_of(name), accept_licence)
    require_architecture(arguments, "model_args")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: Any = build_backbone(name, pretrained=start, **arguments).eval()
    task = Classifier(net, [f"class {i}" for i in range(net.num_classes)]).eval() if net.num_classes else None
    if start:
        return Subject(name + suffix, net, preprocessing_of(name), f"the weights {full_name(name)}", task)
    reason = "" if has_weights(name) else f"There are no weights of {name} to use. "
    warning = (
        "These weights are untrained. The maps below show how the mechanism works, not what matters in the picture. "
        f"{reason}Pass a run folder{', or omit --no-pretrained' if not reason else ''}."
    )
    return Subject(name + suffix, net, preprocessing_of(name), "untrained weights", task, warning=warning)


def explain_net(subject: Subject, x: Tensor, view: View) -> list[Section]:
    """The backbone's sections for one network input (1, C, H, W), in the terms of its paper; none for others."""
    if is_plain_vit(subject.net):
        return rollout_sections(subject.net, x, view)
    return next(
        (sections(subject.net, x, view) for family, sections in FAMILIES if isinstance(subject.net, family)), []
    )
