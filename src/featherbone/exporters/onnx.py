"""ONNX by torch's default exporter, run in ONNX Runtime before it counts as written."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from featherbone.errors import BadImage, FeatherboneError, MissingExtra
from featherbone.exporters.parity import Parity, compare
from featherbone.files import atomic, write_json
from featherbone.progress import track
from featherbone.tasks.card import Card
from featherbone.tasks.classification import Classifier

OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ExportDiffers(FeatherboneError):
    """The exported file does not say what the model says."""

    exit_code = 1


def require_onnx() -> None:
    """Raise `MissingExtra` unless the tool-chain is installed."""
    from importlib.util import find_spec

    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingExtra(f"{', '.join(missing)} not installed; pip install 'featherbone[onnx]'")


def export_onnx(card: Card, task: Classifier, path: Path, images: Sequence[Image.Image]) -> Parity:
    """Write the model to `path`, with `featherbone.json` and `parity.json` beside it, once it is proven on `images`.

    The batch is dynamic. The file carries what `featherbone.json` says in its metadata: input, classes, licence.
    Raises `ExportDiffers`, and leaves no file, where a decoded result differs beyond the bounds of `parity`.
    """
    require_onnx()
    if not images:
        raise BadImage("no image to prove the exported file on; give a folder of pictures with --images")
    transform = card.preprocessing.transform()
    batch = torch.stack([transform(image) for image in images])
    about = describe(card)
    with atomic(path) as partial:
        _write(task.cpu().eval(), batch[:2] if len(batch) > 1 else batch.expand(2, -1, -1, -1), partial, about)
        parity = prove(task, partial, batch)
        if not parity.holds:
            raise ExportDiffers(
                f"{path.name} was not written: on {parity.images} images the exported file differs from the model, "
                f"scores by up to {parity.worst_score:.2g} (allowed {parity.score_bound:g}), logits by "
                f"{parity.worst_raw:.2g} of their deviation; report this with the model's name"
            )
    write_json(path.with_name("featherbone.json"), about)
    write_json(path.with_name("parity.json"), parity.to_json())
    return parity


def describe(card: Card) -> dict[str, Any]:
    """What a program needs to use the file: input, normalisation, classes, and how to decode."""
    return {
        "task": card.task,
        "backbone": card.backbone,
        "input": {"name": "images", "layout": "NCHW", "channels": "RGB", **asdict(card.preprocessing)},
        "output": {"name": "logits", "decode": "softmax over the last axis, classes by falling score"},
        "classes": list(card.classes),
        "weights_licence": card.weights_licence,
        "versions": card.versions,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress lines and the warnings of its own internals."""
    with ExitStack() as stack:
        sink = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(redirect_stdout(sink))
        stack.enter_context(redirect_stderr(sink))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, logging.NOTSET)
        yield


def _write(task: Classifier, example: Tensor, path: Path, about: dict[str, Any]) -> None:
    with _quiet():
        program = torch.onnx.export(
            task,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None, "the default exporter returns its program"
        program.model.metadata_props["featherbone"] = json.dumps(about)
        program.save(str(path))


def open_session(path: Path) -> Any:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def prove(task: Classifier, path: Path, batch: Tensor) -> Parity:
    """Parity of the file with the model on a batch of the network's input, image by image as a device runs it."""
    session = open_session(path)
    rows = [session.run(None, {"images": image[None].numpy()})[0] for image in track(batch, "proving", len(batch))]
    with torch.inference_mode():
        raw = torch.cat([task(image[None]) for image in batch])
    got = torch.cat([torch.from_numpy(row) for row in rows])
    every = len(task.classes)
    return compare(task.decode(raw, top=every), task.decode(got, top=every), raw, got)
