"""CVAT's XML as it exports it, and what is refused."""

import numpy as np
import pytest

import label_files
from featherbone.data.dataset import open_data
from featherbone.data.doctor.examine import examine
from featherbone.data.formats import open_split
from featherbone.errors import BadData
from featherbone.ops import rle
from label_files import cvat_mask, cvat_xml, noise, refused_by_both

BOX = '<box label="cat" source="manual" occluded="0" xtl="10.00" ytl="5.00" xbr="60.00" ybr="35.00" z_order="0"></box>'
POLYGON = '<polygon label="cat" source="manual" points="10.0,5.0;60.0,5.0;60.0,35.0;10.0,35.0" z_order="0"/>'


def row(name, inside=BOX, subset=None):
    about = f'name="{name}" width="80" height="40"'
    return (about if subset is None else f'{about} subset="{subset}" task_id="1"'), inside


def write(folder, rows, labels=("cat",), images="images"):
    for number, (about, _) in enumerate(rows):
        noise(folder / images / about.split('"')[1].replace("\\", "/"), number)
    (folder / "annotations.xml").write_text(cvat_xml(labels, rows))


def sound(folder, train=3, val=2, masks=False):
    tasks = ("detection", "instance") if masks else ("detection",)
    return label_files.sound(folder, tasks, [10, 5, 60, 35], train, val)


def one(folder, inside, labels=("cat",)):
    write(folder, [row("a.png", inside), row("b.png")], labels)
    return open_split(folder, "detection", "train")


@pytest.mark.parametrize("images", ["images", "."])
def test_a_task_has_no_splits(tmp_path, images):
    write(tmp_path, [row(f"{number}.png", POLYGON) for number in range(5)], images=images)
    assert "held out 1 of 5" in sound(tmp_path, 4, 1, masks=True).notices[0]


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Train", "Validation"), ("default", "val"), ("", "val")])
def test_subsets_of_a_project_are_splits(tmp_path, train, val):
    rows = [row(f"{split}{i}.png", subset=split) for split, count in ((train, 3), (val, 2)) for i in range(count)]
    write(tmp_path, rows)
    assert sound(tmp_path).notices == ()


def test_folders_in_names_and_of_files_are_splits(tmp_path):
    write(tmp_path / "one", [row(f"{name}{i}.png") for name, n in (("train/", 3), ("val\\", 2)) for i in range(n)])
    sound(tmp_path / "one")
    for split, count in (("train", 3), ("valid", 2)):
        write(tmp_path / "two" / split, [row(f"{split}{i}.png") for i in range(count)])
    for number, file in enumerate((tmp_path / "two/valid/images").iterdir()):
        noise(file, number + 7)
    sound(tmp_path / "two")
    for split, count in (("train", 3), ("valid", 2)):
        for i in range(count):
            noise(tmp_path / f"three/images/{split}{i}.png", i + 10 * count)
        rows = [row(f"{split}{i}.png") for i in range(count)]
        (tmp_path / f"three/{split}.xml").write_text(cvat_xml(["cat"], rows))
    sound(tmp_path / "three")


def test_images_outside_of_the_subsets_are_named(tmp_path):
    write(tmp_path, [row("a.png", subset="train"), row("b.png", subset="val"), row("c.png", subset="backlog")])
    splits = open_data(tmp_path, "detection")
    assert len(splits.train) == len(splits.val) == 1
    assert splits.notices == ("train: 1 images outside of the splits are not read",)


def test_every_shape(tmp_path):
    mask = np.zeros((40, 80), bool)
    mask[8:20, 30:41] = np.random.default_rng(0).random((12, 11)) > 0.4
    mask[8, 30] = mask[19, 40] = True
    opened = one(
        tmp_path,
        '<box label="cat" xtl="10" ytl="15" xbr="50" ybr="25" rotation="90.0"/>'
        '<ellipse label="cat" cx="40" cy="20" rx="10" ry="5"/>'
        + cvat_mask("cat", mask)
        + '<points label="cat" points="1,1"/><polyline label="cat" points="1,1;2,2"/><tag label="cat"/>',
    )
    of = opened.images.truth(0)
    np.testing.assert_allclose(of.boxes[0], [25, 0, 35, 40], atol=1e-4)
    np.testing.assert_allclose(of.boxes[1], [30, 15, 50, 25], atol=1e-4)
    assert of.boxes[2].tolist() == [30, 8, 41, 20]
    assert np.array_equal(rle.decode(of.masks[2]), mask) and rle.decode(of.masks[0]).sum() == 400
    assert opened.notes == ("3 points, lines and other shapes that are not objects are not read",)


def test_a_box_turns_clockwise(tmp_path):
    opened = one(tmp_path, '<box label="cat" xtl="20" ytl="18" xbr="60" ybr="22" rotation="30"/>')
    (polygon,) = opened.images.entries[0].shape(0)
    corners = np.reshape(polygon, (4, 2)) - (40, 20)
    end = corners[1:3].mean(0)  # the middle of the right side, now lower
    np.testing.assert_allclose(end, [20 * np.cos(np.pi / 6), 20 * np.sin(np.pi / 6)], atol=1e-9)


