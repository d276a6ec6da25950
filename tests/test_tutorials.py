"""The tutorials' commands and the notebooks, as they are written, on a few small drawn images and a tiny backbone."""

import re
import runpy
import shlex

import nbformat
import pytest

from featherbone.cli import main
from pages import COMMAND, PAGES, ROOT, lines
from scenes import WRITE

DRAW = ROOT / "examples" / "draw.py"
SIZES = ["--train", "12", "--val", "8", "--side", "64"]
SHORT = "--model test_resnet --no-pretrained --image-size 64 --epochs 1 --batch-size 4 --workers 0 --device cpu"
LESS = {"train": SHORT, "evaluate": "--workers 0 --device cpu", "predict": "--device cpu", "export": "--count 4"}
"""Options that are added to the commands; the last of an option counts."""
NOTEBOOKS = {path.stem: nbformat.read(path, 4) for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))}


@pytest.mark.parametrize("task", WRITE)
def test_the_commands_and_the_python_of_a_tutorial_run(task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page, ran = PAGES[f"docs/tutorials/{task}.md"], []
    for line in lines(page, "bash"):
        if "examples/draw.py" in line:
            arguments = shlex.split(line.split("examples/draw.py ")[1])
            runpy.run_path(str(DRAW))["main"]([*arguments, *SIZES])
            continue
        command, *options = shlex.split(COMMAND.sub("", line, count=1))
        assert main([command, *options, *LESS.get(command, "").split()]) == 0, capsys.readouterr().err
        ran.append(command)
    assert ran == ["doctor", "train", "evaluate", "predict", "export"]
    assert (tmp_path / "found" / "predictions.json").is_file()
    assert list((tmp_path / "runs" / task / "exports").glob("*/featherbone.json"))
    capsys.readouterr()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(code, f"{task}.md", "exec"), {})


def test_notebooks_are_stored_without_results():
    assert list(NOTEBOOKS) == sorted(WRITE)
    for task, notebook in NOTEBOOKS.items():
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), task
