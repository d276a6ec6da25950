"""The registry of formats: which folder is in which."""

from featherbone.data.formats import FORMATS, find_format
from featherbone.data.scenes_write import write_coco, write_yolo


def test_names_are_unique():
    assert len({one.name for one in FORMATS}) == len(FORMATS)


def test_a_folder_is_matched_by_its_own_format_only(tmp_path):
    write_yolo(tmp_path / "yolo", 2, 1, (32, 32))
    write_coco(tmp_path / "coco", 2, 1, (32, 32))
    assert [one.name for one in FORMATS if one.matches(tmp_path / "yolo")] == ["YOLO"]
    assert find_format(tmp_path / "coco") is None
