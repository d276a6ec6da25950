"""Datasets of Hugging Face's `datasets` as Parquet that `train` reads: https://huggingface.co/docs/datasets."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from featherbone.errors import BadData, MissingExtra
from featherbone.files import atomic

GROUP = 100
"""Images of a row group."""


def to_parquet(dataset: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a `Dataset`, a `DatasetDict` or a folder of `save_to_disk` as Parquet with its images, for `train --data`.

    Each split becomes a file of its name; a single dataset becomes `train`. Images are copied as they are encoded.
    """
    try:
        from datasets import load_from_disk
        from datasets.table import embed_table_storage
    except ImportError:
        raise MissingExtra("datasets is not installed; pip install datasets") from None
    if isinstance(dataset, str | os.PathLike):
        try:
            dataset = load_from_disk(os.fspath(dataset))
        except (FileNotFoundError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BadData(f"{reason}; give a folder that save_to_disk wrote, or a dataset") from None
    splits = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    for name, split in splits.items():
        with atomic(Path(folder, f"{name}.parquet")) as partial:
            with pq.ParquetWriter(partial, split.features.arrow_schema) as writer:
                for table in split.with_format("arrow").iter(GROUP):
                    writer.write_table(embed_table_storage(table))
    return Path(folder)
