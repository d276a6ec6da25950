"""The download of ONNX Runtime's files for browsers."""

import base64
import hashlib
import io
import tarfile

import pytest

from featherbone.errors import MissingExtra
from featherbone.exporters import ort_files
from featherbone.exporters.targets import web
from featherbone.exporters.targets.web import PAGE, copy_page, require_web


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The archive's path in a registry that is a folder; nothing is vendored or cached."""
    monkeypatch.setattr(web, "PAGE", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", (tmp_path / "registry").as_uri() + "/")
    archive = tmp_path / "registry" / "onnxruntime-web" / "-" / "onnxruntime-web-1.30.0.tgz"
    archive.parent.mkdir(parents=True)
    return archive


def write_archive(path):
    with tarfile.open(path, "w:gz") as tar:
        for name in (*(f"package/dist/{name}" for name in ort_files.NAMES), "../outside", "package/more"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))


def test_the_runtime_is_downloaded_once_and_verified(registry, tmp_path, monkeypatch):
    """A wrong archive is refused, the right one unpacked, and not requested again."""
    with pytest.raises(MissingExtra, match=r"onnxruntime-web@1\.30\.0.*failed: file:.*No such file.*connect"):
        require_web()
    write_archive(registry)
    with pytest.raises(MissingExtra, match="SHA-512 differs"):
        require_web()
    folder = tmp_path / "cache" / "featherbone"
    assert not folder.exists() or not list(folder.iterdir())
    digest = base64.b64encode(hashlib.sha512(registry.read_bytes()).digest()).decode()
    monkeypatch.setattr(ort_files, "INTEGRITY", digest)
    found = require_web()
    assert found == folder / "onnxruntime-web-1.30.0"
    assert {path.name for path in found.iterdir()} == set(ort_files.NAMES)
    registry.unlink()
    assert require_web() == found
    (found / ort_files.NAMES[0]).unlink()
    with pytest.raises(MissingExtra, match="No such file"):
        require_web()


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:9"])
def test_a_registry_that_does_not_answer_is_named(address, registry, monkeypatch):
    monkeypatch.setenv("npm_config_registry", address)
    with pytest.raises(MissingExtra, match=f"{address}/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz: .*registry"):
        require_web()


def test_the_registry_is_that_of_npm_or_must_be_stated(registry, tmp_path, monkeypatch):
    monkeypatch.delenv("npm_config_registry")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="set npm_config_registry to the address of an npm registry, or install npm"):
        require_web()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho http://127.0.0.1:9/\n")
    npm.chmod(0o755)
    assert ort_files.find_registry() == "http://127.0.0.1:9/"


def test_all_that_a_page_needs_is_copied(tmp_path):
    try:
        copy_page(tmp_path)
    except MissingExtra as error:
        pytest.skip(str(error))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in PAGE.iterdir() if path.is_file()} | set(ort_files.NAMES)
    for path in tmp_path.glob("*.js"):
        for line in path.read_text().splitlines():
            if line.startswith("import "):
                assert line.split('"./')[1].rstrip('";') in names
    text = (tmp_path / "onnxruntime-LICENSE.txt").read_text()
    assert "MIT License" in text and "Microsoft" in text
