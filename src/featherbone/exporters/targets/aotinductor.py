"""Packages of torch's ahead-of-time compiler: machine code for one kind of processor, which needs no Python."""

from pathlib import Path

import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.target import Run, Target, dynamic_shapes, quiet


class AOTInductor(Target):
    """A package whose outputs have no names; their order is that of the manifest."""

    name = "torch"
    file = "model.pt2"
    magic = (0, (b"PK\x03\x04",))
    machine_code = True

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False) -> None:
        from torch._inductor import aoti_compile_and_package

        shapes = dynamic_shapes(dynamic, example)
        with quiet(), torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(net, (example,), dynamic_shapes=shapes, strict=False)
            # freezing stores weights in the layout of their kernels, once for each place a layer is used at
            aoti_compile_and_package(program, package_path=str(path), inductor_configs={"freezing": True})

    def open(self, path: Path) -> Run:
        import torchvision  # noqa: F401 - its operators may be in a package
        from torch._inductor import aoti_load_package

        try:
            compiled = aoti_load_package(str(path))
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise BadRun(f"{path}: torch does not take it ({why}); export the run again") from None

        def run(images: Tensor) -> list[Tensor]:
            found = compiled(images)
            return [value.clone() for value in (found if isinstance(found, list | tuple) else (found,))]

        return run
