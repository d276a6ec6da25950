"""What training adds to a run folder: metrics line by line, and the state for an exact resume."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from featherbone.errors import BadRun
from featherbone.files import write_bytes, write_text

METRICS, STATE = "metrics.jsonl", "state.pt"
SEAL = b"featherbone sha256 "
"""What stands at the end of a state, before the digest of all that precedes."""


def require_folder(run: Path) -> None:
    """Raise `BadRun` where the folder of a run in progress was removed; writing would make half of it again."""
    if not run.is_dir():
        raise BadRun(f"{run}: the run folder was removed during training; start again")


def save_state(run: Path, state: dict[str, Any]) -> None:
    """What an exact resume needs, atomically: the newest complete one is always there."""
    content = io.BytesIO()
    torch.save(state, content)
    content.write(SEAL + hashlib.sha256(content.getbuffer()).digest())
    write_bytes(run / STATE, content.getbuffer())


def load_state(run: Path) -> dict[str, Any]:
    """The saved state, its digest checked; nothing in it is executed. Raises `BadRun`.

    A state without a digest, of an earlier version, is read as it is.
    """
    path = run / STATE
    try:
        content = path.read_bytes()
        size = len(content) - len(SEAL) - hashlib.sha256().digest_size
        if content[size:].startswith(SEAL):
            content, digest = content[:size], content[size + len(SEAL) :]
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("other bytes than were written")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage leads to
        raise BadRun(f"{path}: damaged ({type(error).__name__}); restore the file, or train again") from None


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`, one an epoch; a line that was cut off by a crash is left out."""
    path = run / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def write_metrics(run: Path, rows: list[dict[str, Any]]) -> None:
    """All rows, atomically: a resumed run takes back what it is about to repeat."""
    write_text(run / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
