"""Reading every image once before work starts."""

import os
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

from featherbone.errors import BadImage
from featherbone.progress import track

T = TypeVar("T")


def look_at_each(images: Sized, look: Callable[[int], T], title: str = "checking images") -> Iterator[T]:
    """`look(index)` of every image in order, by one thread a core, with a bar."""
    count, chunk = len(images), 1024  # chunks, for the pool holds all that it was given at once
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = (pool.map(look, range(at, min(at + chunk, count))) for at in range(0, count, chunk))
        yield from track(chain.from_iterable(looks), title, count)


def find_unreadable(images: Any) -> dict[int, str]:
    """Index and reason of every image that cannot be read, or fails its own `check` if it has one."""

    def problem(index: int) -> str | None:
        try:
            images.check(index)
        except BadImage as error:
            return str(error)
        return None

    return {index: reason for index, reason in enumerate(look_at_each(images, problem)) if reason}


def leave_out(images: Any, indices: dict[int, str]) -> Any:
    """The images without those of `indices`."""
    return images.take([i for i in range(len(images)) if i not in indices]) if indices else images
