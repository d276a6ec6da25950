"""Curves for TensorBoard, on request."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featherbone.errors import MissingExtra


@contextmanager
def curves(run: Path, wanted: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes a row of `metrics.jsonl`; it writes into `run/tensorboard`, or nothing unless `wanted`."""
    if not wanted:
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra("TensorBoard is not installed; pip install 'featherbone[tensorboard]'") from None
    with SummaryWriter(run / "tensorboard") as writer:

        def write(row: dict[str, Any]) -> None:
            writer.add_scalar("lr", row["lr"], row["step"])
            for split in ("train", "val"):
                for name, value in row[split].items():
                    writer.add_scalar(f"{split}/{name}", value, row["step"])

        yield write
