import re
from pathlib import Path

from scenes import write_classification

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """Only size and length are cut down, and the photos are drawn ones under the names of the text."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(code.strip().splitlines()) <= 8
    monkeypatch.chdir(tmp_path)
    write_classification(tmp_path / "flowers", 12, 12, (32, 32))
    for split in ("train", "val"):
        (tmp_path / "flowers" / split / "circle").rename(tmp_path / "flowers" / split / "daisy")
    picture = sorted((tmp_path / "flowers/val/daisy").iterdir())[0]
    picture.rename(picture.with_name("1.jpg"))
    for long, short in (("image_size=128", "image_size=32"), ("epochs=40", "epochs=1, device='cpu', workers=0")):
        assert long in code
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), {})
    name, share, *_ = capsys.readouterr().out.split()
    assert name in {"daisy", "cross", "ring", "square", "star", "triangle"} and share.endswith("%")


def test_the_tree_is_the_tree():
    (tree,) = re.findall(r"```\n(src/featherbone/\n.*?)```", TEXT, re.S)
    source = ROOT / "src" / "featherbone"
    named = set(re.findall(r"(\w+)/ ", tree)) | set(re.findall(r"\w+\.py", tree))
    rooms = {entry.name for entry in source.iterdir() if entry.is_dir() and any(entry.glob("*.py"))} - {"__pycache__"}
    files = {entry.name for entry in source.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert (rooms | files) <= named, (rooms | files) - named


def test_every_picture_and_page_named_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_set_up_is_two_commands():
    (block,) = re.findall(r"## Set-up\n\n```\n(.*?)```", TEXT, re.S)
    assert block.split("\n")[:2] == ["pip install uv && uv run featherbone demo", "uv run pytest"]
    assert "uv run pytest" in (ROOT / ".ci" / "run").read_text()


def test_every_test_named_in_the_page_on_reliability_exists():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 30
    for file, name in named:
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (file, name)
