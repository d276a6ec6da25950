"""What the values of mask files mean."""

import numpy as np
import pytest
from PIL import Image

from featherbone.data.label_files import cityscapes_code, cityscapes_train_code, read_code, read_values
from featherbone.errors import BadData, BadImage

INDICES = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "I;16"])
def test_indices_are_read_as_they_are_stored(tmp_path, mode):
    path = tmp_path / "mask.png"
    image = Image.fromarray(INDICES)
    if mode == "P":
        image = Image.fromarray(INDICES, "P")
        image.putpalette([*range(256)] * 3)
    elif mode == "LA":
        image.putalpha(Image.new("L", image.size, 7))
    elif mode == "I;16":
        image = Image.fromarray(INDICES.astype(np.uint16))
    image.save(path)
    values, coloured = read_values(path, "mask.png")
    assert values.tolist() == INDICES.tolist() and not coloured


def test_one_bit_is_two_classes(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "mask.png")
    assert read_values(tmp_path / "mask.png", "m")[0].tolist() == [[1, 0]]


def test_colours_are_numbers(tmp_path):
    Image.new("RGB", (2, 1), (1, 2, 3)).save(tmp_path / "mask.png")
    assert read_values(tmp_path / "mask.png", "m")[0].tolist() == [[65536 + 2 * 256 + 3] * 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mask.jpg", None, "blurs the classes"),
        ("mask.png", b"no picture", "not a picture"),
        ("mask.tif", "F", "mode F"),
        ("gone.png", ..., "no such file"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        Image.new("L", (8, 8)).save(path)
    elif content == "F":
        Image.new("F", (8, 8)).save(path)
    elif content is not ...:
        path.write_bytes(content)
    with pytest.raises(BadImage, match=message):
        read_values(path, name)


def test_a_truncated_mask_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BadImage, match="damaged"):
        read_values(path, "mask.png")


def meanings(code, *values, coloured=False):
    return code.classes(np.array([values]), coloured)[0].tolist()


def test_a_name_a_line_is_a_class(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\n\ntall building\nvoid\ncar\n")
    code = read_code(tmp_path)
    assert code.names == ("sky", "tall building", "car")
    assert meanings(code, 0, 1, 2, 3, 4, 255) == [0, 1, 255, 2, -1, 255]


def test_an_index_may_be_ignored(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\nother\ncar\n")
    code = read_code(tmp_path, ignore_index=1)
    assert code.names == ("sky", "car") and meanings(code, 0, 1, 2, 255) == [0, 255, 1, 255]
    assert meanings(read_code(tmp_path, ignore_index=77), 2, 77) == [2, 255]


def test_zero_may_be_no_class(tmp_path):
    (tmp_path / "classes.txt").write_text("wall\nbuilding\n")
    code = read_code(tmp_path, zero_ignored=True)
    assert code.names == ("wall", "building") and meanings(code, 0, 1, 2, 3) == [255, 0, 1, -1]


def test_a_line_may_end_in_a_colour(tmp_path):
    (tmp_path / "classes.txt").write_text("sky #0000ff\ncar park 255 0 0\nvoid, 0, 0, 0\n")
    code = read_code(tmp_path)
    assert code.names == ("sky", "car park")
    assert meanings(code, 0xFF, 0xFF0000, 0, 5, coloured=True) == [0, 1, 255, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no classes"),
        ("void\n", "no classes"),
        ("a\na\n", "a named more than once"),
        ("a #ff0000\nb #ff0000\n", "the colour of b"),
        ("a 0 0 300\n", "above 255"),
        ("a #zzz\n", "write a name"),
        ("\n".join(map(str, range(300))), "at most 254"),
    ],
)
def test_a_list_without_sense_is_refused(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(BadData, match=message):
        read_code(tmp_path)


def test_a_missing_list_says_what_to_write(tmp_path):
    with pytest.raises(BadData, match=r"no classes\.txt; write one"):
        read_code(tmp_path)


def test_cityscapes_has_19_classes():
    assert meanings(cityscapes_code(), 0, 7, 8, 33, -1, 3, 34) == [255, 0, 1, 18, 255, 255, -1]
    assert meanings(cityscapes_train_code(), 0, 18, 255, 19) == [0, 18, 255, -1]
    assert len(cityscapes_code().names) == 19 and cityscapes_code().names[13] == "car"
