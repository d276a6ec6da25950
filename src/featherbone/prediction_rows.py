"""The rows of `predict` for any number of pictures: parts that appear one by one, and are continued where they end."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from featherbone.data.map_files import write_map
from featherbone.data.sources import Digests, Entry, Share, digest, escaped
from featherbone.errors import BadData, BadImage, BadOption, BadRun
from featherbone.files import LOCK, atomic, lock_file, read_json, to_json, unlock_file, write_json, writing
from featherbone.progress import notify
from featherbone.results import Record

ROWS, MAPS, MODEL = "rows", "maps", "_model.json"
"""Folders of the rows and of their maps; the file beside the rows that states which model made them. Readers of Parquet
folders skip names that start with _ or a dot."""
PART_SIZE, PART_SECONDS = 10_000, 300.0
"""Rows and seconds after which a part ends."""
GROUP = 1000
"""Rows that are written at a time."""
PATIENCE = 10.0
"""Seconds to wait for another process that writes the same share: one whose machine failed may end late."""
SHOWN = 10
"""Unreadable pictures that are reported on standard error."""

Form = Literal["parquet", "jsonl"]


class Part(Protocol):
    """A file of rows that is being written."""

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Complete the file."""


class ParquetPart:
    """Rows with the columns of a record."""

    def __init__(self, path: Path, record: type[Record]) -> None:
        self.schema = schema_of({"source": str, "key": str, "error": str, **record.form, "map": str})
        self.file = pq.ParquetWriter(path, self.schema, compression="zstd")

    def write(self, rows: list[dict[str, Any]]) -> None:
        self.file.write_table(pa.Table.from_pylist(rows, self.schema))

    def close(self) -> None:
        self.file.close()


class JsonPart:
    """Rows as lines of JSON."""

    def __init__(self, path: Path, record: type[Record]) -> None:
        self.file = open(path, "w", encoding="utf-8")

    def write(self, rows: list[dict[str, Any]]) -> None:
        self.file.writelines(to_json(row) + "\n" for row in rows)

    def close(self) -> None:
        self.file.close()


