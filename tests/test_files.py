import json
import resource
import subprocess
import sys

import pytest

from featherbone.errors import FeatherboneError
from featherbone.files import atomic, write_json, write_text


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
