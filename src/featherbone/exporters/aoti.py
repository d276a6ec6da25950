"""Packages of torch's ahead-of-time compiler: machine code for this kind of processor, no Python needed."""

from pathlib import Path

import torch
from torch import Tensor

from featherbone.exporters.onnx import dynamic_shapes, quiet
from featherbone.tasks.raw import Flat


def write(net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
    """A network as a package; its outputs have no names, their order is that of `names`."""
    from torch._inductor import aoti_compile_and_package

    layout = "NHWC" if example.dtype == torch.uint8 else "NCHW"
    with quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(net, (example,), dynamic_shapes=dynamic_shapes(dynamic, layout), strict=False)
        # freezing lays the weights out for its kernels, a layer's once for each place it is used at
        aoti_compile_and_package(program, package_path=str(path), inductor_configs={"freezing": True})
