"""Files that are read with care, and appear whole or not at all."""

import codecs
import errno
import json
import math
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import yaml

from featherbone.errors import BadData, BadOption, BadRun, FeatherboneError
from featherbone.text import printable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REMEDIES = {
    **dict.fromkeys(NO_ROOM, "free some space or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk or choose another place",
}
LONGEST = 60
"""Letters of a name that its temporary name repeats: file systems bound the length of both."""


def refusal(path: Path, error: OSError) -> FeatherboneError:
    """The one message for a file or folder that cannot be written: what was given, the system's reason, what to do."""
    remedy = REMEDIES.get(error.errno or 0, "choose another place")
    return FeatherboneError(f"cannot write {path}: {error.strerror or error}; {remedy}")


MAX_JSON, MAX_YAML = 4 << 30, 1 << 20
"""Largest files that are read, in bytes."""
MAX_YAML_NODES = 1_000_000
"""Largest number of values of a YAML document with its aliases written out."""
REWRITE = "write it anew"

T = TypeVar("T")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into a `FeatherboneError`; an error about another file passes."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            about, place = Path(os.fsdecode(error.filename)).resolve(), path.resolve()
            ours = {place, place.with_name(_beside(place))}
            if not ours & {about, *about.parents} and about not in place.parents:
                raise
        raise refusal(path, error) from None


def check_writable(path: Path, folder: bool = False) -> None:
    """Raise `FeatherboneError` where no file, or no `folder`, of this name can be written; nothing is made.

    For commands that write after long work.
    """
    missing: list[str] = []
    place = path.absolute()
    try:
        while not _exists(place):
            missing.append(place.name)
            place = place.parent
        for name in missing:
            _exists(place / name)  # a name that is too long is one in any folder
        if not missing and folder != place.is_dir():
            raise OSError(*((errno.ENOTDIR, "Not a directory") if folder else (errno.EISDIR, "Is a directory")))
        holder = place if missing or folder else place.parent
        if not os.access(holder, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"{holder} may not be written")
    except OSError as error:
        raise refusal(path, error) from None


def check_new_folder(path: Path) -> None:
    """Raise `FeatherboneError` unless a folder can be written at `path` that is new, or empty."""
    check_writable(path, folder=True)
    if path.is_dir() and any(entry.name != LOCK for entry in path.iterdir()):
        raise BadOption(f"{path} is not an empty folder; choose another --out, or remove it")


def _exists(path: Path) -> bool:
    """As `Path.exists`, but what is wrong with a path is raised as `OSError`."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _beside(path: Path) -> str:
    """A name for what becomes `path`."""
    return f".{path.name[:LONGEST]}.{os.getpid()}.partial"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; on leaving, it is synchronised to disk and takes the place of `path`.

    After an error nothing is left behind, and an older `path` stays as it was. Raises `FeatherboneError` where it
    cannot be written.
    """
    partial = path.with_name(_beside(path))
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, own: Collection[str] = (), last: str = "") -> Iterator[Path]:
    """A new folder beside `path` to write to; on leaving, its files appear in `path`, and after an error none does.

    Where there is no `path`, the folder becomes it. Else its files take their places there one by one, and the file
    called `last` comes after all others, so that it never describes files that are not there yet. Older files called
    `own` go; foreign files stay. Raises `FeatherboneError` where a new file has the name of a foreign one, or it cannot
    be written.
    """
    target = path.resolve()
    partial = target.with_name(_beside(target))
    try:
        with writing(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            yield partial
            if target.exists():
                _move_files(partial, target, set(own), last)
            else:
                os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_files(new: Path, path: Path, own: set[str], last: str) -> None:
    """The files of the folder `new` into `path`, as `atomic_folder` states."""
    made, there = ({file.name for file in folder.iterdir()} for folder in (new, path))
    own = {name for name in own & there if not (path / name).is_dir()}
    if foreign := sorted((made & there) - own):
        raise FeatherboneError(
            f"{path / foreign[0]} is not a file that was written here, and a new one has its name; move it, or choose "
            "another folder with --out"
        )
    if last in own - made:
        (path / last).unlink()
    for name in sorted(made - {last}):
        os.replace(new / name, path / name)
    for name in own - made - {last}:
        (path / name).unlink()
    if last in made:
        os.replace(new / last, path / last)


LOCK = ".lock"
"""File in a folder that one process at a time holds."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` against other processes; the system lets go of it when this one ends, in whatever way.

    Processes started by this one do not hold it. Raises `FeatherboneError` where another process holds it. On a file
    system without locks nothing is held.
    """

    def refuse() -> None:
        raise BadRun(
            f"{folder}: another process is training in this folder; wait until it ends, or choose another folder with "
            "--out"
        )

    path = folder / LOCK
    with writing(path):
        handle = lock_file(path, refuse)
    try:
        yield
    finally:
        unlock_file(path, handle)


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Lock the file `path` for the context, without waiting; whether that was possible, or another process holds it."""

    def refuse() -> None:
        raise BlockingIOError

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = lock_file(path, refuse)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        unlock_file(path, handle)


def lock_file(path: Path, busy: Callable[[], None]) -> int:
    """Create and lock the file `path`, and return its handle; on a file system without locks, nothing is locked.

    As long as another process holds it, `busy` is called, which waits or raises.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                os.close(handle)
                busy()
                continue
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)  # the last holder has just removed it


