"""The command line: the functions of `commands`, their exit codes, and `--json`."""

import functools
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Unpack

import tyro

from featherbone import commands
from featherbone.engine.settings import command_options
from featherbone.errors import FeatherboneError
from featherbone.files import NO_ROOM, refusal, to_json
from featherbone.progress import notify
from featherbone.tasks.card import versions
from featherbone.text import printable

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": commands.demo,
    "models": commands.models,
    "doctor": commands.doctor,
    "train": commands.train,
    "evaluate": commands.evaluate,
    "predict": commands.predict,
    "explain": commands.explain,
    "export": commands.export,
    "bench": commands.bench,
    "compare": commands.compare,
    "convert": commands.convert,
    "push": commands.push,
    "licences": commands.licences,
    "data panoptic": commands.make_panoptic,
    "data shards": commands.make_shards,
    "serve-web": commands.serve_web,
}
INTERRUPTED = 130
PATIENCE = 60.0
"""Seconds that a process of a group waits for the first one to report an error that all have, before reporting it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit codes: 0, 1 where it finds an error, 2 for a mistake of the user, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        show(f"featherbone {versions()['featherbone']}")
        return 0
    as_json = "--json" in arguments
    prog, functions, rest = choose_commands(arguments)
    result = None
    try:
        result = tyro.extras.subcommand_cli_from_dict(
            {name: with_json(function) for name, function in functions.items()},
            prog=prog,
            description="Light-weight vision transformers, from a folder of images to a verified file. Also: --version",
            args=rest,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        if result is not None and os.environ.get("RANK", "0") == "0":  # of several processes one prints
            show(in_ascii(result.to_json()) if as_json else str(result))
    except KeyboardInterrupt as stop:
        result = getattr(stop, "result", None)
        if result is not None:
            show(in_ascii(result.to_json()) if as_json else str(result))
        notify(
            "interrupted; featherbone train --resume RUN continues training; the same command continues predict --rows"
        )
        return getattr(stop, "exit_code", INTERRUPTED)
    except BrokenPipeError:  # the reader of a result or of help, such as head, has closed the pipe
        if result is None and not {"-h", "--help"} & set(arguments):
            raise
        _forget_output()
    except (FeatherboneError, OSError) as error:
        if isinstance(error, OSError):  # also of temporary files, which tool-chains write
            if error.errno not in NO_ROOM:
                raise
            error = refusal(Path(error.filename or tempfile.gettempdir()), error)
        if not error.of_group and os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(PATIENCE)  # the first process reports errors that all have; then torchrun ends this one
        notify(str(error), "error", "red")
        if as_json:
            with suppress(FeatherboneError):
                show(in_ascii({"error": str(error), "kind": type(error).__name__}))
        return error.exit_code
    return getattr(result, "exit_code", 0)


def choose_commands(arguments: list[str]) -> tuple[str, dict[str, Callable[..., Any]], list[str]]:
    """The program, its commands and their arguments: where the first names a family, as `data`, those of the family."""
    family = f"{arguments[0]} " if arguments else " "
    members = {name.removeprefix(family): one for name, one in COMMANDS.items() if name.startswith(family)}
    return (f"featherbone {arguments[0]}", members, arguments[1:]) if members else ("featherbone", COMMANDS, arguments)


def in_ascii(value: Any) -> str:
    """`value` as JSON in ASCII, for any encoding."""
    return json.dumps(json.loads(printable(to_json(value))))


def show(text: str) -> None:
    """Print a result as `printable` text; letters that the encoding of standard output lacks are escaped.

    Raises `FeatherboneError` where the disk is full.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(printable(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_output()
        raise refusal(Path("standard output"), error) from None


def _forget_output() -> None:
    """Redirect standard output to nowhere: Python would try to print again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def with_json(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the option `json`, which `main` handles, and the settings of training as options."""
    signature = inspect.signature(function)
    option = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    parameters = [*signature.parameters.values()]
    rest = [parameters.pop()] if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD else []
    rest = [settings.replace(annotation=Unpack[command_options()]) for settings in rest]

    @functools.wraps(function)
    def call(*args: Any, json: bool = False, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__signature__ = signature.replace(parameters=[*parameters, option, *rest])  # type: ignore[attr-defined]
    call.__annotations__ = {**function.__annotations__, "json": bool} | {p.name: p.annotation for p in rest}
    text = inspect.getdoc(function) or ""
    text += "" if "\nArgs:" in text else "\n\nArgs:"
    call.__doc__ = f"{text}\n    json: Print one JSON object on standard output, and everything else on standard error."
    del call.__wrapped__
    return call


if __name__ == "__main__":
    sys.exit(main())
