"""LiteRT files (.tflite) for Android and the edge."""

from pathlib import Path

from torch import Tensor

from featherbone.exporters.onnx import quiet
from featherbone.exporters.program import form_for_devices
from featherbone.tasks.raw import Flat


def write(net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str) -> None:
    """A network as a LiteRT file; its outputs are `output_0` and so on, in the order of `names`."""
    with quiet():
        import litert_torch

        with form_for_devices(net):
            litert_torch.convert(net, (example,), strict_export=False).export(str(path))
