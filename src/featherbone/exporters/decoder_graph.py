"""Decoding as an ONNX graph: the Python decoders' formulas, exported, for one image of any size.

Pasting masks and fusing panoptic segments are not part of it. In a graph of fixed shapes each of up to 100 masks takes
the memory of the whole image, and fusion is a loop over them; a program pastes one mask at a time, on the pixels of its
box only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.data.frames import Frame
from featherbone.exporters.onnx import OPSET, quiet
from featherbone.ops.boxes import Picked, keep_nms
from featherbone.ops.label_maps import label_map
from featherbone.tasks.classification import Classifier
from featherbone.tasks.panoptic import DOUBLE, PanopticSegmenter
from featherbone.tasks.raw import rebuild
from featherbone.tasks.semantic import Segmenter

AT_ONCE = 4
"""Classes of a label map that are resized to the image at a time."""


class DecoderGraph(nn.Module):
    """The decoding of a task's raw tensors called `names`, for an input of the size `canvas`.

    The result holds `scores` and `labels` of classes or objects, highest score first; of objects `boxes` in the image
    and, where the network gives them, `masks` over the boxes; `label_map` of the image's size.
    """

    def __init__(self, task: Any, names: Sequence[str], canvas: tuple[int, int]) -> None:
        super().__init__()
        self.task, self.names, self.canvas = [task], tuple(names), canvas  # in a list, so that it is no submodule

    def forward(self, size: Tensor, inner: Tensor, *raw: Tensor) -> dict[str, Tensor]:
        """Height and width of the image, int64, those of the resized image on the input, and the raw tensors."""
        sides = [*size.tolist(), *inner.tolist()]
        for side in sides:
            torch._check(side >= 1)  # what torch.export must know about sizes that are values
        task, frame = self.task[0], Frame(*sides, *self.canvas)
        values = rebuild(task.raw, dict(zip(self.names, raw, strict=True)))
        if isinstance(task, Classifier):
            scores, labels = values.softmax(1).topk(min(task.decoding(0)["top"], values.shape[1]), dim=1)
            return {"scores": scores[0], "labels": labels[0]}
        if isinstance(task, Segmenter):
            return {"label_map": label_map(values[0], frame.canvas, frame.inner, frame.size, AT_ONCE)}
        if not isinstance(task, PanopticSegmenter):
            return objects(values if hasattr(values, "boxes") else task.head.pick(values), frame)
        things = objects(values.things, frame)
        kept = keep_nms(things["boxes"], things["scores"], DOUBLE)
        stuff = label_map(values.stuff[0], frame.canvas, frame.inner, frame.size, AT_ONCE)
        return {**things, "scores": things["scores"].where(kept, 0), "label_map": stuff}


def objects(picked: Picked, frame: Frame) -> dict[str, Tensor]:
    """The objects of the first image of a batch, with boxes in the image."""
    found = {name: values[0] for name, values in picked._asdict().items()}
    return {**found, "boxes": frame.to_image(found["boxes"])}


def write_decoder(task: Any, raw: dict[str, Tensor], canvas: tuple[int, int], path: Path) -> None:
    """Write the graph for raw tensors like `raw` as an ONNX file.

    Its inputs are `size`, `inner` and those of the raw tensors that it reads; outputs are called `result_boxes` and so on.
    """
    graph = DecoderGraph(task, list(raw), canvas).eval()
    example = (torch.tensor(canvas), torch.tensor(canvas), *raw.values())
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=["size", "inner", *raw],
            output_names=[f"result_{name}" for name in graph(*example)],
            verbose=False,
        )
        assert program is not None, "the default exporter returns its program"
        program.save(str(path))
