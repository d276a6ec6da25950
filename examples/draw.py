"""Draw a data set for a task, to try the tutorials without photos: uv run python examples/draw.py detection photos.

The scenes are those of the tests: six things that differ only in their outline, on grass, water or bricks.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from scenes import WRITE


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw by the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Draw a data set for a task.")
    parser.add_argument("task", choices=WRITE)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=120, help="number of training images")
    parser.add_argument("--val", type=int, default=30, help="number of validation images")
    parser.add_argument("--side", type=int, default=128, help="height and width in pixels")
    given = parser.parse_args(arguments)
    WRITE[given.task](given.folder, given.train, given.val, (given.side, given.side))


if __name__ == "__main__":
    main()
