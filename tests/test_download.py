"""Downloads are resumed and checked, and a file is in its place whole or not at all."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from featherbone.download import download
from featherbone.errors import BadDownload, FeatherboneError
from web import serving

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site():
    with serving() as site:
        site.files["a.pth"] = CONTENT
        yield site


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "a.pth"


def only(path):
    assert [entry.name for entry in path.parent.iterdir()] == [path.name] and path.read_bytes() == CONTENT


def test_a_file_is_downloaded_once(site, path):
    for _ in range(2):
        download(f"{site.address}/a.pth", path, len(CONTENT), SHA256)
    assert site.requests == [("a.pth", None)]
    only(path)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_continued(site, path, ranges):
    site.cut, site.ranges = 3_000_000, ranges
    with pytest.raises(BadDownload, match=r"interrupted .*the next attempt continues"):
        download(f"{site.address}/a.pth", path)
    assert not path.exists() and path.with_name("a.pth.partial").stat().st_size == 3_000_000
    download(f"{site.address}/a.pth", path, sha256=SHA256)
    assert site.requests[1] == ("a.pth", "bytes=3000000-")
    only(path)


def test_what_is_left_of_a_longer_file_is_not_used(site, path):
    path.parent.mkdir()
    for size in (None, len(CONTENT)):
        path.with_name("a.pth.partial").write_bytes(CONTENT + b"more")
        download(f"{site.address}/a.pth", path, size)
        only(path)
        path.unlink()


def test_a_complete_partial_file_takes_its_place(site, path):
    path.parent.mkdir()
    path.with_name("a.pth.partial").write_bytes(CONTENT)
    download(f"{site.address}/a.pth", path, len(CONTENT), SHA256)
    assert not site.requests
    only(path)


def test_another_file_than_expected_is_refused(site, path):
    with pytest.raises(BadDownload, match="another file than expected"):
        download(f"{site.address}/a.pth", path, sha256="0" * 64)
    with pytest.raises(BadDownload, match="5120000 bytes at the server, 7 expected"):
        download(f"{site.address}/a.pth", path, size=7)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    "address,message",
    [
        ("{site}/b.pth", "the server answers 404"),
        ("http://127.0.0.1:9/a.pth", "cannot be reached"),
        ("nonsense", "cannot be reached"),
    ],
)
def test_a_server_that_does_not_send_it(site, path, address, message):
    with pytest.raises(BadDownload, match=message):
        download(address.format(site=site.address), path)
    assert not list(path.parent.iterdir())


def test_a_folder_that_cannot_be_written(site, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FeatherboneError, match="cannot write"):
        download(f"{site.address}/a.pth", tmp_path / "cache" / "a.pth")


def test_one_of_several_threads_and_processes_downloads(site, path):
    code = (
        f"from pathlib import Path; from featherbone.download import download; download({site.address + '/a.pth'!r}, "
    )
    code += f"Path({str(path)!r}))"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: download(f"{site.address}/a.pth", path), range(3)))
    assert [other.wait() for other in others] == [0, 0]
    assert len(site.requests) == 1
    only(path)
