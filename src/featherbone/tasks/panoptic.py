"""Panoptic segmentation: from the raw tensors of a head to one map of things and stuff."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from featherbone.data.frames import IN_IMAGE, Frame
from featherbone.data.samples import PanopticSamples
from featherbone.data.split import PanopticTruth, Split
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadData
from featherbone.heads.box_decoder import HeadDecoder
from featherbone.heads.nms_free_masks import PrototypePanoptic
from featherbone.heads.panoptic_fpn import LightPanopticFPN, PanopticFPN, PanopticRaw
from featherbone.metrics.audit import RegionAudit
from featherbone.metrics.panoptic import PanopticMetrics
from featherbone.ops.boxes import Found, keep_nms
from featherbone.ops.label_maps import (
    AT_ONCE,
    FUSION,
    IGNORE,
    LABEL_MAP,
    PanopticTarget,
    fuse,
    label_map,
    resize,
)
from featherbone.ops.paste import paste_masks
from featherbone.ops.rle import box_of
from featherbone.results import PanopticMap, Segment
from featherbone.tasks.card import Card
from featherbone.tasks.dense import HEAD_OPTIONS, SMALL_DATA, augmentation_of, taking_arguments
from featherbone.tasks.detection import OBJECT_DEFAULTS, draw_objects
from featherbone.tasks.kind import Item, Kind, named
from featherbone.tasks.likeness import compare_segments

KEPT = 0.6
"""Minimum score of a thing."""
DOUBLE = 0.5
"""IoU of boxes above which two things, of any classes, are duplicates."""
STUFF = 4096 / (640 * 480)
"""Minimum share of an image that a stuff class covers: 4,096 pixels of a COCO image."""


@dataclass(frozen=True)
class PanopticDecoder:
    """The segments of an image, from the raw tensors of a panoptic head; `things` are indices of `classes`.

    Stuff classes that cover less than the share `stuff_share` of the image are dropped.
    """

    classes: tuple[str, ...]
    things: tuple[int, ...]
    head: HeadDecoder
    """Decoder of the things."""
    stuff_share: float = STUFF
    raw: Any = PanopticRaw
    """Type of the raw tensors."""
    with_scores: bool = False
    """Whether stuff has a score: the mean probability of its pixels."""
    kind: ClassVar[str] = "panoptic"

    @property
    def stuff(self) -> tuple[int, ...]:
        """Indices of the other classes."""
        return tuple(i for i in range(len(self.classes)) if i not in self.things)

    def __call__(self, raw: Any, frames: Sequence[Frame], *, score: float | None = None) -> list[PanopticMap]:
        """The map of each image that its frame describes, with the things of a score above `score`."""
        return [record for record, _ in self.fused(raw, frames, score)]

    def fused(self, raw: Any, frames: Sequence[Frame], score: float | None = None) -> list[tuple[PanopticMap, Tensor]]:
        """The same, with the scores (n,) of the things on each map, as autograd links them to the raw tensors."""
        sizes = torch.tensor([frame.inner for frame in frames])
        found = self.head(raw.things, sizes, KEPT if score is None else score)
        return [self._map(*image) for image in zip(found, raw.stuff, frames, strict=True)]

    def tensors(self, raw: Any, frame: Frame) -> dict[str, Tensor]:
        """See `Decoder`; labels are those of `things`, and `label_map` holds 1 + the index of `stuff`."""
        things = self.head.tensors(raw.things, torch.tensor([frame.inner]))
        boxes = frame.to_image(things["boxes"])
        scores = things["scores"].where(keep_nms(boxes, things["scores"], DOUBLE), 0)
        stuff = label_map(raw.stuff[0], frame.canvas, frame.inner, frame.size, AT_ONCE)
        return {**things, "boxes": boxes, "scores": scores, "label_map": stuff}

    def exhaustive(self) -> "PanopticDecoder":
        return replace(self, with_scores=True)

    def describe(self, shown: float | None) -> dict[str, Any]:
        things = self.head.describe()
        outputs = {f"things_{name}": axes for name, axes in things["outputs"].items()}
        return {
            **things,
            "kind": "panoptic",
            "things_kind": things["kind"],
            "outputs": {**outputs, "stuff": "(B, 1 + stuff, row, column)"},
            "score": KEPT,
            "double": DOUBLE,
            "overlap": 0.5,
            "stuff_share": self.stuff_share,
            "stuff": self.stuff,
            "thing_class": "things[label]",
            "stuff_class": "stuff[channel - 1], channel 0 is any thing",
            "double_per": "image",
            "double_rule": "iou(box, higher_scoring_kept_box) > double, in the image",
            "fusion": FUSION,
            "map": LABEL_MAP,
            "image": IN_IMAGE,
        }

    def _map(self, found: Found, logits: Tensor, frame: Frame) -> tuple[PanopticMap, Tensor]:
        boxes = frame.to_image(found.boxes.float().cpu())
        scores, labels = found.scores.float().cpu(), found.labels.cpu()
        kept = nms(boxes, scores, DOUBLE)  # highest score first
        kept = kept[((boxes[kept, 2:] - boxes[kept, :2]) > 0).all(1)]
        assert found.masks is not None, "panoptic heads find masks"
        masks = paste_masks(found.masks.float().cpu()[kept], boxes[kept], frame.height, frame.width)
        best = label_map(logits.detach(), frame.canvas, frame.inner, frame.size).cpu().numpy()
        fused = fuse(masks, best, len(self.stuff), self.stuff_share * best.size)
        segments: list[tuple[int, float | None]] = [
            (self.things[int(labels[kept[i]])], scores[kept[i]].item()) for i in fused.things
        ]
        for number, i in enumerate(fused.stuff, 1 + len(segments)):
            score = None
            if self.with_scores:
                shares = resize(logits.detach().float().softmax(0)[1 + i], frame.canvas, frame.inner, frame.size)
                score = float(shares.cpu().numpy()[fused.ids == number].mean())
            segments.append((self.stuff[i], score))
        return panoptic_map(fused.ids, segments, self.classes, self.things), scores[kept[fused.things]]


class PanopticKind(Kind):
    """A segment for every pixel."""

    name = "panoptic"
    record = PanopticMap
    headline = "PQ"
    same = staticmethod(compare_segments)
    explained = "the score of the thing, or the mean logit of stuff over its segment (Seg-Grad-CAM, arXiv 2002.11434)"
    figures: ClassVar[Mapping[str, str]] = named("PQ", "PQ_things", "PQ_stuff", "SQ", "RQ")
    heads: ClassVar[dict[str, Any]] = {
        "panoptic_fpn_light": LightPanopticFPN,
        "panoptic_fpn": PanopticFPN,
        "nms_free_panoptic": PrototypePanoptic,
    }
    score = KEPT
    inference = frozenset({"score"})
    options = HEAD_OPTIONS | {"iou_crop"}
    defaults: ClassVar[Mapping[str, Any]] = OBJECT_DEFAULTS
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small-data": SMALL_DATA}
    eval_batch = 8
    is_map = True

    def things(self, split: Any) -> tuple[int, ...]:
        return tuple(split.things)

    def counts(self, card: Card) -> tuple[int, ...]:
        return len(card.things), len(card.classes) - len(card.things)

    def decoder(self, card: Card, strides: Sequence[float]) -> PanopticDecoder:
        head = self.find_head(card.head)[1]
        with taking_arguments(card):
            things = head.things_decoder(strides)
        return PanopticDecoder(card.classes, card.things, things, raw=head.raw)

    def metrics(self, source: Any) -> PanopticMetrics:
        return PanopticMetrics(len(source.classes), source.things)

    def items(
        self, decoder: PanopticDecoder, raw: Any, frame: Frame, score: float | None
    ) -> tuple[PanopticMap, list[Item]]:
        [(record, scores)] = decoder.fused(raw, [frame], score)

        def region(number: int) -> NDArray[np.bool_]:
            return record.ids == number

        def of_stuff(segment: Segment) -> Tensor:
            logits = raw.stuff[0, 1 + decoder.stuff.index(segment.label)]
            scores = resize(logits, frame.canvas, frame.inner, frame.size)
            return scores[torch.from_numpy(region(segment.id)).to(scores.device)].mean()

        items = []
        for i, segment in enumerate(record.segments):  # things come first
            value = partial(scores.select, 0, i) if segment.thing else partial(of_stuff, segment)
            share = None if segment.thing else segment.area / record.ids.size
            items.append(Item(segment.name, value, segment.score, share, partial(region, segment.id)))
        return record, items

    def audit(self, source: Any) -> RegionAudit:
        return RegionAudit(source.classes)

    def truth_record(self, truth: PanopticTruth, split: Any) -> PanopticMap:
        return panoptic_map(truth.ids, [(s.label, None) for s in truth.segments], split.classes, split.things)

    def target_record(self, target: PanopticTarget, image: Tensor, split: Any) -> PanopticMap:
        ids = target.stuff.numpy().astype(np.int32)
        stuff = [i for i in np.unique(ids).tolist() if 0 < i < IGNORE]
        numbers = np.zeros(IGNORE + 1, np.int32)
        numbers[stuff] = 1 + np.arange(len(stuff))
        ids = numbers[ids]
        segments: list[tuple[int, float | None]] = [(split.stuff[i - 1], None) for i in stuff]
        assert target.things.masks is not None, "panoptic targets have masks"
        for mask, label in zip(target.things.masks.numpy(), target.things.labels.tolist(), strict=True):
            segments.append((split.things[label], 1.0))
            ids[mask] = len(segments)
        return panoptic_map(ids, segments, split.classes, split.things)

    def class_notes(self, metrics: Mapping[str, Any], split: Split[Any]) -> list[str]:
        return [f"{count} segments" for count in metrics["segments"]]

    def samples(self, split: Any, preprocessing: Preprocessing, settings: Any, training: bool) -> PanopticSamples:
        return PanopticSamples(split, preprocessing, augmentation_of(settings) if training else None, settings.seed)

    def check(self, data: Path, splits: Mapping[str, Any], training: bool) -> None:
        if not all(images.things for images in splits.values()):
            raise BadData(f"{data}: no class is a thing (isthing 1); train semantic segmentation instead")

    def draw_targets(self, decoder: Any, size: tuple[int, int, int], draw: torch.Generator) -> list[PanopticTarget]:
        things = draw_objects(len(decoder.things), size, draw)
        stuff = torch.randint(1 + len(decoder.stuff), size, generator=draw)
        return [PanopticTarget(*one) for one in zip(things, stuff, strict=True)]


def panoptic_map(
    ids: np.ndarray[Any, np.dtype[np.int32]],
    segments: Sequence[tuple[int, float | None]],
    classes: Sequence[str],
    things: Sequence[int],
) -> PanopticMap:
    """The record of a map whose value 1 + i, where it occurs, is a segment of the class and score `segments[i]`."""
    found = []
    areas = np.bincount(ids.ravel(), minlength=len(segments) + 1)
    for number, (label, score) in enumerate(segments, 1):
        if not areas[number]:
            continue
        x1, y1, x2, y2 = map(float, box_of(ids == number))
        box, area = (x1, y1, x2, y2), int(areas[number])
        found.append(Segment(number, label, classes[label], label in things, score, area, box))
    return PanopticMap(ids, tuple(found))
