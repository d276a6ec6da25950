"""Files are found by the names that lists of any tool give them, and never outside the data folder."""

import unicodedata

import pytest

from featherbone.data.named_files import NamedFiles, written_parts
from featherbone.errors import BadData


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    for name in ("train/a.jpg", "val/a.jpg", "train/b/c.jpg", "images/1f2e3d4c-scan 1.jpg", "images/100%25.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (tmp_path / "secret.jpg").write_bytes(b"")
    return root


def find(data, name, *folders):
    """The path below the data folder, and whether it was found by its plain name only."""
    files = NamedFiles(data, [data / folder for folder in folders], "list.json")
    path = files.find(name)
    assert path == files.find(name)  # the second time, too
    return path and path.relative_to(data).as_posix(), name in files.guesses


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/a.jpg", ("train/a.jpg", False)),
        ("./train/./a.jpg", ("train/a.jpg", False)),
        ("images/100%25.jpg", ("images/100%25.jpg", False)),  # as it is written, before any escape is read
        (r"train\a.jpg", ("train/a.jpg", True)),
        (r"C:\Users\me\data\val\a.jpg", ("val/a.jpg", True)),
        ("/home/me/data/val/a.jpg", ("val/a.jpg", True)),
        ("file:///home/me/data/val/a.jpg", ("val/a.jpg", True)),
        ("https://host.org/files/val/a.jpg?token=1", ("val/a.jpg", True)),
        ("../../label-studio/data/media/upload/7/1f2e3d4c-scan%201.jpg", ("images/1f2e3d4c-scan 1.jpg", True)),
        ("/data/local-files/?d=pictures%5Cc.jpg", ("train/b/c.jpg", True)),
        ("0a1b2c3d-c.jpg", ("train/b/c.jpg", True)),  # Label Studio's prefix, the file without it
        ("gone/C.JPG", ("train/b/c.jpg", True)),
        ("train/b/none.jpg", (None, False)),
        ("../secret.jpg", (None, False)),
        ("..\\secret.jpg", (None, False)),
        ("train/../../secret.jpg", (None, False)),
        ("/etc/passwd", (None, False)),
        ("..", (None, False)),
        ("", (None, False)),
        ("a\0b.jpg", (None, False)),
        ("\ud800.jpg", (None, False)),
        ("x" * 5000, (None, False)),
    ],
)
def test_a_name_is_searched_below_the_folder(data, name, expected):
    assert find(data, name) == expected


def test_an_absolute_name_of_the_folder_itself_is_no_way_out(data):
    assert find(data, str(data / "val/a.jpg")) == ("val/a.jpg", True)
    assert find(data, str(data.parent / "secret.jpg")) == (None, False)


def test_several_files_of_one_name_are_refused(data):
    for name in ("/home/me/a.jpg", "gone/a.jpg"):
        with pytest.raises(BadData, match=r"list\.json.*(train|val)/a\.jpg or (train|val)/a\.jpg; write paths below"):
            find(data, name)
    assert find(data, "/home/me/a.jpg", "val", "") == ("val/a.jpg", True)  # the folder of the split decides
    assert find(data, "a.jpg", "val", "train") == ("val/a.jpg", False)


def test_a_namesake_in_another_split_is_not_taken(data):
    (data / "train/a.jpg").unlink()
    for split, expected in (("train", None), ("val", data / "val/a.jpg"), (None, data / "val/a.jpg")):
        for name in ("a.jpg", "gone/a.jpg"):
            assert NamedFiles(data, [data / "train", data], "list.json", split).find(name) == expected


@pytest.mark.parametrize("folder", ["masks", "Mask", "panoptic_train", "SegmentationClass", "gtFine", "annotations"])
def test_a_mask_is_not_taken_for_its_image(data, folder):
    (data / folder).mkdir()
    (data / folder / "d.png").write_bytes(b"")
    assert find(data, "gone/d.png") == (None, False)
    assert find(data, f"{folder}/d.png") == (f"{folder}/d.png", False)


def test_hidden_files_are_no_candidates(data):
    (data / "val/._a.jpg").write_bytes(b"")
    (data / ".cache").mkdir()
    (data / ".cache/c.jpg").write_bytes(b"")
    assert find(data, "gone/c.jpg") == ("train/b/c.jpg", True)
    assert find(data, "gone/._a.jpg") == (None, False)


def test_folders_that_are_links_are_searched(data, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/d.jpg").write_bytes(b"")
    (data / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert find(data, r"C:\d.jpg", "linked", "") == ("linked/d.jpg", True)


def test_letters_composed_in_another_way_are_the_same(data):
    (data / "val" / unicodedata.normalize("NFD", "bär.jpg")).write_bytes(b"")
    path, guessed = find(data, unicodedata.normalize("NFC", "val/bär.jpg"))
    assert unicodedata.normalize("NFC", path) == unicodedata.normalize("NFC", "val/bär.jpg") and guessed


def test_written_parts():
    assert written_parts(r"D:\set 1\./x\..\a%20b.jpg") == ("set 1", "x", "a b.jpg")
