"""Prediction on a Ray cluster: a class for `ray.data`, and shares of `predict` as tasks. Needs `featherbone[ray]`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from featherbone.data.sources import Entry
from featherbone.errors import BadImage, BadOption, MissingExtra
from featherbone.outcomes import RowsResult
from featherbone.prediction_rows import schema_of
from featherbone.predictor import EntryResult, load, predict_entries
from featherbone.progress import bar
from featherbone.tasks.task import kind_of
from featherbone.tasks.variant import split_variant

SHARES = 4
"""Shares for each machine or GPU, so that none waits long for the last."""


class BatchPredictor:
    """Replaces a column of encoded images by `error` and the columns of the record.

    >>> pictures = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    >>> pictures.map_batches(BatchPredictor, fn_constructor_args=("flowers",), batch_format="pyarrow", concurrency=2)

    Raises `BadOption` for a task whose records hold maps, which `predict --ray` writes to files.
    """

    def __init__(self, run: str, column: str = "bytes", workers: int = 1, **options: Any) -> None:
        self.predictor, self.column, self.workers = load(run, **options), column, workers
        kind = kind_of(self.predictor.card)
        if kind.is_map:
            raise BadOption(f"{kind.name} gives maps, which are no columns; use featherbone predict --ray")
        self.schema = schema_of({"error": str, **kind.record.form})

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with its images' results."""
        entries = (Entry(str(i), None, value.as_py() or b"") for i, value in enumerate(table[self.column]))
        batches = predict_entries(self.predictor, entries, max(len(table), 1), self.workers)
        found = pa.Table.from_pylist([_row(result) for batch in batches for result in batch], self.schema)
        for name in found.column_names:
            table = table.append_column(found.field(name), found[name])
        return table.drop_columns([self.column])


def _row(result: EntryResult) -> dict[str, Any]:
    record = result.record
    return {"error": str(record)} if isinstance(record, BadImage) else record.to_json()


def predict_on_ray(
    address: str, predict: Callable[..., Any], run: Path, sources: list[str], out: Path, options: dict[str, Any]
) -> RowsResult:
    """Call `predict` for every share of the pictures on a cluster whose machines share their files.

    A share whose machine is lost is continued on another. Raises `MissingExtra`, and what a share raises.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtra("--ray needs Ray; install it with: pip install 'featherbone[ray]'") from None
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        raise BadOption(
            f"--ray {address}: no cluster ({error}); start one with ray start --head, or pass local"
        ) from None
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        gpus = sum(machine.get("GPU", 0) for machine in machines)
        slots = [int(machine.get("GPU", 0)) or 1 for machine in machines]
        cpus = min(machine["CPU"] // slot for machine, slot in zip(machines, slots, strict=True))
        task = ray.remote(predict).options(
            num_cpus=max(cpus, 1), num_gpus=int(gpus > 0), max_retries=-1, scheduling_strategy="SPREAD"
        )
        total = SHARES * sum(slots)
        given = {  # workers have another current folder
            **options,
            "run": run.absolute() if Path(split_variant(run)[0]).exists() else run,
            "sources": [source if "://" in source else str(Path(source).absolute()) for source in sources],
            "out": out.absolute(),
            "ray": None,
        }
        waiting = [task.remote(**{**given, "share": f"{i}/{total}"}) for i in range(1, total + 1)]
        results: list[RowsResult] = []
        with bar("predicting shares", total) as advance:
            while waiting:
                ended, waiting = ray.wait(waiting)
                results += ray.get(ended)
                advance(len(ended))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        ray.shutdown()
    predicted, errors, done = (sum(getattr(one, name) for one in results) for name in ("predicted", "errors", "done"))
    return RowsResult(predicted, errors, done, out)
