"""Region proposal network (arXiv 1506.01497): every anchor predicts an objectness and a box."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.heads.anchors import NEGATIVE, AnchorRaw, base_anchors, by_anchor, level_anchors, match
from featherbone.heads.levels import Level
from featherbone.ops.boxes import Target, clip_boxes, decode_deltas, encode_deltas, keep_nms

SIZE = 8
"""Size of the anchors, in strides of their level."""
RATIOS = (0.5, 1, 2)
"""Ratios of height to width of the anchors."""
WEIGHTS = (1.0, 1.0, 1.0, 1.0)
"""Standard deviations of the box deltas, inverted."""


class RPN(nn.Module):
    """Proposals from maps of `levels`: one 3x3 convolution of `dim` channels, the same for all levels.

    Of each level the highest-scoring anchors are read, `candidates` in training and in evaluation; those that overlap a
    higher-scoring one of their level by more than `nms` in IoU are dropped, and at most `limit` are proposed. In
    training, `samples` anchors of each image have a loss, at most half of them positive.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        dim: int = 256,
        *,
        candidates: tuple[int, int] = (2000, 1000),
        nms: float = 0.7,
        limit: int = 1000,
        samples: int = 256,
    ) -> None:
        super().__init__()
        self.strides = [level.stride for level in levels]
        self.candidates, self.nms, self.limit, self.samples = candidates, nms, limit, samples
        self.shared = nn.Conv2d(levels[0].channels, dim, 3, padding=1)
        self.classes = nn.Conv2d(dim, len(RATIOS), 1)
        self.boxes = nn.Conv2d(dim, 4 * len(RATIOS), 1)
        for convolution in (self.shared, self.classes, self.boxes):
            nn.init.normal_(convolution.weight, std=0.01)
            convolution.bias = nn.Parameter(torch.zeros(convolution.out_channels))

    def forward(self, maps: Sequence[Tensor]) -> AnchorRaw:
        """Maps (B, C, h, w) of `levels` to raw maps."""
        shared = [torch.relu(self.shared(x)) for x in maps]
        return AnchorRaw(tuple(self.classes(x) for x in shared), tuple(self.boxes(x) for x in shared))

    def propose(self, raw: AnchorRaw, sizes: Tensor) -> Tensor:
        """Boxes (B, limit, 4) cut at images of `sizes` (B, 2), by descending score, without a gradient.

        Boxes that are empty after that are proposals, too. Unused rows hold -1.
        """
        parts = zip(raw.logits, raw.deltas, self._anchors(raw), strict=True)
        levels = [self._surest(logits.detach(), deltas.detach(), anchors, sizes) for logits, deltas, anchors in parts]
        boxes, scores = (torch.cat(x, 1) for x in zip(*levels, strict=True))
        groups = torch.cat([torch.full_like(x[0], i) for i, (_, x) in enumerate(levels)])
        return torch.stack([self._select(*image, groups) for image in zip(boxes, scores, strict=True)])

    def losses(self, raw: AnchorRaw, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy of the sampled anchors and L1 of the positive ones' deltas, weighted equally.

        An anchor is positive from IoU 0.7 on or as an object's best, negative below 0.3, else ignored. Sums of an image
        are divided by its samples; then the mean over the images.
        """
        logits = torch.cat([by_anchor(x, 1).flatten(1) for x in raw.logits], 1).float()  # (B, N)
        deltas = torch.cat([by_anchor(x, 4) for x in raw.deltas], 1).float()  # (B, N, 4)
        anchors = torch.cat(self._anchors(raw))  # (N, 4)
        images = zip(logits, deltas, targets, strict=True)
        of_classes, of_boxes = zip(*(self._losses(x, shifts, anchors, t) for x, shifts, t in images), strict=True)
        return {"rpn_class": torch.stack(of_classes).mean(), "rpn_box": torch.stack(of_boxes).mean()}

    def _anchors(self, raw: AnchorRaw) -> list[Tensor]:
        """Of each level (h * w * 3, 4), in pixels."""
        return level_anchors(raw.logits, [base_anchors([SIZE * s], RATIOS) for s in self.strides], self.strides)

    def _surest(self, logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, n, 4) and scores (B, n) of a level's highest-scoring anchors."""
        logits = by_anchor(logits, 1).flatten(1).float()
        values, index = logits.topk(min(self.candidates[not self.training], logits.shape[1]))
        shifts = by_anchor(deltas, 4).float().gather(1, index[..., None].expand(-1, -1, 4))
        return clip_boxes(decode_deltas(shifts, anchors[index], WEIGHTS), sizes), values.sigmoid()

    def _select(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        """The highest-scoring (limit, 4) of one image's candidates (n, 4), (n,), (n,) after NMS."""
        kept = keep_nms(boxes, scores, self.nms, groups)
        values, index = scores.where(kept, -1).topk(min(self.limit, len(scores)))
        chosen = boxes[index].where(values[:, None] >= 0, -1)
        return F.pad(chosen, (0, 0, 0, self.limit - len(chosen)), value=-1)

    def _losses(self, logits: Tensor, deltas: Tensor, anchors: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Class and box loss of one image, of logits (N,) and deltas (N, 4)."""
        matched = match(target.boxes, anchors, positive=0.7, negative=0.3)
        positive, negative = sample(matched, self.samples, 0.5)
        answers = torch.cat((logits[positive], logits[negative]))
        wanted = torch.cat((torch.ones_like(logits[positive]), torch.zeros_like(logits[negative])))
        shifts = encode_deltas(target.boxes[matched[positive]], anchors[positive], WEIGHTS)
        entropy = F.binary_cross_entropy_with_logits(answers, wanted, reduction="sum")
        distance = F.l1_loss(deltas[positive], shifts, reduction="sum")
        count = max(len(answers), 1)
        return entropy / count, distance / count


def sample(matched: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices of positives, at most `share` of `count`, and of negatives in the places left, drawn from `match`'s."""
    positive = (matched >= 0).nonzero()[:, 0]
    negative = (matched == NEGATIVE).nonzero()[:, 0]
    positive = _draw(positive, int(count * share))
    return positive, _draw(negative, count - len(positive))


def _draw(index: Tensor, count: int) -> Tensor:
    return index[torch.randperm(len(index), device=index.device)[:count]]


def is_used(proposals: Tensor) -> Tensor:
    """Which rows (..., 4) of `RPN.propose` hold a box: bool (...)."""
    return proposals[..., 0] >= 0