def test_one_group_is_one_object_of_polygons_and_masks_only(tmp_path):
    left, right = (
        f'<polygon label="{{}}" points="{x},0;{x + 10},0;{x + 10},10;{x},10" group_id="{{}}"/>' for x in (0, 50)
    )
    box = '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9" group_id="1"/>'
    inside = left.format("cat", 1) + right.format("cat", 1) + right.format("dog", 1) + box * 2
    inside += left.format("cat", 0) + right.format("cat", 0)
    of = one(tmp_path, inside, ("cat", "dog")).images.truth(0)
    a, b, whole, small = [0, 0, 10, 10], [50, 0, 60, 10], [0, 0, 60, 10], [1, 1, 9, 9]
    assert of.boxes.tolist() == [whole, b, small, small, a, b] and of.labels.tolist() == [0, 1, 0, 0, 0, 0]


def test_classes_are_the_labels_in_their_order(tmp_path):
    meta = "".join(
        f"<label><name>{name}</name><type>{kind}</type>{more}</label>"
        for name, kind, more in (
            ("zebra", "any", ""),
            ("cat", "rectangle", ""),
            ("good photo", "tag", ""),
            ("man", "skeleton", ""),
            ("nose", "points", "<parent>man</parent>"),
            ("ant", "polygon", ""),
        )
    )
    write(tmp_path, [row("a.png"), row("b.png")])
    text = (tmp_path / "annotations.xml").read_text()
    label = "<label><name>cat</name><type>any</type></label>"
    for old, new in (("<task>", "<project>"), ("</task>", "</project>"), (label, meta)):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "annotations.xml").write_text(text)
    assert open_data(tmp_path, "detection").classes == ("zebra", "cat", "ant")
    (tmp_path / "annotations.xml").write_text(text.replace(meta, ""))
    assert open_data(tmp_path, "detection").classes == ("cat",)


def test_missing_images_and_those_not_listed(tmp_path):
    opened = one(tmp_path, BOX)
    noise(tmp_path / "images/new.png", 9)
    (tmp_path / "images/b.png").unlink()
    opened = open_split(tmp_path, "detection", "train")
    assert opened.missing == ("b.png",) and opened.unlisted == ("images/new.png",)
    (tmp_path / "images/a.png").unlink()
    with pytest.raises(BadData, match=r"2 images of 2 listed for train but not there.*: a\.png, b\.png"):
        open_data(tmp_path, "detection")


def test_tracks_of_a_video_are_named_with_what_to_export(tmp_path):
    track = '<track id="0" label="cat"><box frame="0" xtl="1" ytl="1" xbr="9" ybr="9" outside="0"/></track>'
    text = cvat_xml(["cat"], []).replace("</annotations>", f"{track}</annotations>")
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(BadData, match=r"annotations\.xml: CVAT for video.* export the task as CVAT for images 1\.1"):
        open_data(tmp_path, "detection")
    assert examine(tmp_path, "detection", 64).spoiled


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (BOX.replace("cat", " "), "no label; write the class"),
        (BOX.replace("cat", "cow"), "class 'cow' is not listed in the labels of the XML file; list it"),
        (BOX.replace("10.00", "left"), "box: xtl 'left' is not a number; write pixels"),
        (BOX.replace('xtl="10.00"', ""), "box: xtl None is not a number"),
        (BOX.replace("10.00", "70"), "box: from 70, 5 to 60, 35; write the upper left corner first"),
        (POLYGON.replace("10.0,5.0;60.0,5.0;", ""), "polygon: points '60.0,35.0;10.0,35.0'; write three or more"),
        (POLYGON.replace("10.0,5.0", "10.0"), "polygon: points .*; write three or more as x,y;x,y;x,y"),
        (POLYGON.replace("10.0,5.0", "nan,5.0"), "write three or more"),
        (POLYGON.replace("points=", "other="), "polygon: points ''"),
        ('<mask label="cat" rle="1,2,x" left="0" top="0" width="2" height="2"/>', "mask: rle is not a list"),
        (
            '<mask label="cat" rle="1,9" left="0" top="0" width="2" height="2"/>',
            "mask: runs of 10 pixels in a part of 4",
        ),
        ('<mask label="cat" rle="-1,5" left="0" top="0" width="2" height="2"/>', "mask: rle is not a list"),
        ('<mask label="cat" rle="0,4" left="79" top="0" width="2" height="2"/>', "not inside the image of 80x40"),
        ('<mask label="cat" rle="0,4" left="0" top="0" width="0" height="2"/>', "not inside the image"),
        ('<ellipse label="cat" cx="1" cy="2" rx="3"/>', "ellipse: ry None is not a number"),
    ],
)
def test_what_cannot_be_read_is_a_finding_and_a_refusal_of_the_same_text(tmp_path, inside, message):
    write(tmp_path, [row("a.png", inside), row("b.png")])
    refused_by_both(tmp_path, rf"annotations\.xml, a\.png, object 1: .*{message}")


def test_a_mask_in_an_image_of_huge_stated_size_is_refused(tmp_path):
    write(tmp_path, [row("a.png", '<mask label="cat" rle="0,4" left="0" top="0" width="2" height="2"/>'), row("b.png")])
    text = (
        (tmp_path / "annotations.xml").read_text().replace('width="80" height="40"', 'width="99999999" height="99999"')
    )
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(BadData, match=r"mask: an image of 99999999x99999 pixels, .* correct its size"):
        open_data(tmp_path, "detection")
