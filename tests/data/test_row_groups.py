"""Parquet by row groups: what is read when, what is kept, and what of it may be damaged."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featherbone.data import sampling
from featherbone.data.formats import open_split, parquet
from featherbone.data.formats.parquet import RowGroups
from featherbone.errors import BadData, BadImage

STARTS = [0, 5, 10, 12, 17, 22, 24]
"""First rows of the row groups of two files."""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """24 rows in two files and six row groups, of which two are shuffled together."""
    for module in (sampling, parquet):
        monkeypatch.setattr(module, "WINDOW", 10)
    for at in (0, 1):
        images = [{"bytes": b"%02d" % row * 500, "path": None} for row in range(12 * at, 12 * at + 12)]
        table = pa.table({"image": images, "label": np.arange(12) % 2})
        pq.write_table(table, tmp_path / f"train-{at}.parquet", row_group_size=5, compression="none")
    return tmp_path


@pytest.fixture
def reads(monkeypatch):
    """The row groups that are read."""
    seen, read = [], RowGroups._read

    def record(self, group):
        seen.append(group)
        return read(self, group)

    monkeypatch.setattr(RowGroups, "_read", record)
    return seen


def test_opening_reads_no_image_and_an_epoch_each_row_group_once(data, reads):
    images = open_split(data, "classification", "train").images
    assert len(images) == 24 and reads == []
    orders = [images.order(0, epoch).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == list(range(24)) and orders[0] != orders[1]
    assert [images.encoded(i)[:2] for i in orders[0]] == [b"%02d" % i for i in orders[0]]
    assert sorted(reads) == list(range(6))
    held = images.row_groups.held
    assert 0 < sum(map(len, held.values())) <= 10 and list(held) == reads[-len(held) :]


def test_repeated_images_stay_in_the_windows_of_their_row_groups(data, reads):
    images = open_split(data, "classification", "train").images
    factors = np.where(np.arange(24) % 5, 1.0, 2.0)
    order = images.order(0, 0, factors)
    assert np.bincount(order).tolist() == factors.tolist()
    assert [images.encoded(i)[:2] for i in order] == [b"%02d" % i for i in order]
    assert sorted(reads) == list(range(6))


def test_parts_of_a_split_keep_their_row_groups(data, reads):
    images = open_split(data, "classification", "train").images.take(range(23, -1, -2))
    assert [images.encoded(i)[:2] for i in range(12)] == [b"%02d" % row for row in range(23, -1, -2)]
    assert reads == [5, 4, 3, 2, 1, 0]
    blocks = np.searchsorted(STARTS, images.rows[images.order(0, 0)], "right")
    assert (np.flatnonzero(blocks == blocks[0]) < 10).all()


def test_a_damaged_row_group_is_images_that_cannot_be_read(data):
    file = data / "train-1.parquet"
    content = file.read_bytes()
    place = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    file.write_bytes(content[:place] + b"\xff" * 40 + content[place + 40 :])
    images = open_split(data, "classification", "train").images
    with pytest.raises(BadImage, match=r"^train-0\.parquet to train-1\.parquet row 17: cannot be read \(.*\); replace"):
        images.encoded(17)
    assert images.encoded(16)[:2] == b"16"


def test_each_file_needs_the_columns(data):
    pq.write_table(pa.table({"label": [0]}), data / "train-1.parquet")
    with pytest.raises(BadData, match=r"^train-1\.parquet: not Parquet with columns image"):
        open_split(data, "classification", "train")
    (data / "train-1.parquet").write_bytes((data / "train-0.parquet").read_bytes()[:-9])
    with pytest.raises(BadData, match=r"^train-1\.parquet: not Parquet with columns .*; replace the file"):
        open_split(data, "classification", "train")
