"""The kinds of file that a model can be exported to, and what each cannot hold."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from torch import Tensor

from featherbone.errors import BadOption, did_you_mean
from featherbone.exporters.web import require_web
from featherbone.runtimes import require
from featherbone.tasks.raw import Flat

ROIS = ("mask_rcnn", "panoptic_fpn", "panoptic_fpn_light")
"""Heads with NMS and RoIAlign inside of the network, which looks at one image at a time."""
DYNAMIC = ("none", "batch", "size")
"""What of the input may vary: nothing, the batch, or batch, height and width."""

Write = Callable[[Flat, Tensor, Path, list[str], str], None]
"""A network, an example of its input, the file to write, names of its outputs, and what of its input may vary."""


@dataclass(frozen=True)
class Target:
    """A kind of file."""

    name: str
    file: str
    module: str
    """Of this package; its `write` makes the file."""
    packages: tuple[str, ...]
    extra: str
    """Of Featherbone, which brings the packages."""
    dynamic: tuple[str, ...] = DYNAMIC
    rois: bool = True
    """Whether NMS and RoIAlign can be part of the file."""

    @property
    def write(self) -> Write:
        """What makes the file."""
        return import_module(f"featherbone.exporters.{self.module}").write


_ONNX = ("onnx", "onnxscript", "onnxruntime")
TARGETS = {
    target.name: target
    for target in (
        Target("onnx", "model.onnx", "onnx", _ONNX, "onnx"),
        Target("openvino", "model.xml", "openvino", ("openvino", *_ONNX), "openvino"),
        Target("executorch", "model.pte", "executorch", ("executorch",), "executorch", ("none",), rois=False),
        Target("torch", "model.pt2", "aoti", (), ""),
        Target("litert", "model.tflite", "litert", ("litert_torch",), "", ("none",), rois=False),
        Target("coreml", "model.mlpackage.zip", "coreml", ("coremltools",), "coreml", ("none",), rois=False),
        Target("web", "model.onnx", "onnx", _ONNX, "onnx", ("none", "batch")),
    )
}


def find_target(name: str) -> Target:
    """A target by name. Raises `BadOption`."""
    if name not in TARGETS:
        raise BadOption(f"no target {name!r}{did_you_mean(name, TARGETS)}; there is {', '.join(TARGETS)}")
    return TARGETS[name]


def settle(
    target: Target, task: str, head: str | None, dynamic: str | None = None, with_pre: bool = False, nms: bool = False
) -> str:
    """What of the input may vary, by default as much of the batch as target and head allow.

    Raises `BadOption` for what the target cannot hold, naming what works, and `MissingExtra` without its tool-chain.
    """
    rois = head in ROIS
    if nms and (task != "detection"):
        raise BadOption(f"with-nms is for detectors; leave it out, {head or task} has none to put in")
    if (rois or nms) and not target.rois:
        what = f"{head} needs" if rois else "with-nms puts in"
        others = [other.name for other in TARGETS.values() if other.rois]
        raise BadOption(f"{what} NMS, which {target.name} lacks; export to {', '.join(others)}, or leave it out")
    if (with_pre or nms) and target.name == "web":
        raise BadOption("the page of web normalises and decodes by itself; leave with-pre and with-nms out")
    allowed = tuple(kind for kind in target.dynamic if kind == "none" or not (rois or nms))
    if dynamic is not None and dynamic not in allowed:
        why = f"{head or task} with one image at a time" if rois or nms else f"for {target.name}"
        raise BadOption(f"dynamic {dynamic!r} is not to be had {why}; give {' or '.join(allowed)}")
    require(target.packages, target.extra)
    if target.name == "web":
        require_web()
    return dynamic or ("batch" if "batch" in allowed else "none")
