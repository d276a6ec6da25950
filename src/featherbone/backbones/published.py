"""The figures that the papers state, and the ImageNet configuration that the models share."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """One row of a paper's ImageNet-1K table; None where the paper states nothing."""

    params: float | None
    """Millions."""
    gmacs: float | None
    """Billions of multiply-adds at `image_size`."""
    top1: float | None
    """Per cent."""
    image_size: int = 224
    note: str = ""


def imagenet_cfg(paper_name: str, arxiv: str, side: int = 224, **own: Any) -> dict[str, Any]:
    """Timm's configuration of an ImageNet-1K classifier of `side` pixels and stride 32; `own` entries win."""
    return {
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": (side // 32, side // 32),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "paper_name": paper_name,
        "paper_ids": f"arXiv:{arxiv}",
        "origin_url": f"https://arxiv.org/abs/{arxiv}",
        **own,
    }
