"""LiteRT files for Android and the edge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.target import Opener, Run, Target, quiet


def open_litert(path: str, threads: int) -> Callable[[Any], list[Any]]:
    """A file in LiteRT's interpreter. Raises `ValueError` for one that has not one signature."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise ValueError(f"{len(signatures)} signatures instead of one")
    ((_, signature),) = signatures.items()
    runner = interpreter.get_signature_runner()
    (given,) = signature["inputs"]
    order = sorted(signature["outputs"], key=lambda name: int(name.rpartition("_")[2]))

    def run(images: Any) -> list[Any]:
        found = runner(**{given: images})
        return [found[name].copy() for name in order]

    return run


class LiteRT(Target):
    """A file whose outputs are `output_0` and so on."""

    name = "litert"
    file = "model.tflite"
    magic = (4, (b"TFL3",))
    packages = ("litert_torch",)
    run_packages = ("ai_edge_litert",)
    dynamic = ("none",)
    nms = False
    device_form = True
    max_rank = 5
    lacks = (
        *("torchvision.nms", "torchvision.roi_align", "torchvision.deform_conv2d"),
        *("aten.col2im", "aten._upsample_bi"),
    )

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False) -> None:
        with quiet():
            import litert_torch

            litert_torch.convert(net, (example,), strict_export=False).export(str(path))

    def opener(self) -> Opener:
        return open_litert

    def open(self, path: Path) -> Run:
        try:
            run = open_litert(str(path), torch.get_num_threads())
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise BadRun(f"{path}: LiteRT does not take it ({why}); export the run again") from None
        return lambda images: [torch.from_numpy(value) for value in run(images.contiguous().numpy())]
