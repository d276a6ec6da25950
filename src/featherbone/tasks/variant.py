"""The variant of a model: a path or name with other keyword arguments of its backbone, as in `runs/x@recursion=1`."""

import ast
import os
import re
from pathlib import Path
from typing import Any

from featherbone.errors import BadOption

VARIANT = re.compile(r"(?s)(.+)@(\w+=[^@/\\]*)")
"""A path or name, and the keyword arguments of its suffix."""


def split_variant(run: str | Path) -> tuple[str, dict[str, Any]]:
    """The path or name in `run`, and the keyword arguments that its suffix `@KEY=VALUE,...` states.

    What exists as a path has no suffix, and the revision of a repository (`hf-hub:user/name@revision`) is none. Raises
    `BadOption` for a suffix that is not keyword arguments.
    """
    name, text = _split(run)
    return name, parse_keywords(text, f"{name} with") if text else {}


def suffix_of(run: str | Path) -> str:
    """The suffix of `run` with its @; empty if it has none."""
    text = _split(run)[1]
    return text and f"@{text}"


def variant_path(name: str, run: str | Path) -> str:
    """The path `name` of what is made from `run`, with the suffix of `run` before its extension.

    Letters that a file system may refuse become -.
    """
    suffix = re.sub(r"[^\w@=.,+-]", "-", suffix_of(run))
    return str(Path(name).with_stem(Path(name).stem + suffix)) if suffix else name


def _split(run: str | Path) -> tuple[str, str]:
    text = str(run)
    found = VARIANT.fullmatch(text)
    return (found[1], found[2]) if found and not os.path.exists(text) else (text, "")


def parse_keywords(text: str, option: str = "model_args") -> dict[str, Any]:
    """`a=1,b=True` as keyword arguments; values are Python literals or plain words. Raises `BadOption`."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call), "the text is the inside of a call"
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("a value without a name")
        return {
            str(word.arg): word.value.id if isinstance(word.value, ast.Name) else ast.literal_eval(word.value)
            for word in call.keywords
        }
    except (SyntaxError, ValueError, AssertionError):
        raise BadOption(f"{option} {text!r}: write keyword arguments, as in recursion=3,mix_token=True") from None
