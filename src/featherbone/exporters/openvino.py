"""OpenVINO, from ONNX, in full precision."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from featherbone.exporters import onnx
from featherbone.tasks.raw import Flat


def write(net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
    """A network as an OpenVINO model, `path` and its weights beside it."""
    import openvino

    with TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        onnx.write(net, example, source, names, dynamic)
        openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
