"""The documentation: its commands are those of the parser, every page is in the navigation, and the site builds."""

import html
import importlib.util
import os
import re
import subprocess
import sys
import tomllib

import pytest

from featherbone.cli import COMMANDS, main
from pages import PAGES, ROOT, commands, parse, spans

CONFIGURATION = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
OTHERS = {"--max-worker-restart=0"}  # options of other programs without the program
SCRIPT = ROOT / ".ci" / "site.py"
site = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("site_script", SCRIPT))
spec.loader.exec_module(site)


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if commands(text)])
def test_every_command_of_a_page_is_one(page, monkeypatch, capsys):
    for arguments in commands(PAGES[page]):
        with monkeypatch.context() as patch:
            try:
                parse(patch, arguments)
            except (SystemExit, StopIteration):
                pytest.fail(f"featherbone {' '.join(arguments)}: {''.join(capsys.readouterr())}")


def test_an_option_that_does_not_exist_is_refused(monkeypatch, capsys):
    text = "```bash\nfeatherbone train --data photos \\\n    --epoch-count 3  # no such option\n```\n"
    (arguments,) = commands(text)
    assert arguments == ["train", "--data", "photos", "--epoch-count", "3"]
    with pytest.raises(SystemExit):
        parse(monkeypatch, arguments)
    assert "--epoch-count" in "".join(capsys.readouterr())


def test_every_option_within_a_line_exists(capsys):
    options = {}
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        options[name] = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    every = {option for found in options.values() for option in found}
    checked = 0
    for page, text in PAGES.items():
        for span in spans(text):
            command = re.match(rf"(?:featherbone )?({'|'.join(COMMANDS)})(?= |$)", span)
            if span not in OTHERS and (command or span.startswith(("--", "featherbone "))):
                assert command or span.startswith("--") or span == "featherbone COMMAND --help", (page, span)
                named = set(re.findall(r"(?<!\S)--[a-z][\w-]*", span))
                assert named <= (options[command[1]] if command else every), (page, span)
                checked += len(named)
    assert checked > 100


def test_every_page_is_in_the_navigation():
    listed = [f"docs/{file}" for _, _, file in site.pages(CONFIGURATION["nav"])]
    assert sorted(listed) == sorted(set(PAGES) - {"README.md"})


def test_every_picture_of_a_page_exists():
    for page, text in PAGES.items():
        for target in re.findall(r"!\[[^\]]*\]\((?!http)([^)]+)\)", text):
            assert (ROOT / page).parent.joinpath(target).is_file(), (page, target)


def test_pictures_are_small():
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in {".png", ".jpg", ".webp", ".svg"}]
    assert sum(path.stat().st_size for path in pictures) < 2**20


@pytest.fixture(scope="module")
def built():
    """The site, built strictly and without a network."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run([sys.executable, SCRIPT], env={**os.environ, **nowhere}, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    return ROOT / "build" / "site"


def test_the_site_needs_no_other_host(built):
    files = [*built.rglob("*.html"), *built.rglob("*.css")]
    assert len(files) > 30
    for file in files:
        text = file.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\s>]*", text)
        loaded += re.findall(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^\s>]*", text)
        loaded += re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']*", text)
        assert not loaded, (file, loaded)


def test_llms_txt_lists_every_page(built):
    text = (built / "llms.txt").read_text(encoding="utf-8")
    title, empty, about, *_ = text.splitlines()
    assert title == "# Featherbone" and not empty and about.startswith("> ")
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)(?:: \S.*)?$", text, re.M)
    assert len(links) == len(PAGES) - 1 and all((built / link).is_file() for link in links)
    assert re.findall(r"^## (.*)", text, re.M) == [
        "Overview",
        *(key for row in CONFIGURATION["nav"][1:] for key in row),
    ]


def test_the_python_page_has_every_public_function(built):
    import featherbone

    text = (built / "api.html").read_text(encoding="utf-8")
    for name in featherbone.__all__:
        assert re.search(rf'id="featherbone\.\w+\.{name}"', text), name


def test_the_settings_page_has_every_setting_as_its_help_states_it(built):
    from featherbone.engine.settings import OPTIONS, default, effect

    text = (built / "settings.html").read_text(encoding="utf-8")
    for name in OPTIONS:
        _, heading, rest = text.partition(f'<h3 id="{name}">')
        section = html.unescape(rest.partition("<h")[0])
        assert heading and effect(name) in section and f"Default: {default(name)}." in section, name
    assert 'id="lvt_segformer"' in text and "<code>small-data</code>, semantic" in text


def test_a_broken_link_fails(tmp_path):
    """The generator in strict mode reports a link to a page and to a heading that do not exist."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\nvalidation = true\nnav = ["index.md"]\n')
    for link in ("missing.md", "index.md#missing"):
        (tmp_path / "docs" / "index.md").write_text(f"# Title\n\n[link]({link})\n")
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode and "1 issue" in done.stdout + done.stderr, link
