import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featherbone

SOURCE = Path(featherbone.__file__).parent
RANKS = (
    {"text"},
    {"results", "errors"},
    {"files", "progress", "devices"},
    {"hub", "download"},
    {"layers", "ops", "fonts"},
    {"backbones", "heads", "data"},
    {"metrics", "replacements", "draw"},
    {"tasks", "deployment"},
    {"report"},
    {"exporters"},
    {"engine", "predictor", "explainers", "publishing"},
    {"recipes", "benchmarking"},
    {"comparison"},
    {
        *("adapters", "outcomes", "prediction", "prediction_files", "prediction_rows", "video", "on_ray", "licensing"),
        *("commands", "cli", "__init__", "__main__"),
    },
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))


def room(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0]


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module] if node.module != "featherbone" else [f"featherbone.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("featherbone."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    own = room(path)
    if own == "__init__":
        return  # the front door knows every room
    for other in imported_rooms(path):
        assert other == own or RANK[other] < RANK[own] or own in RANKS[-1], f"{own} imports {other}"


def test_no_drawer_of_leftovers():
    assert not any("utils" in path.stem or "common" in path.stem or "helpers" in path.stem for path in FILES)


def test_no_room_hides_a_function():
    """A module of the package's own would take the name of a command as soon as it is imported."""
    taken = {path.stem for path in SOURCE.glob("*.py")} | {path.name for path in SOURCE.iterdir() if path.is_dir()}
    assert not taken & set(featherbone.__all__)


def test_importing_only_registers():
    """Our kernels are imported where they are asked for, so neither a network nor its deployment needs triton."""
    code = (
        "import sys, torch, torchvision, timm; sys.modules['triton'] = None; import featherbone;"
        "assert timm.is_model('lvt');"
        "heavy = {'accelerate', 'matplotlib', 'onnx', 'onnxruntime', 'pyarrow', 'tyro', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy; assert callable(featherbone.train) and callable(featherbone.load);"
        "import featherbone.deployment; timm.create_model('lvt')(torch.zeros(1, 3, 32, 32))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
