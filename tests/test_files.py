import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from featherbone.errors import BadData, BadRun, FeatherboneError
from featherbone.files import (
    atomic,
    atomic_folder,
    check_writable,
    read_json,
    read_text,
    read_yaml,
    to_json,
    write_json,
    write_text,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_json(path, {"name": "ä"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "ä"}
    with pytest.raises(RuntimeError), atomic(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "ä"}
    assert list(path.parent.iterdir()) == [path]


def test_no_room_is_one_message_and_leaves_nothing(tmp_path):
    """A real limit of the system, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from featherbone.files import write_bytes\n"
        "from featherbone.errors import FeatherboneError\n"
        "try: write_bytes(Path(sys.argv[1]), bytes(100_000))\n"
        "except FeatherboneError as error: print(error); sys.exit(2)"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, tmp_path / "file"], preexec_fn=limit, text=True, capture_output=True
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stdout and "free some space" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatherboneError, match="cannot write"):
        write_text(tmp_path / "file" / "inside.txt", "text")


def test_json_is_read_as_its_type_with_or_without_bom(tmp_path):
    path = tmp_path / "a.json"
    for bom in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(bom + b'{"images": [{"id": 1, "size": 2}]}')
        assert read_json(path, "a.json", dict[str, list[dict[str, int]]]) == {"images": [{"id": 1, "size": 2}]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'[{"bbox": [1,\n NaN]}]', r"NaN is not a number in JSON, in \[{\"bbox\": \[1, NaN\)"),
        (b"[-Infinity]", "-Infinity is not a number in JSON"),
        (b"[1e999]", "number out of range"),
        (b"1" + b"0" * 5000, "not JSON"),
        (b'[{"id": 1, "id": 2}]', "the key 'id' twice in one object"),
        (b'{"a": ', "not JSON"),
        (b"", "not JSON"),
        (b'"\xff"', "not JSON"),
        (b'[1, "text", "2"]', r"expected int, got str at \$\[1\]"),
    ],
)
def test_json_that_is_none_is_one_message(tmp_path, content, told):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BadRun, match=f"^name: .*{told}.*; restore it$"):
        read_json(tmp_path / "a.json", "name", list[int], error=BadRun, remedy="restore it")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none", tmp_path / "a\0b"):
        for read, kind in ((read_json, (dict,)), (read_yaml, ()), (read_text, ())):
            with pytest.raises(BadData, match=r"name: .*; give a file that exists"):
                read(path, "name", *kind)


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), 0.1 + 0.2, {"b": (float("-inf"), True)}], "c": "ä"})
    assert read_json(tmp_path / "a.json", "a.json", dict) == {"a": [None, 0.1 + 0.2, {"b": [None, True]}], "c": "ä"}
    assert to_json([float("inf"), 1]) == "[null, 1]"


def test_yaml_keeps_text_as_it_is_written(tmp_path):
    path = tmp_path / "data.yaml"
    for bom in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(bom + "names: [no, 007, 1.0, 2020-01-01, 1:30, 12, '5', ä]\r\nval:\r\ntest: ~\r\n".encode())
        names = ["no", "007", "1.0", "2020-01-01", "1:30", 12, "5", "ä"]
        assert read_yaml(path, "data.yaml") == {"names": names, "val": None, "test": None}
    path.write_text("names: {0: cat, 1: dog}\nbase: &base {nc: 2}\nmore: {<<: *base, x: *base}\n")
    found = read_yaml(path, "data.yaml")
    assert found["names"] == {0: "cat", 1: "dog"} and found["more"] == {"nc": 2, "x": {"nc": 2}}


LEVELS = list(zip("abcdefgh", "bcdefghi", strict=True))
BOMB = "\n".join(["a: &a [x,x,x,x,x,x,x,x,x]"] + [f"{c}: &{c} [{','.join(['*' + p] * 9)}]" for p, c in LEVELS])
MERGES = "\n".join(["a: &a {x: 1}"] + [f"{c}: &{c} {{<<: [{','.join(['*' + p] * 9)}]}}" for p, c in LEVELS])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (BOMB, "aliases make it larger than"),
        (MERGES, "aliases make it larger than"),
        ("a: &a [*a]", "an alias of what it is part of"),
        ("names: [a]\nnames: [b]", "the key 'names' twice"),
        ("[" * 2000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [exit]", "not YAML"),
        ("a: !!int foo", "not YAML"),
        ("a: !!bool maybe", "not YAML"),
        ("a: !!float ''", "not YAML"),
        ("{[a]: b}", "not YAML"),
        ("a: \0", "not YAML"),
        ("--- a\n--- b", "not YAML"),
        ("x" * (1 << 20) + "x", "at most 1048576 are read"),
    ],
)
def test_yaml_that_is_none_is_one_message(tmp_path, content, told):
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(BadData, match=f"^name: .*{told}"):
        read_yaml(tmp_path / "data.yaml", "name")


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_folder_is_replaced_file_by_file(tmp_path, monkeypatch):
    """Own files go and come, foreign ones stay; at each moment the description fits the files, or there is a misfit."""
    folder = tmp_path / "out"

    def fill(names, own=()):
        with atomic_folder(folder, own, "about") as new:
            for name in names:
                (new / name).write_text(f"new {name}")

    fill(["model", "about"])
    assert content(folder) == {"model": "new model", "about": "new about"}
    (folder / "notes").write_text("mine")
    (folder / ".git").mkdir()
    (folder / "model").write_text("old model")
    (folder / "weights").write_text("old weights")
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda one, other: (moved.append(other.name), replace(one, other)))
    fill(["about", "model", "zebra"], ["about", "model", "weights"])
    assert content(folder) == {"about": "new about", "model": "new model", "zebra": "new zebra", "notes": "mine"}
    assert moved == ["model", "zebra", "about"] and (folder / ".git").is_dir()
    fill(["report"], ["about", "model", "zebra"])
    assert content(folder) == {"report": "new report", "notes": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing else is left"


def test_a_folder_keeps_what_is_not_its_own(tmp_path, monkeypatch):
    """A new file with the name of a foreign file or folder is refused before anything changes."""
    folder = tmp_path / "out"
    (folder / "model").mkdir(parents=True)
    (folder / "notes").write_text("mine")
    for name in ("model", "notes"):
        with pytest.raises(FeatherboneError, match=f"{name} is not a file that was written here.* --out"):
            with atomic_folder(folder, ["model"], "about") as new:
                (new / "about").write_text("new")
                (new / name).write_text("new")
        assert {path.name for path in folder.iterdir()} == {"model", "notes"}
    monkeypatch.chdir(folder)
    with atomic_folder(Path("."), [], "about") as new:
        (new / "about").write_text("new")
    assert content(folder) == {"notes": "mine", "about": "new"}


KINDS = {
    "ENOSPC": "free some space", "EDQUOT": "free some space", "EFBIG": "free some space", "EACCES": "may write to",
    "EPERM": "may write to", "EROFS": "may write to", "EIO": "check the disk", "ENAMETOOLONG": "a shorter name",
    "ENOTDIR": "another place", "EISDIR": "another place", "ELOOP": "another place", "EINVAL": "another place",
    "ENOENT": "another place", "EBUSY": "another place", "ESTALE": "another place", "ENXIO": "another place",
}  # fmt: skip
"""What a system may answer, and the remedy."""


@pytest.mark.parametrize("kind,remedy", KINDS.items())
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_whatever_the_system_answers_is_one_message_and_leaves_nothing(tmp_path, monkeypatch, kind, remedy, call):
    number = getattr(errno, kind)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(FeatherboneError, match=f"cannot write .*file: {os.strerror(number)}; .*{remedy}"):
            write_text(tmp_path / "file", "text")
        assert not list(tmp_path.iterdir())
        if call == "replace":
            with pytest.raises(FeatherboneError, match=r"cannot write .*folder"), atomic_folder(tmp_path / "folder"):
                pass
            assert not list(tmp_path.iterdir())


def test_an_error_about_another_file_passes(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic(tmp_path / "file"):
        (tmp_path / "elsewhere").read_bytes()
    with pytest.raises(FeatherboneError, match="cannot write"), atomic(tmp_path / "file") as partial:
        (partial / "inside").write_bytes(b"")


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    write_text(path, "text")
    assert path.read_text() == "text" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_known_beforehand(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place, folder in ((tmp_path / "new" / "deep", True), (tmp_path / "new.html", False), (tmp_path, True)):
        check_writable(place, folder)
    for place, folder in (
        (tmp_path / "file", True),
        (tmp_path, False),
        (tmp_path / "file" / "a", False),
        (tmp_path / "loop" / "a", False),
        (tmp_path / "new" / ("x" * 300) / "a", False),
    ):
        with pytest.raises(FeatherboneError, match="cannot write"):
            check_writable(place, folder)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the super-user may write everywhere
    with pytest.raises(FeatherboneError, match="may not be written; choose a folder that you may write to"):
        check_writable(tmp_path / "new" / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]