def unlock_file(path: Path, handle: int) -> None:
    """Remove the file that `lock_file` has locked, and let go of it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock would be held by worker processes, too


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """`content` to `path`, atomically."""
    with atomic(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """`text` to `path` in UTF-8, atomically, with names as `printable` gives them."""
    write_bytes(path, printable(text).encode())


def read_json(
    path: Path, name: str, kind: type[T], error: type[FeatherboneError] = BadData, remedy: str = REWRITE
) -> T:
    """The content of a JSON file as a value of `kind`, any type that msgspec knows.

    Raises `error`, which calls the file `name`, states the place of the fault and ends with `remedy`: for a file that
    cannot be read, is not JSON (NaN is not), is nested too deeply, has a key twice, or is not of `kind`.
    """
    content = read_bytes(path, name, error, MAX_JSON).removeprefix(codecs.BOM_UTF8)
    with _readable(name, "JSON", error, remedy):
        # msgspec keeps the last of two keys, and does not name the place of a NaN
        json.loads(content, object_pairs_hook=_unique, parse_constant=partial(_no_number, content))
        return msgspec.json.decode(content, type=kind)


def parse_value(value: Any, name: str, kind: type[T], error: type[FeatherboneError], remedy: str) -> T:
    """Plain `value`, which was read from `name`, as a value of `kind`. Raises as `read_json`."""
    with _readable(name, "plain", error, remedy):
        return msgspec.convert(value, kind)


def read_yaml(path: Path, name: str) -> Any:
    """The content of a YAML file.

    Only null and whole numbers in their usual form are read as such: `no`, `007`, `1.0` and `2020-01-01` stay text.
    Raises `BadData`, which calls the file `name`: for a file that cannot be read, is not YAML, has a key twice, or
    that aliases make larger than `MAX_YAML_NODES`.
    """
    content = read_bytes(path, name, BadData, MAX_YAML)
    with _readable(name, "YAML", BadData, REWRITE):
        loader = _PlainLoader(content.decode("utf-8-sig"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_nodes(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()


def read_text(path: Path, name: str) -> str:
    """The content of a text file in UTF-8. Raises `BadData`, which calls it `name`."""
    with _readable(name, "text in UTF-8", BadData, REWRITE):
        return read_bytes(path, name, BadData, MAX_JSON).decode("utf-8-sig")


def write_json(path: Path, value: Any) -> None:
    """`value` to `path` as indented JSON, atomically; numbers that are not finite become null."""
    write_text(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON text, which has no NaN: numbers that are not finite become null."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_bytes(path: Path, name: str, error: type[FeatherboneError] = BadData, max_bytes: int = MAX_JSON) -> bytes:
    """The bytes of a regular file: a pipe or a device would never end. Raises `error`, which calls the file `name`."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise error(f"{name}: not a file; give a file that exists")
        if found.st_size > max_bytes:
            raise error(f"{name}: {found.st_size} bytes, at most {max_bytes} are read; split it")
        return path.read_bytes()
    except (OSError, ValueError) as fault:  # a name may hold a NUL
        if isinstance(fault, FeatherboneError):
            raise
        reason = fault.strerror if isinstance(fault, OSError) else fault
        raise error(f"{name}: cannot be read ({reason}); give a file that exists") from None


@contextmanager
def _readable(name: str, form: str, error: type[FeatherboneError], remedy: str) -> Iterator[None]:
    """What parsers raise, as `error`."""
    try:
        yield
    except msgspec.ValidationError as fault:
        text = str(fault).replace("`", "").replace(" - at ", " at ")
        raise error(f"{name}: {text[:1].lower()}{text[1:]}; {remedy}") from None
    except RecursionError:
        raise error(f"{name}: nested too deeply; {remedy}") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, yaml.YAMLError) as fault:
        raise error(f"{name}: not {form} ({' '.join(str(fault).split())}); {remedy}") from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    """The hook of a parser that checks only: nothing is kept."""
    names = {name for name, _ in pairs}
    if len(names) != len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"the key {twice[:80]!r} twice in one object")


def _no_number(content: bytes, name: str) -> None:
    found = re.search(rb"[:,[]\s*" + name.encode(), content)
    before = content[max(found.end() - 60, 0) : found.end()].decode(errors="ignore") if found else name
    raise ValueError(f"{name} is not a number in JSON, in {' '.join(before.split())}")


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without its guesses about what a text could mean."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"(-?[1-9]\d{0,17}|0)$"), list("-0123456789"))
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])


def _count_nodes(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """Nodes of a document with its aliases written out. Raises `ValueError` for too many, cycles and equal keys."""
    if node in counts:
        if not counts[node]:
            raise ValueError("an alias of what it is part of")
        return counts[node]
    counts[node] = 0  # until it is complete
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(keys):
            twice = next(value for _, value in keys if sum(value == other for _, other in keys) > 1)
            raise ValueError(f"the key {twice[:80]!r} twice in one mapping")
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    counts[node] = 1 + sum(_count_nodes(part, counts) for part in parts)
    if counts[node] > MAX_YAML_NODES:
        raise ValueError(f"aliases make it larger than {MAX_YAML_NODES} values")
    return counts[node]
