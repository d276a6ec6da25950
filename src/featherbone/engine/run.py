"""Files of a run folder that training keeps: metrics line by line, and the state for an exact resume."""

import hashlib
import io
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import torch

from featherbone.errors import BadRun
from featherbone.files import parse_value, read_text, to_json, write_bytes, write_text

METRICS, STATE = "metrics.jsonl", "state.pt"
SEAL = b"featherbone sha256 "
"""End of a state, before the digest of everything that precedes."""
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
"""Optimiser states in the shape of each parameter."""
AGAIN = "restore the file, or train again"


class State(TypedDict):
    """Content of `state.pt`."""

    step: Annotated[int, msgspec.Meta(ge=0)]
    best: float
    sums: dict[str, float]
    seconds: float
    task: dict[str, Any]
    ema: dict[str, Any] | None
    optimiser: dict[str, Any]
    scaler: dict[str, Any] | None


class Row(TypedDict):
    """A line of `metrics.jsonl`; numbers that were not finite are None."""

    epoch: int
    step: int
    lr: float | None
    train: dict[str, float | None]
    val: dict[str, float | None]
    seconds: float


def require_folder(run: Path) -> None:
    """Raise `BadRun` where the folder of a run in progress was removed; writing would create a part of it."""
    if not run.is_dir():
        raise BadRun(f"{run}: the run folder was removed during training; start again")


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Write the state for an exact resume, atomically: there is always a complete one."""
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
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage leads to
        raise BadRun(f"{path}: damaged ({type(error).__name__}); {AGAIN}") from None
    parse_value(state, str(path), State, BadRun, AGAIN)
    for name in ("task", "ema"):
        wrong = [key for key, x in (state[name] or {}).items() if not isinstance(x, torch.Tensor)]
        if wrong:
            raise BadRun(f"{path}: {name} {wrong[0][:80]} is not a tensor; {AGAIN}")
    return state


def fit_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any], run: Path) -> None:
    """Load an optimiser's state, whose parameters must have the same shapes. Raises `BadRun`."""
    own = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    try:
        saved = [index for group in state["param_groups"] for index in group["params"]]
        fits = len(saved) == len(own) and state["state"].keys() <= set(saved)
        for index, parameter in zip(saved, own, strict=False):
            moments = state["state"].get(index, {})
            fits = fits and all(moments[name].shape == parameter.shape for name in MOMENTS if name in moments)
        if fits:
            optimiser.load_state_dict(state)
    except Exception as error:  # torch raises whatever the damage leads to
        raise BadRun(f"{run / STATE}: damaged optimiser ({type(error).__name__}); {AGAIN}") from None
    if not fits:
        raise BadRun(f"{run / STATE}: the optimiser's state is of another model; {AGAIN}")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`, one an epoch; a last line that was cut off by a crash is left out. Raises `BadRun`."""
    path = run / METRICS
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    lines = read_text(path, str(path)).splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = msgspec.json.decode(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise BadRun(f"{path}, line {number}: not JSON; remove the line") from None
        parse_value(row, f"{path}, line {number}", Row, BadRun, "remove the line")
        rows.append(row)
    return rows


def write_metrics(run: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows, atomically: a resumed run removes those that it repeats."""
    write_text(run / METRICS, "".join(to_json(row) + "\n" for row in rows))
