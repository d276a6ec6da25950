"""Puts ONNX Runtime's files for browsers into the wheel, so that its users export pages without a download."""

import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = Path("featherbone") / "exporters" / "page" / "ort"


class CustomBuildHook(BuildHookInterface[Any]):
    """For the standard wheel; an editable install, or a wheel built offline, downloads them when first needed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Download the files to a temporary folder and list them for the wheel."""
        self.folder = None
        if self.target_name != "wheel" or version != "standard":
            return
        source = Path(self.root) / "src" / "featherbone" / "exporters" / "ort_files.py"
        spec = importlib.util.spec_from_file_location("ort_files", source)
        assert spec is not None and spec.loader is not None
        files = importlib.util.module_from_spec(spec)  # by its path, because importing the package needs torch
        spec.loader.exec_module(files)
        self.folder = Path(tempfile.mkdtemp(prefix="featherbone-ort-"))
        try:
            files.fetch(self.folder / "ort")
        except files.NotFetched as error:
            shutil.rmtree(self.folder)
            self.folder = None
            self.app.display_warning(f"this wheel downloads {files.PACKAGE} at its first export to web: {error}")
            return
        for name in files.NAMES:
            build_data["force_include"][str(self.folder / "ort" / name)] = str(PAGE / name)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder)
