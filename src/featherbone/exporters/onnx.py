"""ONNX, by torch's default exporter."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.files import atomic, to_json
from featherbone.tasks.raw import Flat

OPSET = 20


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress lines of exporters and the warnings of their own internals."""
    with ExitStack() as stack:
        sink = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(redirect_stdout(sink))
        stack.enter_context(redirect_stderr(sink))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, logging.NOTSET)
        yield


def dynamic_shapes(dynamic: str, layout: str = "NCHW") -> tuple[dict[int, Any]] | None:
    """Of the one input, as `torch.export` asks for them."""
    if dynamic == "none":
        return None
    first = layout.index("H")
    sides = {first: torch.export.Dim.DYNAMIC, first + 1: torch.export.Dim.DYNAMIC} if dynamic == "size" else {}
    return ({0: torch.export.Dim.DYNAMIC, **sides},)


def write(net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
    """A network as an ONNX file with the input `images` and outputs of `names`."""
    layout = "NHWC" if example.dtype == torch.uint8 else "NCHW"
    with quiet():
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            dynamic_shapes=dynamic_shapes(dynamic, layout),
            verbose=False,
        )
        assert program is not None, "the default exporter returns its program"
        program.save(str(path))


def embed(path: Path, about: dict[str, Any]) -> None:
    """Put what `featherbone.json` says into the file's own metadata."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"featherbone": to_json(about)})
    with atomic(path) as partial:
        onnx.save(model, partial)
