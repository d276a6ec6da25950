"""What the papers published: figures, files of weights, and the ImageNet configuration that the models share."""

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


LICENCE = "not stated; code is under apache-2.0. Look it up before you distribute the model"


@dataclass(frozen=True)
class Checkpoint:
    """A published file of weights."""

    address: str = ""
    """Of the file, or with `by_hand` of the page where a person downloads it."""
    by_hand: bool = False
    size: int | None = None
    """Bytes, where known."""
    sha256: str | None = None
    licence: str = LICENCE
    """Of the weights."""
    unusable: str = ""
    """Why there are no weights to use, and what to do instead; empty where there are."""


def github(release: str, file: str) -> Checkpoint:
    """A file of a release of LIT's repository."""
    return Checkpoint(f"https://github.com/ziplab/LIT/releases/download/{release}/{file}.pth")


def drive(number: str) -> Checkpoint:
    """A file on Google Drive, which sends it to browsers only."""
    return Checkpoint(f"https://drive.google.com/file/d/{number}/view", by_hand=True)


TRAIN_IT = "train it on your images, which is the default, or give weights of yours: --checkpoint FILE"
LVT = Checkpoint(
    licence="non-commercial",
    unusable=f"its published weights are under a non-commercial licence and are not offered here; {TRAIN_IT}",
)
XFORMER = Checkpoint(licence="none published", unusable=f"no weights were published; {TRAIN_IT}")
CLASSIFIERS: dict[str, Checkpoint] = {
    "lvt": LVT,
    "lvt_cls": LVT,
    "lightvit_tiny": drive("1NasAnHYK6bkmj0-rzYvxQSEUiKAOW3j9"),
    "lightvit_small": drive("16EZUth-wZ7rKR6tI67_Smp6GGzaODp16"),
    "lightvit_base": Checkpoint("https://github.com/hunto/LightViT", by_hand=True),
    "xformer_small": XFORMER,
    "lit_tiny": github("v1.0", "lit_ti"),
    "lit_small": github("v1.0", "lit_s"),
    "lit_medium": github("v1.0", "lit_m"),
    "lit_base": github("v1.0", "lit_b"),
}
"""ImageNet weights of the four families by the name of the model; `PUBLISHED` in tasks/published.py has the others."""


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
