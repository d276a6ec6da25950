"""Pascal VOC's files as VOC itself and other tools store them, and what is refused."""

import pytest

import label_files
from featherbone.data.dataset import open_data
from featherbone.data.formats import open_split
from featherbone.data.formats.format import Reading
from featherbone.errors import BadData
from label_files import noise, refused_by_both, voc_xml, write_pictures

BOX = [("cat", 10, 5, 60, 35)]


def write(folder, xml="{split}/{number}.xml", picture="{split}/{number}.jpg"):
    write_pictures(folder, xml, picture, lambda split, number: voc_xml(f"{number}.jpg", (40, 80), BOX))


def sound(folder, train=3, val=2):
    splits = label_files.sound(folder, ("detection",), [10, 5, 60, 35], train, val, ("cat",))
    assert not splits.train.has_masks
    return splits


def edit(folder, old, new, file="train/train0.xml"):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))


@pytest.fixture
def voc(tmp_path):
    write(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("xml", "picture"),
    [
        ("{split}/{number}.xml", "{split}/{number}.jpg"),  # Roboflow
        ("{split}/annotations/{number}.xml", "{split}/images/{number}.png"),
        ("annotations/{split}/{number}.xml", "images/{split}/{number}.jpg"),
        ("Annotations/{split}/{number}.xml", "JPEGImages/{split}/{number}.JPG"),
    ],
)
def test_splits_are_folders(tmp_path, xml, picture):
    write(tmp_path, xml, picture)
    assert sound(tmp_path).notices == ()


@pytest.mark.parametrize(
    ("xml", "picture"),
    [
        ("{number}.xml", "{number}.jpg"),  # labelImg
        ("annotations/{number}.xml", "images/{number}.png"),
        ("Annotations/{number}.xml", "JPEGImages/{number}.jpg"),
    ],
)
def test_without_splits_some_are_held_out(tmp_path, xml, picture):
    write(tmp_path, xml, picture)
    assert "held out 1 of 5" in sound(tmp_path, 4, 1).notices[0]


