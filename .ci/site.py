"""Build the documentation into build/site, with every link checked, and list its pages in llms.txt.

uv run python .ci/site.py
"""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"


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


def main() -> None:
    """Build; exit with the generator's code where a link or a reference is broken."""
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    (SITE / "llms.txt").write_text(index(project), encoding="utf-8")


if __name__ == "__main__":
    main()
