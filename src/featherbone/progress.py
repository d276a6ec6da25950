"""Progress bars on standard error, quiet when it is not a terminal."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from featherbone.text import printable

T = TypeVar("T")

console = Console(stderr=True, highlight=False)


def notify(text: str, mark: str = "", style: str = "yellow") -> None:
    """One line to standard error, `mark` before it in colour; nothing in `text` is taken for formatting."""
    console.print(Text.assemble((f"{mark} ", style) if mark else "", printable(text)), soft_wrap=True)


class Bar(Protocol):
    """Reports progress to a bar."""

    def __call__(self, advance: int = 1, note: str = "") -> None: ...


@contextmanager
def bar(title: str, total: int | None = None, done: int = 0) -> Iterator[Bar]:
    """A bar of `total` steps, where that is known, of which `done` are completed.

    Call it after each step, with a short note if there is one.
    """
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")

        def step(advance: int = 1, note: str = "") -> None:
            progress.update(task, advance=advance)
            if note:
                progress.update(task, note=note)

        yield step


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """`items`, with a bar."""
    with bar(title, total) as step:
        for item in items:
            yield item
            step()
