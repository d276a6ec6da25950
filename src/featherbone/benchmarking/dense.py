"""Facts of the papers' dense models, beside the figures of the papers."""

from collections.abc import Mapping
from dataclasses import dataclass

from featherbone.benchmarking.models import as_table, count_cost
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import Card
from featherbone.tasks.run import build_task


@dataclass(frozen=True)
class DenseModel:
    """One dense model of a paper, with its published figures."""

    backbone: str
    task: str
    head: str
    classes: int
    height: int
    width: int
    published: str
    """Parameters and multiply-adds, as the paper prints them."""
    result: str
    """Result in the paper."""
    things: int = 0
    """Number of thing classes, for panoptic segmentation."""


PAPERS = (
    DenseModel("lit_tiny", "detection", "retinanet", 80, 800, 1280, "30M", "41.6 AP"),
    DenseModel("lit_small", "detection", "retinanet", 80, 800, 1280, "39M", "41.6 AP"),
    DenseModel("lit_tiny", "instance", "mask_rcnn", 80, 800, 1280, "40M", "box 42.0, mask 39.1 AP"),
    DenseModel("lit_small", "instance", "mask_rcnn", 80, 800, 1280, "48M", "box 42.9, mask 39.6 AP"),
    DenseModel("lightvit_tiny", "instance", "mask_rcnn", 80, 800, 1280, "28M, 187G", "box 37.8, mask 35.9 AP"),
    DenseModel("lightvit_small", "instance", "mask_rcnn", 80, 800, 1280, "38M, 204G", "box 40.0, mask 37.4 AP"),
    DenseModel("lightvit_base", "instance", "mask_rcnn", 80, 800, 1280, "54M, 240G", "box 41.7, mask 38.8 AP"),
    DenseModel("xformer_small", "detection", "yolov3", 80, 320, 320, "6.3M, 3.8G", "33.2 AP"),
    DenseModel("lvt", "semantic", "segformer", 150, 512, 512, "3.87M, 10.6G", "39.3 mIoU"),
    DenseModel("xformer_small", "semantic", "segformer", 19, 512, 512, "5.2M", "78.5 mIoU"),
    DenseModel("lit_tiny", "semantic", "semantic_fpn", 150, 512, 512, "24M", "41.3 mIoU"),
    DenseModel("lit_small", "semantic", "semantic_fpn", 150, 512, 512, "32M", "41.7 mIoU"),
    DenseModel("lvt", "panoptic", "panoptic_fpn_light", 133, 800, 1216, "5.35M, 56.4G", "PQ 42.8", 80),
)
"""The papers' dense models; XFormer is a reconstruction."""


def dense_cost(model: DenseModel) -> tuple[int, int]:
    """Parameters and multiply-adds of one image, convolutions and matrix products counted; nothing is computed."""
    card = Card(
        task=model.task,
        backbone=model.backbone,
        head=model.head,
        classes=tuple(str(i) for i in range(model.classes)),
        preprocessing=preprocessing_of(model.backbone, (model.height, model.width)),
        things=tuple(range(model.things)),
    )
    params, macs = count_cost(lambda: build_task(card), model.height, model.width)
    assert macs is not None, "shapes of the papers' models can be derived"
    return params, macs


def dense_table(costs: Mapping[DenseModel, tuple[int, int]]) -> str:
    """Models and their parameters and multiply-adds as a table in Markdown."""
    rows: list[tuple[str, ...]] = [
        ("model", "classes", "input", "params", "MACs", "published", "published result", "measured result")
    ]
    for model, (params, macs) in costs.items():
        name, size = f"{model.backbone} + {model.head}", f"{model.width}x{model.height}"
        cost = f"{params / 1e6:.3f}M", f"{macs / 1e9:.2f}G"
        rows.append((name, str(model.classes), size, *cost, model.published, model.result, "not run"))
    return as_table(rows, markdown=True)


if __name__ == "__main__":
    print(dense_table({model: dense_cost(model) for model in PAPERS}))
