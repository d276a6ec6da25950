"""Decoding as an ONNX graph: the Python decoders' formulas, exported, for one image of any size.

Pasting masks and fusing panoptic segments are not part of it. In a graph of fixed shapes each of up to 100 masks takes
the memory of the whole image, and fusion is a loop over them; a program pastes one mask at a time, on the pixels of its
box only.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from featherbone.data.frames import Frame
from featherbone.exporters.forms import rebuild
from featherbone.exporters.targets.onnx import OPSET
from featherbone.exporters.targets.target import quiet
from featherbone.tasks.kind import Decoder


class DecoderGraph(nn.Module):
    """`decoder.tensors` as a module, from raw tensors called `names`, for an input of the size `canvas`."""

    def __init__(self, decoder: Decoder, names: Sequence[str], canvas: tuple[int, int]) -> None:
        super().__init__()
        self.decoder, self.names, self.canvas = decoder, tuple(names), canvas

    def forward(self, size: Tensor, inner: Tensor, *raw: Tensor) -> dict[str, Tensor]:
        """Height and width of the image, int64, those of the resized image on the input, and the raw tensors."""
        (height, width), (inner_height, inner_width) = size.tolist(), inner.tolist()
        for side in (height, width, inner_height, inner_width):
            torch._check(side >= 1)  # documented for torch.export, which does not know the value of a size
        frame = Frame(height, width, inner_height, inner_width, *self.canvas)
        values = rebuild(self.decoder.raw, dict(zip(self.names, raw, strict=True)))
        return self.decoder.tensors(values, frame)


def write_decoder(decoder: Decoder, raw: dict[str, Tensor], canvas: tuple[int, int], path: Path) -> None:
    """Write the graph for raw tensors like `raw` as an ONNX file.

    Its inputs are `size`, `inner` and those of the raw tensors that it reads; the output `boxes` is `result_boxes`.
    """
    graph = DecoderGraph(decoder, list(raw), canvas).eval()
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