class PredictionRows:
    """The rows of one share of the pictures in a folder that may hold rows of all shares already.

    A part appears when it has `part_size` rows or is `PART_SECONDS` old, and at the end, also after an error. Raises
    `BadOption` where the rows in the folder are not those of `model`, and `BadRun` while another process writes this
    share.
    """

    def __init__(
        self, folder: Path, record: type[Record], model: dict[str, Any], form: Form, share: Share, part_size: int
    ) -> None:
        self.folder, self.record, self.form, self.share, self.part_size = folder, record, form, share, part_size
        self.model = {"format": 1, "rows": form, **model}
        self.predicted = self.errors = self.done = 0
        self.first_error = ""
        self._digests = Digests()
        self._lock, self._part = ExitStack(), ExitStack()
        self._writer: Part | None = None
        self._rows: list[dict[str, Any]] = []
        self._size, self._start = 0, 0.0
        self._intact = True

    def __enter__(self) -> "PredictionRows":
        rows = self.folder / ROWS
        with writing(rows):
            rows.mkdir(parents=True, exist_ok=True)
        lock, self._deadline = rows / f"{LOCK}-{self.share}", time.monotonic() + PATIENCE
        self._lock.callback(unlock_file, lock, lock_file(lock, self._wait))
        try:
            self._check_model(rows / MODEL)
            for partial in rows.glob(f".part-{self.share}-*.partial"):
                partial.unlink()  # of a process that was killed
            for part in list_parts(rows):
                for source, key in _read_names(part):
                    one = digest(source, key)
                    if one in self.share and self._digests.add(one):
                        self.done += 1
            numbers = [int(part.stem.rpartition("-")[2]) for part in list_parts(rows, self.share)]
            self._number = max(numbers, default=-1) + 1
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock, self._part:
            if error is not None and not self._intact:
                raise error
            self._end_part()

    def wants(self, entry: Entry) -> bool:
        """Whether an entry is of this share and has no row yet; it is not wanted a second time."""
        return (one := entry.digest) in self.share and self._digests.add(one)

    def add(self, entry: Entry, result: Record | BadImage) -> None:
        """Write the row of an entry: its record, or why it cannot be read."""
        row = {"source": escaped(entry.source), "key": entry.key and escaped(entry.key), "error": None}
        if isinstance(result, BadImage):
            row["error"] = str(result)
            self.errors += 1
            self.first_error = self.first_error or str(result)
            if self.errors <= SHOWN:
                notify(str(result), "unreadable")
            elif self.errors == SHOWN + 1:
                notify("further unreadable pictures are only in the rows, with their errors")
        else:
            self.predicted += 1
            name = entry.digest.hex()
            kept = write_map(self.folder / MAPS / name[:2], name, result)
            row |= kept.to_json()
            if kept is not result:
                row["map"] = f"{MAPS}/{name[:2]}/{name}.png"
        self._start = self._start if self._size else time.monotonic()
        self._rows.append(row)
        self._size += 1
        if self._size >= self.part_size or time.monotonic() - self._start > PART_SECONDS:
            self._end_part()
        elif len(self._rows) >= GROUP:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that wait."""
        self._intact = False
        if self._writer is None:
            path = self.folder / ROWS / f"part-{self.share}-{self._number:05}.{self.form}"
            partial = self._part.enter_context(atomic(path))
            self._writer = (ParquetPart if self.form == "parquet" else JsonPart)(partial, self.record)
        if self._rows:
            self._writer.write(self._rows)
        self._rows = []
        self._intact = True

    def _end_part(self) -> None:
        """Let the part appear."""
        if not self._size:
            return
        self._flush()
        assert self._writer is not None, "it has been written to"
        self._intact = False
        self._writer.close()
        self._part.close()
        self._intact = True
        self._writer, self._size, self._number = None, 0, self._number + 1

    def _check_model(self, path: Path) -> None:
        if not path.is_file():
            return write_json(path, self.model)
        remedy = "choose another folder with --out, or remove it"
        found = read_json(path, str(path), dict[str, Any], BadRun, remedy)
        given = json.loads(to_json(self.model))
        if other := [name for name in given | found if given.get(name) != found.get(name)]:
            raise BadOption(f"{self.folder}: rows are there, made with another {' and '.join(other)}; {remedy}")

    def _wait(self) -> None:
        """Wait until the lock can be tried again. Raises `BadRun` after `PATIENCE`."""
        if time.monotonic() < self._deadline:
            return time.sleep(0.1)
        raise BadRun(
            f"{self.folder}: another process is writing share {self.share}; wait until it ends, or give each process "
            "another --share"
        )


def list_parts(rows: Path, share: Share | str = "*") -> list[Path]:
    """The parts in a folder of rows, in order."""
    return sorted(path for form in ("parquet", "jsonl") for path in rows.glob(f"part-{share}-*.{form}"))


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows that `predict` wrote into `folder`, in the order of the parts, as plain values."""
    for part in list_parts(folder / ROWS):
        if part.suffix == ".parquet":
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(GROUP):
                    yield from batch.to_pylist()
        else:
            with open(part, encoding="utf-8") as lines:
                yield from map(json.loads, lines)


class _Name(msgspec.Struct):
    source: str
    key: str | None


def _read_names(part: Path) -> Iterator[tuple[str, str | None]]:
    """Source and key of each row of a part. Raises `BadData` for a damaged one."""
    try:
        if part.suffix == ".parquet":
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(columns=["source", "key"]):
                    yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
        else:
            with open(part, "rb") as lines:
                for line in lines:
                    name = msgspec.json.decode(line, type=_Name)
                    yield name.source, name.key
    except (OSError, pa.ArrowException, msgspec.DecodeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise BadData(f"{part}: cannot be read ({reason}); remove it, and its pictures are predicted again") from None


def schema_of(form: dict[str, Any]) -> pa.Schema:
    """The columns of rows with the `form` of a record."""
    return pa.schema([(name, _arrow(kind)) for name, kind in form.items()])


def _arrow(form: Any) -> pa.DataType:
    """The Arrow type of a record's `form`."""
    if isinstance(form, dict):
        return pa.struct([(name, _arrow(kind)) for name, kind in form.items()])
    if isinstance(form, list):
        return pa.list_(_arrow(form[0]))
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[form]
