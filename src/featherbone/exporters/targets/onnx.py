"""ONNX files, by torch's default exporter, for ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from featherbone.errors import BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.target import Quantizer, Run, Target, dynamic_shapes, quiet
from featherbone.files import atomic, to_json

OPSET = 20


class ONNX(Target):
    """A file with the input `images` and named outputs."""

    name = "onnx"
    file = "model.onnx"
    magic = (0, (b"\x08",))  # the field of the IR's version
    packages = ("onnx", "onnxscript", "onnxruntime")
    run_packages = ("onnxruntime",)
    int8_packages: ClassVar[tuple[str, ...] | None] = ("onnxruntime",)
    extra = "onnx"
    lacks = ("attention of 5 dimensions",)
    slow = ("aten._upsample_bi", "aten.adaptive_avg_pool2d")

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
        write_onnx(net, example, path, names, dynamic)

    def finish(self, folder: Path, about: dict[str, Any]) -> None:
        """Put the content of `featherbone.json` into the file's metadata, too."""
        import onnx

        path = folder / self.file
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {"featherbone": to_json(about)})
        with atomic(path) as partial:
            onnx.save(model, partial)

    def open(self, path: Path) -> Run:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as states

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        refusals = states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented, states.NoSuchFile
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except refusals as error:
            why = str(error).splitlines()[0]
            raise BadRun(f"{path}: ONNX Runtime does not take it ({why}); export the run again") from None
        name = session.get_inputs()[0].name

        def run(images: Tensor) -> list[Tensor]:
            outputs = session.run(None, {name: images.numpy()})
            return [torch.from_numpy(np.asarray(value)) for value in outputs]

        return run

    def quantizer(
        self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, inputs: Sequence[Tensor]
    ) -> Quantizer:
        from featherbone.exporters.int8.onnx import Source

        return Source(net, example, path, names, dynamic, inputs)


def write_onnx(net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
    """As `Target.write`."""
    with quiet():
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            dynamic_shapes=dynamic_shapes(dynamic, example),
            verbose=False,
        )
        assert program is not None, "the default exporter returns its program"
        program.save(str(path))
