"""Runs as repositories of the Hugging Face hub: weights, card and a model card."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models import get_pretrained_cfg, model_entrypoint, split_model_name_tag

from featherbone import report
from featherbone.files import write_text
from featherbone.hub import upload
from featherbone.report import format_metric
from featherbone.tasks.card import WEIGHTS, Card, count_measured
from featherbone.tasks.run import load_task, save_weights
from featherbone.tasks.task import kind_of
from featherbone.tasks.timm_format import TIMM_WEIGHTS, write_config

TEMPLATE = Path(report.__file__).parent / "templates" / "model_card.md"
PIPELINES = {
    "classification": "image-classification",
    "multilabel": "image-classification",
    "detection": "object-detection",
}
"""The hub's names of tasks; those that are not here are `image-segmentation`."""
METRICS = {"top1": "accuracy", "mIoU": "mean_iou"}
"""The hub's names of metrics, where they differ from ours."""
MAX_LISTED = 100
"""Maximum number of classes that a model card lists."""


class Figure(NamedTuple):
    """A metric of a model card."""

    key: str
    name: str
    value: float
    text: str


def publish(run: Path, repository: str, private: bool, licence: str | None, message: str) -> str:
    """Write a run to a repository of the hub; its address. Raises `BadRun` and `HubError`.

    Classifiers are written in timm's format with the card beside it. Neither images nor paths are written.
    """
    card, task = load_task(run)
    with TemporaryDirectory() as name:
        folder = Path(name)
        card.public().write(folder)
        if card.task == "classification":
            save_weights(folder, task.backbone, TIMM_WEIGHTS)
            write_config(folder, card, task.backbone)
        else:
            save_weights(folder, task, WEIGHTS)
        write_text(folder / "README.md", str(model_card(card, repository, licence)))
        return upload(repository, sorted(folder.iterdir()), private, message)


def model_card(card: Card, repository: str, licence: str | None = None) -> ModelCard:
    """The hub's description of a model, from what its card states; `licence` is that of the weights, an id of the hub.

    By default it is the licence of the weights that training started from; weights from scratch have none.
    """
    figures, started = list_figures(card), card.weights_licence
    scratch = started.startswith("yours")
    if licence is None and not scratch:
        licence = started if re.fullmatch(r"[a-z][a-z0-9.-]*", started) else "other"
    timm = card.task == "classification"
    ours = model_entrypoint(split_model_name_tag(card.backbone)[0]).__module__.startswith("featherbone.")
    pipeline = PIPELINES.get(card.task, "image-segmentation")
    fingerprint = card.data.get("fingerprint")
    data = ModelCardData(
        license=licence,
        license_name="not-stated" if licence == "other" else None,
        base_model=_base_model(card),
        pipeline_tag=pipeline,
        library_name="timm" if timm and not ours else "featherbone",
        tags=["featherbone", *(["timm"] if timm else []), card.task, card.backbone],
        metrics=[METRICS.get(figure.key, figure.key) for figure in figures] or None,
        model_name=repository.partition("/")[2] or repository,
        eval_results=[
            EvalResult(
                task_type=pipeline,
                dataset_type="custom",
                dataset_name=f"data {fingerprint[:12]}" if fingerprint else "data that is not stated",
                dataset_split=card.metrics.get("split", "val"),
                metric_type=METRICS.get(figure.key, figure.key),
                metric_name=figure.name,
                metric_value=figure.value,
            )
            for figure in figures
        ]
        or None,
    )
    names = [" ".join(name.split()) for name in card.classes[:MAX_LISTED]]
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=data.model_name,
        repository=repository,
        task=card.task,
        backbone=card.backbone,
        head=card.head,
        classes=names + ([f"and {len(card.classes) - MAX_LISTED} more"] if len(card.classes) > MAX_LISTED else []),
        num_classes=len(card.classes),
        version=card.versions.get("featherbone", "of an unknown version"),
        timm=timm,
        ours=ours,
        preprocessing=card.preprocessing,
        figures=figures,
        measured=count_measured(card.metrics) if figures else "",
        fingerprint=fingerprint,
        val_fingerprint=card.data.get("val_fingerprint"),
        licence=licence if licence not in (None, "other") else "not stated",
        started="none, they were trained from scratch" if scratch else started,
    )


def list_figures(card: Card) -> list[Figure]:
    """The metrics of a card that are known, with the 95% interval of the headline metric over images."""
    metrics: dict[str, Any] = card.metrics
    found = []
    for key, name in kind_of(card).figures.items():
        value, images = metrics.get(key), metrics.get("images")
        if value is None or images is None:
            continue
        text = format_metric(value)
        if key in metrics.get("interval", {}):
            low, high = metrics["interval"][key]
            text += f" (95% interval {low:.3f} to {high:.3f})"
        found.append(Figure(key, name, value, text))
    return found


def _base_model(card: Card) -> str | None:
    """The hub's name of the weights that training started from, where they are timm's."""
    s = card.settings
    cfg = get_pretrained_cfg(card.backbone)
    if not s.get("pretrained") or s.get("checkpoint") or s.get("backbone_from") or cfg is None:
        return None
    return cfg.hf_hub_id
