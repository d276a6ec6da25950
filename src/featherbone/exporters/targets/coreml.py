"""CoreML packages for Apple's devices, in full precision; written anywhere, run on macOS and iOS."""

import sys
from pathlib import Path
from shutil import make_archive
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from featherbone.errors import BadOption, BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.target import Run, Target, quiet


class CoreML(Target):
    """The archive of an ML program with the input `images` and named outputs; unpack it for Xcode."""

    name = "coreml"
    file = "model.mlpackage.zip"
    magic = (0, (b"PK\x03\x04",))
    packages = ("coremltools",)
    run_packages = packages
    extra = "coreml"
    platform = "darwin"
    dynamic = ("none",)
    nms = False
    device_form = True
    max_rank = 5
    lacks = ("torchvision.roi_align", "torchvision.deform_conv2d", "aten.col2im", "aten.upsample_bicubic2d")

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False) -> None:
        program = torch.export.export(net, (example,), strict=False)
        with quiet(), TemporaryDirectory() as folder:
            import coremltools as ct

            model = ct.convert(
                simplify(program.run_decompositions({})),
                inputs=[ct.TensorType(name="images", shape=tuple(example.shape))],
                outputs=[ct.TensorType(name=name) for name in names],
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=ct.precision.FLOAT32,
                skip_model_load=True,
            )
            model.save(str(Path(folder) / "model.mlpackage"))
            archive = make_archive(str(path.with_suffix("")), "zip", folder)
            assert Path(archive) == path, f"{path}: the archive of a package ends in .zip"

    def open(self, path: Path) -> Run:
        """As `Target.open`. Raises `BadOption` on other systems than macOS."""
        if sys.platform != self.platform:
            raise BadOption(f"{path}: CoreML files run only on macOS, this is {sys.platform}; run it there")
        import coremltools as ct

        with TemporaryDirectory() as folder:
            try:
                with ZipFile(path) as archive:
                    archive.extractall(folder)
                model = ct.models.MLModel(str(Path(folder) / "model.mlpackage"), compute_units=ct.ComputeUnit.CPU_ONLY)
            except (BadZipFile, OSError, RuntimeError, ValueError) as error:
                raise BadRun(f"{path}: CoreML does not take it ({error}); export the run again") from None
        names = [output.name for output in model.get_spec().description.output]

        def run(images: Tensor) -> list[Tensor]:
            found = model.predict({"images": images.contiguous().numpy()})
            return [torch.from_numpy(found[name].copy()) for name in names]

        return run


def simplify(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program in operators that coremltools reads: no aliases, and max-pooling with an explicit stride."""
    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten.alias.default and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.target == torch.ops.aten.max_pool2d.default and len(node.args) == 2:
            node.args = (*node.args, node.args[1])
    program.graph_module.recompile()
    return program
