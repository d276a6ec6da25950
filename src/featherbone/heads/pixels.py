"""Losses of pixels: logits at any size against a map of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.ops.label_maps import IGNORE, upsample

HARD = -log(0.7)
"""Cross-entropy above which a pixel is hard: probability of its class below 0.7 (OCNet, arXiv 1809.00916)."""


@dataclass(frozen=True)
class PixelLoss:
    """Cross-entropy, by `class_weights` if given, and Dice times `dice`.

    With `hard_share` below 1 the loss is that of hard pixels: those with a probability below 0.7 for their class, and
    at least that share of the labelled pixels.
    """

    class_weights: tuple[float, ...] | None = None
    hard_share: float = 1.0
    dice: float = 0.0

    def __call__(self, logits: Tensor, labels: Sequence[Tensor] | Tensor) -> dict[str, Tensor]:
        """Named terms from logits (B, K, h, w), brought to the size of labels (B, H, W), int64, 255 ignored."""
        labels = labels if isinstance(labels, Tensor) else torch.stack(list(labels))
        logits = upsample(logits.float(), labels.shape[-2:])
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        counted = _hard_labels(logits, labels, self.hard_share) if self.hard_share < 1 else labels
        terms = {"pixel": _mean_cross_entropy(logits, counted, weights)}
        return terms | ({"dice": self.dice * dice_loss(logits, labels)} if self.dice else {})


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - 2 |p g| / (|p| + |g|), the mean over the classes in labels (B, H, W) (arXiv 1606.04797).

    p are probabilities from logits (B, K, H, W), g is 1 where a pixel is of the class; 255 is ignored.
    """
    known = labels != IGNORE
    p = logits.softmax(1).movedim(1, -1)[known]  # (n, K)
    sums, overlap = p.sum(0), p.new_zeros(p.shape[1])
    overlap = overlap.index_add(0, labels[known], p.gather(1, labels[known][:, None])[:, 0])
    counts = torch.bincount(labels[known], minlength=p.shape[1]).to(p.dtype)
    shown = counts > 0
    dice = 2 * overlap / (sums + counts).clamp(min=1)
    return ((1 - dice) * shown).sum() / shown.sum().clamp(min=1)


def _mean_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over known pixels by their classes' weights; 0 where nothing is known."""
    total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE, reduction="sum")
    known = labels != IGNORE
    count = known.sum() if weights is None else weights[labels.where(known, 0)].where(known, 0).sum()
    return total / count.clamp(min=torch.finfo(total.dtype).tiny)


@torch.no_grad()
def _hard_labels(logits: Tensor, labels: Tensor, share: float) -> Tensor:
    """The labels of hard pixels, at least `share` of all; the others are ignored."""
    entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    known = entropy[labels != IGNORE]
    count = max(round(share * len(known)), 1)
    threshold = known.topk(count).values[-1].clamp(max=HARD) if len(known) else entropy.new_zeros(())
    return labels.where(entropy >= threshold, IGNORE)
