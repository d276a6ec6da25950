"""The mistakes a user can make; each message states what was given, what is allowed and what to do.

The command line turns any of them into that one message and exit code 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from featherbone.text import printable


class FeatherboneError(ValueError):
    """Anything the caller can put right."""

    exit_code = 2
    """Of the command line."""
    of_group = False
    """Whether it is the first error of several processes, which one of them reports."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UnknownModel(FeatherboneError):
    """No backbone of that name."""


class BadImage(FeatherboneError):
    """A file or array that is not a picture we can read."""


class BadData(FeatherboneError):
    """A data set whose layout or labels would spoil the work."""


class BadOption(FeatherboneError):
    """An option that does not exist, or a value outside its range."""


class BadRun(FeatherboneError):
    """A run folder that is missing, damaged, or belongs to another model."""


class BadCheckpoint(FeatherboneError):
    """A file of weights that does not fit the model."""


class HubError(FeatherboneError):
    """A repository of the hub that cannot be read or written."""


class BadDownload(FeatherboneError):
    """A file that cannot be downloaded, or is another than expected."""


class BadLicence(FeatherboneError):
    """Weights whose licence must be accepted first."""


class MissingExtra(FeatherboneError):
    """An optional tool-chain is not installed."""


class Interrupted(KeyboardInterrupt):
    """A command was interrupted, by Ctrl-C or SIGTERM, when it had a part of its result."""

    def __init__(self, result: Any, exit_code: int) -> None:
        super().__init__()
        self.result = result
        """What the command has so far, as it would return it."""
        self.exit_code = exit_code
        """Of the command line."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean X or Y?"` for the nearest of `known`, or nothing."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