def test_lists_of_voc(tmp_path):
    write(tmp_path, "Annotations/{number}.xml", "JPEGImages/{number}.jpg")
    noise(tmp_path / "JPEGImages/extra.jpg", 6)
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbftrain0\r\ntrain1.jpg\r\ntrain2  1\r\n\r\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("val0\nval1\n")
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("val0\nval1\ntrain0\n")
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("train0 -1\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("extra\ngone\n")
    assert sound(tmp_path).notices == ()
    test = open_split(tmp_path, "detection", "test")
    assert test.unlisted == ("JPEGImages/extra.jpg",) and test.missing == ("gone",)
    noise(tmp_path / "SegmentationClass/train0.png", 5)  # is not the image
    assert len(open_split(tmp_path, "detection", "train").images) == 3
    (tmp_path / "ImageSets/Main/train.txt").unlink()
    assert len(open_split(tmp_path, "detection", "train").images) == 3


def test_pixels_are_counted_from_one_unless_a_coordinate_is_below(voc):
    edit(voc, "<xmin>11</xmin>", "<xmin>1</xmin>")
    edit(voc, "<xmax>60</xmax>", "<xmax>80</xmax>")
    assert open_data(voc, "detection").train.truth(0).boxes.tolist() == [[0, 5, 80, 35]]
    edit(voc, "<xmin>1</xmin>", "<xmin>0</xmin>")
    splits = open_data(voc, "detection")
    assert splits.train.truth(0).boxes.tolist() == [[0, 6, 80, 35]]
    assert splits.val.truth(0).boxes.tolist() == [[11, 6, 60, 35]]
    assert any("coordinates start at 0" in notice for notice in splits.notices)


def test_coordinates_may_be_floats_and_sizes_missing_or_zero(voc):
    edit(voc, "<xmin>11</xmin>", "<xmin> 10.5 </xmin>")
    edit(voc, "<width>80</width><height>40</height>", "<width>0</width><height>0</height>")
    edit(voc, "<size><width>80</width><height>40</height><depth>3</depth></size>", "", "train/train1.xml")
    images = open_data(voc, "detection").train
    assert images.truth(0).boxes.tolist() == [[9.5, 5, 60, 35]]
    assert {(entry.height, entry.width) for entry in images.entries} == {(40, 80)}


def test_difficult_objects_are_ignored_with_a_note(voc):
    edit(voc, "<difficult>0", "<difficult>1")
    splits = open_data(voc, "detection")
    assert splits.train.truth(0).crowd.tolist() == [True]
    assert "1 objects marked as difficult are ignored" in splits.notices[0]


def test_parts_are_not_objects(voc):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    edit(voc, "</object>", f"{part}</object>")
    sound(voc)


def test_classes_are_those_used_in_any_split_or_listed(voc):
    edit(voc, "<name>cat", "<name>ant", "val/val0.xml")
    splits = open_data(voc, "detection")
    assert splits.classes == ("ant", "cat") and splits.train.truth(0).labels.tolist() == [1]
    (voc / "labels.txt").write_text("dog\r\ncat\r\nant\r\n")
    assert open_data(voc, "detection").classes == ("dog", "cat", "ant")
    (voc / "labels.txt").unlink()
    (voc / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nant:1,2,3::\ncat:4,5,6::\n")
    assert open_data(voc, "detection").classes == ("ant", "cat")
    (voc / "labelmap.txt").write_text("ant\n")
    with pytest.raises(BadData, match=r"train/train0\.xml, object 1: class 'cat' is not listed in labelmap\.txt"):
        open_data(voc, "detection")
    (voc / "labelmap.txt").write_text("ant\ncat\nant\n")
    with pytest.raises(BadData, match="'ant' is listed twice"):
        open_data(voc, "detection")


def test_an_image_goes_by_the_name_of_its_file_else_by_what_it_names(voc):
    edit(voc, "train0.jpg", "train1.jpg")  # a copy that was not corrected
    (voc / "train/train2.jpg").rename(voc / "train/photo.jpg")
    edit(voc, "train2.jpg", "C:\\me\\photo.jpg", "train/train2.xml")
    sound(voc)
    assert [entry.path for entry in open_data(voc, "detection").train.entries] == [
        *(f"train/{name}.jpg" for name in ("train0", "train1", "photo"))
    ]


def test_two_images_of_one_name_are_refused(tmp_path):
    write(tmp_path, "Annotations/{number}.xml", "JPEGImages/{number}.jpg")
    noise(tmp_path / "other/train0.png", 0)
    sound(tmp_path, 4, 1)  # the file names one of them
    noise(tmp_path / "other/train0.jpg", 0)
    with pytest.raises(BadData, match=r"train0\.xml: its image may be .* keep one of them"):
        open_data(tmp_path, "detection")


def test_images_without_file_and_files_without_image(voc):
    noise(voc / "train/new.jpg", 7)
    (voc / "train/train1.jpg").unlink()
    opened = open_split(voc, "detection", "train")
    assert opened.unlisted == ("train/new.jpg",) and opened.missing == ("train1.jpg",) and len(opened.images) == 2
    assert len(open_split(voc, "detection", "train", Reading(unlabelled="negative")).images) == 3
    for file in voc.rglob("*.jpg"):
        file.unlink()
    with pytest.raises(BadData, match="3 images of 3 listed for train but not there"):
        open_data(voc, "detection")


def test_junk_is_ignored(voc):
    for name in ("train/._train0.xml", "train/._train0.jpg", ".DS_Store", "__MACOSX/train/._train0.xml"):
        (voc / name).parent.mkdir(exist_ok=True, parents=True)
        (voc / name).write_bytes(b"\0\5\26\7")
    assert sound(voc).notices == ()


BOMB = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "&{a};&{a};&{a};">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>cat</name>", "", "object 1: no name; write the class"),
        ("<name>cat</name>", "<name> </name>", "object 1: no name; write the class"),
        ("<xmin>11</xmin>", "", "object 1: xmin '' is not a number; write pixels"),
        ("<xmin>11</xmin>", "<xmin>left</xmin>", "xmin 'left' is not a number"),
        ("<xmin>11</xmin>", "<xmin>nan</xmin>", "xmin 'nan' is not a number"),
        ("<xmin>11</xmin>", "<xmin>1e300</xmin>", "xmin '1e300' is not a number"),
        ("<xmin>11</xmin>", "<xmin>71</xmin>", "xmin 71 is beyond xmax 60; swap or correct"),
        ("<ymax>35</ymax>", "<ymax>3</ymax>", "ymin 6 is beyond ymax 3"),
        ("<bndbox>", "<robndbox>", "not XML"),
        ("<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>60</xmax><ymax>35</ymax></bndbox>", "", "no bndbox; write xmin"),
        ("</annotation>", "", r"not XML \(no element found"),
        ("<annotation>", f"{BOMB}]><annotation>", "declares entities"),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>', "declares entities"),
        ("<folder>x</folder>", "<x>" * 99 + "</x>" * 99, "nested deeper than 32"),
        ("<folder>x</folder>", "<folder>&nbsp;</folder>", "not XML"),
    ],
)
def test_what_cannot_be_read_is_a_finding_and_a_refusal_of_the_same_text(voc, old, new, message):
    edit(voc, old, new)
    refused_by_both(voc, rf"train/train0\.xml.*{message}")


def test_files_in_other_encodings(voc):
    text = voc_xml("train0.jpg", (40, 80), BOX)
    for content in (
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        ('<?xml version="1.0" encoding="UTF-16"?>' + text).encode("utf-16"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>' + text.replace("<folder>x", "<folder>\xe4")).encode("latin-1"),
    ):
        (voc / "train/train0.xml").write_bytes(content)
        sound(voc)
