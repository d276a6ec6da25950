"""Unreadable images are found and left out, in order, whatever the number."""

import numpy as np
from PIL import Image

from featherbone.data.formats import open_split
from featherbone.data.scan import find_unreadable, leave_out, look_at_each


def test_unreadable_images_are_named_and_left_out(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / "train" / name / f"{i}.png")
    (tmp_path / "train/a/1.png").write_bytes(b"")
    (tmp_path / "train/b/2.png").write_text("no picture")
    images = open_split(tmp_path, "classification", "train").images
    bad = find_unreadable(images)
    assert {index: reason.split(":")[0] for index, reason in bad.items()} == {1: "train/a/1.png", 5: "train/b/2.png"}
    rest = leave_out(images, bad)
    assert rest.paths == ("train/a/0.png", "train/a/2.png", "train/b/0.png", "train/b/1.png")
    assert rest.labels.tolist() == [0, 0, 1, 1] and rest.classes == images.classes
    assert find_unreadable(rest) == {}


def test_each_image_is_looked_at_once_and_in_order():
    for count in (0, 1, 1023, 1024, 3000):
        assert list(look_at_each(np.arange(count), lambda index: index * index)) == [i * i for i in range(count)]
