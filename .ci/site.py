"""Build the documentation into build/site, with every link checked, and list its pages in llms.txt.

uv run python .ci/site.py
"""

import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
SETTINGS = ROOT / "build" / "settings.md"
"""What docs/settings.md includes."""


def pages(nav: list[dict[str, Any]], section: str = "") -> Iterator[tuple[str, str, str]]:
    """Section, title and file of the pages in a navigation, in order."""
    for entry in nav:
        for title, target in entry.items():
            if isinstance(target, str):
                yield section, title, target
            else:
                yield from pages(target, title)


def summary(page: Path) -> str:
    """The first sentence below the heading of a page."""
    text = page.read_text(encoding="utf-8")
    if text.startswith("--8<--"):
        return ""
    paragraph = " ".join(text.split("\n\n")[1].split())
    return paragraph.split(". ")[0].removesuffix(".").removesuffix(":")


def index(project: dict[str, Any]) -> str:
    """The content of llms.txt (llmstxt.org) for a project in zensical.toml."""
    lines, last = [f"# {project['site_name']}", "", f"> {project['site_description']}."], None
    for section, title, file in pages(project["nav"]):
        if section != last:
            lines += ["", f"## {section or 'Overview'}", ""]
            last = section
        about = summary(ROOT / "docs" / file)
        lines.append(f"- [{title}]({file.removesuffix('.md')}.html){': ' if about else ''}{about}")
    return "\n".join(lines) + "\n"


def settings() -> str:
    """The settings of training in Markdown: those of `featherbone train --help`, with the presets and the recipes."""
    from featherbone.engine.settings import OPTIONS, TYPES, default, effect, in_words
    from featherbone.recipes import RECIPES
    from featherbone.tasks.task import KINDS

    def chosen(values: Mapping[str, object]) -> str:
        words = {name: f"{x:.6g}" if isinstance(x, float) else in_words(x) for name, x in values.items()}
        return ", ".join(f"[`{name}`](#{name}) {value}" for name, value in words.items())

    lines = ["## Settings", ""]
    for name, option in OPTIONS.items():
        bounds = option.metadata["range"]
        numbers = f", {bounds[0]:.10g} to {bounds[1]:.10g}" if bounds else ""
        lines += [f"### `{name}` {{ #{name} }}", "", effect(name).replace("<", "&lt;"), ""]
        kinds = get_args(TYPES[name]) if get_origin(TYPES[name]) in (Union, UnionType) else (TYPES[name],)
        kind = " | ".join("None" if kind is type(None) else inspect.formatannotation(kind) for kind in kinds)
        lines += [f"`{kind.replace('typing.', '')}`{numbers}. Default: {default(name)}.", ""]
    lines += ["## Presets", ""]
    for task, kind in KINDS.items():
        lines += [f"- `{name}`, {task}: {chosen(values)}." for name, values in kind.presets.items()]
    lines += ["", "## Recipes", ""]
    for name, recipe in RECIPES.items():
        lines += [f"### `{name}`", "", inspect.getdoc(recipe) or "", "", f"It sets {chosen(recipe())}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Build; exit with the generator's code where a link or a reference is broken."""
    SETTINGS.parent.mkdir(exist_ok=True)
    SETTINGS.write_text(settings(), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    (SITE / "llms.txt").write_text(index(project), encoding="utf-8")


if __name__ == "__main__":
    main()
