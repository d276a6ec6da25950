"""What the values of mask files mean."""

import numpy as np
import pytest
from PIL import Image

from featherbone.data.label_files import cityscapes_code, cityscapes_train_code, read_code, read_values, voc_code
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
        ("a\na\n", "a listed more than once"),
        ("a #ff0000\nb #ff0000\n", "the colour of b"),
        ("a 0 0 300\n", "above 255"),
        ("a #zzz\n", "write a name"),
        ("\n".join(map(str, range(300))), "the maximum is 254"),
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


LISTS = {
    "classes.txt": "\ufeffsky #0000ff\r\nroad #804080\r\nvoid #000000\r\n",
    "class_dict.csv": "name,r,g,b\nsky,0,0,255\nroad,128,64,128\nVoid,0,0,0\n",
    "label_colors.txt": "0 0 255\tsky\r\n128 64 128\troad\n0 0 0\tVoid\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nsky:0,0,255::\nroad:128,64,128::\nvoid:0,0,0::\n",
}


@pytest.mark.parametrize(("file", "text"), LISTS.items())
def test_lists_of_colours_of_other_tools(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    code = read_code(tmp_path)
    assert code.names == ("sky", "road") and meanings(code, 0, 1, 2, 3) == [0, 1, 255, -1]
    assert meanings(code, 0xFF, 0x804080, 0, 1, coloured=True) == [0, 1, 255, -1]


def test_lists_of_indices_of_other_tools(tmp_path):
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncat\n")
    code = read_code(tmp_path)
    assert code.names == ("_background_", "cat") and meanings(code, 0, 1, 2) == [0, 1, -1]
    (tmp_path / "train").mkdir()
    (tmp_path / "labels.txt").rename(tmp_path / "train" / "class_names.txt")
    assert read_code(tmp_path).names == ("_background_", "cat")
    (tmp_path / "train" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n7, cat\n")
    code = read_code(tmp_path)
    assert code.names == ("background", "cat") and meanings(code, 0, 1, 7) == [0, -1, 1]
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t11664\t1172\t1\twall\n2\t0.1\t6046\t612\t1\tbuilding, edifice\n"
    )
    code = read_code(tmp_path)
    assert code.names == ("wall", "building, edifice") and meanings(code, 0, 1, 2) == [255, 0, 1]


@pytest.mark.parametrize(
    ("file", "text", "remedy"),
    [
        ("class_dict.csv", "a;r;g;b\nsky;0;0;0\n", "columns a;r;g;b; write name,r,g,b, or Pixel Value,Class"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,999\n", "a channel above 255; write a name and"),
        ("label_colors.txt", "0 0 255\n", "write R G B and a name a line"),
        ("objectInfo150.txt", "wall\nbuilding\n", r"not ADE20K's table .* write classes\.txt instead"),
        ("_classes.csv", "Pixel Value, Class\n1, a\n1, b\n", "value 1 of b is also another class's"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path, file, text, remedy):
    (tmp_path / file).write_text(text)
    with pytest.raises(BadData, match=f"{file}.*{remedy}"):
        read_code(tmp_path)


def test_grey_colours_are_the_values_of_grey_masks(tmp_path):
    (tmp_path / "classes.txt").write_text("background #000000\nobject #ffffff\n")
    code = read_code(tmp_path)
    assert meanings(code, 0, 255, 1) == [0, 1, -1]
    assert meanings(code, 0, 0xFFFFFF, coloured=True) == [0, 1]


def test_palettes_in_another_order_are_read_by_their_colours(tmp_path):
    (tmp_path / "classes.txt").write_text("sky #0000ff\nroad #804080\ncar #ff0000\n")
    code = read_code(tmp_path)
    indices = np.array([[0, 1, 2, 1]], np.uint8)
    for palette, expected in (([255, 0, 0, 0, 0, 255, 128, 64, 128], [2, 0, 1, 0]), ([*range(9)], [0, 1, 2, 1])):
        image = Image.frombytes("P", (4, 1), indices.tobytes())
        image.putpalette(palette)
        image.save(tmp_path / "mask.png")
        values, coloured = code.read(tmp_path / "mask.png", "mask.png")
        assert code.classes(values, coloured)[0].tolist() == expected


def test_pascal_voc_has_its_own_palette(tmp_path):
    code = voc_code()
    assert len(code.names) == 21 and code.names[15] == "person"
    image = Image.frombytes("P", (4, 1), bytes((0, 1, 15, 255)))
    colours = {0: (0, 0, 0), 1: (128, 0, 0), 15: (192, 128, 128), 255: (224, 224, 192)}
    image.putpalette([channel for i in range(256) for channel in colours.get(i, (1, 1, 1))])
    for mask in (image, image.convert("RGB")):
        mask.save(tmp_path / "mask.png")
        assert code.classes(*code.read(tmp_path / "mask.png", "mask.png"))[0].tolist() == [0, 1, 15, 255]
    image.putpalette([*range(256)] * 3)
    image.save(tmp_path / "mask.png")
    assert code.classes(*code.read(tmp_path / "mask.png", "mask.png"))[0].tolist() == [0, 1, 15, 255]


def test_the_message_of_a_jpeg_is_not_wrapped_in_another(tmp_path):
    for suffix in (".jpg", ".avif"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"mask{suffix}")
        with pytest.raises(BadImage) as error:
            read_values(tmp_path / f"mask{suffix}", "mask")
        assert str(error.value).count("mask:") == 1 and str(error.value).endswith("save masks as PNG")


def test_a_mask_that_is_postscript_starts_no_program(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Image.new("RGB", (9, 8)).save(tmp_path / "mask.png", "EPS")
    with pytest.raises(BadImage, match="PostScript or PDF, which is never run; export it as PNG"):
        read_values(tmp_path / "mask.png", "mask.png")
    assert not (tmp_path / "started").exists()
