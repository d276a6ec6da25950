"""A web page that runs an ONNX file in the browser."""

from pathlib import Path
from typing import Any

from featherbone.exporters.targets.onnx import ONNX
from featherbone.exporters.web import require_web, write_web


class WebPage(ONNX):
    """The ONNX file with a page and its runtime around it, for any static host."""

    name = "web"
    int8_packages = None
    published = True
    dynamic = ("none", "batch")
    forms = False  # the page normalises and decodes

    def require(self) -> None:
        super().require()
        require_web()

    def finish(self, folder: Path, about: dict[str, Any]) -> None:
        super().finish(folder, about)
        write_web(folder, about)
