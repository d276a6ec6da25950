"""Prediction on pictures: annotated copies and one file for a few, rows for any number."""

from collections.abc import Sequence
from pathlib import Path

from featherbone.adapters.saving import Form, check_forms, name_pictures, save
from featherbone.data.listing import SUFFIXES
from featherbone.data.sources import Entry, expand_glob, open_sources
from featherbone.errors import BadImage
from featherbone.outcomes import PredictResult, RowsResult
from featherbone.prediction_files import PredictionFiles
from featherbone.prediction_rows import PredictionRows
from featherbone.predictor import Predictor, find_images, predict_entries
from featherbone.progress import bar


def predict_pictures(
    predictor: Predictor,
    sources: Sequence[str],
    folder: Path,
    pictures: bool,
    batch_size: int,
    workers: int,
    forms: Sequence[Form] = (),
) -> PredictResult:
    """Predict on files, folders and globs, and write `predictions.json`, maps and, with `pictures`, annotated copies.

    The `forms` of other tools are written in addition.

    Raises `BadImage` where no picture can be read.
    """
    paths = find_images([Path(path) for source in sources for path in sorted(expand_glob(source)) or [source]], folder)
    if forms:
        check_forms(forms, predictor.card)
        name_pictures(paths)
    with PredictionFiles(folder, predictor.card, paths, pictures) as files, bar("predicting", len(paths)) as advance:
        entries = (Entry(str(path), None, str(path)) for path in paths)
        for batch in predict_entries(predictor, entries, batch_size, workers, keep=pictures):
            for result in batch:
                files.add(Path(result.entry.source), result.picture, result.record)
            advance(len(batch))
    if not files.done:
        first = next(iter(files.skipped.values()))
        raise BadImage(f"none of {len(paths)} pictures can be read; the first: {first}")
    saved = save(forms, folder, paths, files.done, predictor.card) if forms else ()
    return PredictResult(tuple(files.done), files.skipped, folder, saved)


def predict_rows(
    predictor: Predictor, sources: Sequence[str], table: PredictionRows, batch_size: int, workers: int
) -> RowsResult:
    """Predict on the pictures of sources that belong to the share of a table and have no row in it yet, and write them.

    Raises `BadImage` where the sources, not a share of them, have no picture that can be read.
    """
    entries = open_sources(sources, table.folder)
    with table, bar("predicting") as advance:
        for batch in predict_entries(predictor, filter(table.wants, entries), batch_size, workers):
            for result in batch:
                table.add(result.entry, result.record)
            advance(len(batch))
    if table.share.total == 1 and not table.predicted + table.done:
        if table.errors:
            raise BadImage(f"none of {table.errors} pictures can be read; the first: {table.first_error}")
        raise BadImage(f"{', '.join(sources)}: no pictures; they end in {', '.join(sorted(SUFFIXES))}")
    return RowsResult(table.predicted, table.errors, table.done, table.folder)
