"""CoreML packages for Apple's devices, in full precision; written anywhere, run on macOS and iOS."""

from pathlib import Path
from shutil import make_archive
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from featherbone.exporters.onnx import quiet
from featherbone.exporters.program import device_program
from featherbone.tasks.raw import Flat


def write(net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
    """A network as an ML program with the input `images` and outputs of `names`.

    A package is a folder; `path` is its archive, to be unpacked for Xcode.
    """
    program = device_program(net, example)
    with quiet(), TemporaryDirectory() as folder:
        import coremltools as ct

        model = ct.convert(
            plainer(program.run_decompositions({})),
            inputs=[ct.TensorType(name="images", shape=tuple(example.shape))],
            outputs=[ct.TensorType(name=name) for name in names],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(Path(folder) / "model.mlpackage"))
        made = make_archive(str(path.with_suffix("")), "zip", folder)
        assert Path(made) == path, f"{path}: the archive of a package ends in .zip"


def plainer(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program as coremltools reads it: no alias of a tensor, and max-pooling whose stride is told."""
    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten.alias.default and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.target == torch.ops.aten.max_pool2d.default and len(node.args) == 2:
            node.args = (*node.args, node.args[1])
    program.graph_module.recompile()
    return program
