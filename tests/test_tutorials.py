"""The tutorials' commands and the notebooks, as they are written, on a few small drawn images and a tiny backbone."""

import re
import shlex

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

import tutorials
from pages import PAGES, ROOT
from scenes import WRITE

DRAW = ROOT / "examples" / "draw.py"
SIZES = ["--train", "12", "--val", "8", "--side", "64"]
SHORT = "--model test_resnet --no-pretrained --image-size 64 --epochs 1 --batch-size 4 --workers 0 --device cpu"
LESS = {"train": SHORT, "evaluate": "--workers 0 --device cpu", "predict": "--device cpu", "export": "--count 4"}
"""Options that are added to the commands; the last of an option counts."""
NOTEBOOKS = {path.stem: nbformat.read(path, 4) for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))}


@pytest.mark.parametrize("task", WRITE)
def test_the_commands_and_the_python_of_a_tutorial_run(task, tmp_path, monkeypatch, capsys):
    """The outputs that the page shows are those of the commands but for their numbers, and its picture can be made."""
    monkeypatch.chdir(tmp_path)
    page = PAGES[f"docs/tutorials/{task}.md"]
    more = {command: shlex.split(options) for command, options in LESS.items()}
    printed = tutorials.run(page, SIZES, more)
    assert [*printed] == ["doctor", "train", "evaluate", "predict", "export"]
    text = masked("\n".join((*printed.values(), capsys.readouterr().err)))
    shown = [line for commands, output in tutorials.sections(page) if commands for line in output.splitlines()]
    assert len(shown) > 5
    for line in shown:
        assert line == "..." or "\n" + masked(line.removesuffix(" ...")) in text, line
    assert (tmp_path / "found" / "predictions.json").is_file()
    assert list((tmp_path / "runs" / task / "exports").glob("*/featherbone.json"))
    tutorials.join(tmp_path / "found", tmp_path / "row.png")
    with Image.open(tmp_path / "row.png") as row, Image.open(ROOT / f"docs/tutorials/{task}-found.png") as kept:
        assert row.width == kept.width
    assert f"]({task}-found.png)" in page
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(code, f"{task}.md", "exec"), {})


def masked(text):
    """A text without its numbers, their padding, and intervals, which few images do not have."""
    text = re.sub(r" \([\d.]+ to [\d.]+\)", "", text)
    return re.sub(r" *<?\d+(?:\.\d+)?(?:e-\d+)?", "#", text)


def test_notebooks_are_stored_without_results():
    assert list(NOTEBOOKS) == sorted(WRITE)
    for task, notebook in NOTEBOOKS.items():
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), task


def smaller(source):
    """The code of a cell with smaller images, fewer steps and a tiny backbone without weights."""
    source = re.sub(r"^(%run \S+draw\.py .*)$", rf"\1 {' '.join(SIZES)}", source, flags=re.M)
    tiny = '"test_resnet", batch_size=4, pretrained=False, device="cpu", workers=0'
    source = source.replace('"tf_efficientnet_lite0"', tiny).replace("image_size=128", "image_size=64")
    return re.sub(r"epochs=\d+", "epochs=1", source)


@pytest.mark.filterwarnings("default")  # those of the Jupyter client
def test_notebooks_run_from_top_to_bottom(tmp_path, monkeypatch):
    """One kernel for all, so that torch is imported once; names that a notebook lacks are found by ruff."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    (tmp_path / "draw.py").symlink_to(DRAW)
    cells = []
    for task, notebook in NOTEBOOKS.items():
        (tmp_path / task).mkdir()
        cells.append(nbformat.v4.new_code_cell(f"%cd -q {tmp_path / task}"))
        cells += [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.source = smaller(cell.source)
    joined = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(joined, kernel_name="python3", timeout=600).execute()
    shown = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 4 * len(NOTEBOOKS)
