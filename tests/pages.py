"""The pages of the documentation as tests read them: their commands, and commands parsed without being run."""

import re
import shlex
from functools import wraps
from pathlib import Path

from featherbone import cli

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
"""The text of each page by its path."""
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$|((?:^ {4}\S.*\n(?:^ {4,}.*\n)*)+)", re.M | re.S)
COMMAND = re.compile(r"(?:uv run |.* -m |\S*/)?featherbone (?=\S)")
"""How a command of ours begins, also after a launcher."""


def lines(text, *languages):
    """Lines of the code blocks of a page in these languages, by default all; continued lines are joined."""
    for language, fenced, indented in BLOCK.findall(text):
        if not languages or language in languages:
            yield from (line.strip() for line in (fenced or indented).replace("\\\n", " ").splitlines())


def commands(text):
    """Arguments of our commands in the code blocks of a page."""
    found = [line for line in lines(text) if COMMAND.match(line)]
    return [shlex.split(COMMAND.sub("", line, count=1), comments=True) for line in found]


def spans(text):
    """Code within the lines of a page, with single spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))]


def parse(patch, arguments):
    """Parse the arguments of a command by the real parser, running nothing. Raises `SystemExit` where it refuses."""
    ran = []
    name = next(name for name in cli.COMMANDS if [*name.split()] == arguments[: len(name.split())])
    function = cli.COMMANDS[name]
    patch.setattr(cli, "COMMANDS", {name: wraps(function)(lambda *_, **__: ran.append(name))})
    cli.main(arguments)
    assert ran == [name]
