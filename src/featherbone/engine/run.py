"""What training adds to a run folder: metrics line by line, and the state for an exact resume."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from featherbone.errors import BadRun
from featherbone.files import write_bytes, write_text

METRICS, STATE = "metrics.jsonl", "state.pt"


def save_state(run: Path, state: dict[str, Any]) -> None:
    """What an exact resume needs, atomically: the newest complete one is always there."""
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(run / STATE, content.getbuffer())


def load_state(run: Path) -> dict[str, Any]:
    """The saved state; nothing in it is executed. Raises `BadRun`."""
    path = run / STATE
    if not path.is_file():
        raise BadRun(f"{run}: nothing to resume, there is no {STATE}; start again into another folder")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage leads to
        raise BadRun(f"{path}: damaged ({type(error).__name__}); train again from the start") from None


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
