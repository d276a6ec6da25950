"""Wheel and sdist: what they contain, and that the wheel works where the source tree is not visible."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from featherbone.exporters.ort_files import NAMES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")]


def newest():
    """The newest other Python of this machine; None if there is none."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob("3.1[3-9]*/bin/python"))
    found = [shutil.which(f"python3.{minor}") for minor in (15, 14, 13)]
    for python in [str(path) for path in reversed(pyenv)] + [path for path in found if path]:
        if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python
    return None


def uv(*arguments):
    done = subprocess.run(["uv", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, the wheel made from it, and the wheel made from the source tree."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "-q", "-o", folder)
    uv("build", "-q", "--wheel", "-o", folder / "direct")
    (sdist,), (wheel,), (direct,) = folder.glob("*.tar.gz"), folder.glob("*.whl"), folder.glob("direct/*.whl")
    return sdist, wheel, direct


def test_the_wheel_holds_the_package_and_nothing_else(built):
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    source = {name.removeprefix("src/") for name in tracked}
    assert len(source) > 200, "no repository"
    about = f"featherbone-{PROJECT['version']}.dist-info"
    own = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        metadata = BytesParser().parsebytes(wheel.read(f"{about}/METADATA"))
    runtime = {f"featherbone/exporters/page/ort/{name}" for name in NAMES}
    assert names - runtime == source | own
    assert not names & runtime or runtime <= names
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Version"] == PROJECT["version"]
    assert metadata["Description-Content-Type"] == "text/markdown" and "# Featherbone" in metadata.get_payload()


def test_the_sdist_makes_the_same_wheel(built):
    sdist, wheel, direct = built
    sums = []
    for path in (wheel, direct):
        with zipfile.ZipFile(path) as file:
            sums.append({entry.filename: entry.CRC for entry in file.infolist()})
    assert sums[0] == sums[1]
    with tarfile.open(sdist) as file:
        parts = {part for name in file.getnames() for part in Path(name).parts}
    assert not parts & {"__pycache__", "uv.lock", ".venv", ".git", "dist", "build", "runs"}


@pytest.mark.parametrize(("python", "extra"), [("own", "[onnx]"), ("newest", "")])
def test_the_wheel_works_in_an_empty_environment(built, train, short, drawn, tmp_path, python, extra):
    run = train(**short)
    interpreter = sys.executable if python == "own" else newest()
    if interpreter is None:
        pytest.skip("this machine has no newer Python")
    place = tmp_path / "elsewhere"
    place.mkdir()
    uv("venv", "-q", "--python", interpreter, place / "env")
    uv("pip", "install", "-q", "--python", place / "env", f"{built[1]}{extra}")
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}

    def call(*arguments):
        command = [place / "env" / "bin" / "featherbone", *map(str, arguments)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call("--version") == f"featherbone {PROJECT['version']}\n"
    assert "lvt_cls" in call("models", "lvt*")
    picture = next((drawn / "val").glob("*/*.jpg"))
    assert str(picture) in call("predict", run, picture, "--out", place / "predictions", "--json")
    if extra:
        call("export", run, "--images", drawn / "val", "--count", 2, "--out", place / "onnx")
        assert str(picture) in call("predict", place / "onnx", picture, "--json")
