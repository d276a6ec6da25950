"""Damaged files of annotations are read, or refused with a message; what training refuses, the doctor sees."""

import random
import re

import pytest

from featherbone.data.dataset import inspect_data, open_data
from featherbone.data.doctor.checks import check_annotations
from featherbone.data.formats import find_tasks
from featherbone.errors import FeatherboneError
from label_files import write_cvat, write_labelme, write_voc
from scenes import write_coco, write_yolo

WORDS = (
    *(
        b"nan",
        b"-1",
        b"1e308",
        b"1e999",
        b"99999999999999999999",
        b"null",
        b"{}",
        b"[]",
        b'""',
        b"\0",
        b"\xff\xfe",
        b'"',
    ),
    *(b"<", b"0", b"1", b"2.5", b"../../..", b"/etc/passwd", b" ", b"\n", b",", "ü漢".encode(), b"&amp;"),
)
FILES = {"yolo": "data.yaml labels/**/*.txt", "voc": "**/*.xml **/*.txt", "labelme": "**/*.json", "cvat": "*.xml"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutations")
    write_coco(folder / "coco", 3, 2, (32, 40))
    write_yolo(folder / "yolo", 3, 2, (32, 40))
    for name, write in (("voc", write_voc), ("labelme", write_labelme), ("cvat", write_cvat)):
        write(folder / "coco", folder / name)
    return folder


def damage(content, generator):
    """A word replaced, bytes removed, or a word put in, one to four times."""
    for _ in range(generator.choice((1, 1, 2, 4))):
        spans = [found.span() for found in re.finditer(rb"[\w.+-]+", content)]
        start, end = generator.choice(spans or [(0, 0)])
        if generator.random() < 0.5:
            start = generator.randrange(len(content) + 1)
            end = start + generator.choice((0, generator.randrange(1, 40)))
        content = content[:start] + generator.choice((b"", *WORDS)) + content[end:]
    return content


def seen_by_the_doctor(data):
    """Whether the doctor finds an error without reading an image, or the layout is none."""
    try:
        find_tasks(data)
    except FeatherboneError:
        return True
    splits, findings = inspect_data(data, "detection")
    findings += check_annotations(splits, "detection")
    return any(one.severity == "error" for one in findings)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_read_or_refused(written, name):
    data, generator = written / name, random.Random(7)
    files = sorted(path for pattern in FILES[name].split() for path in data.glob(pattern))
    num_refused = 0
    for number in range(40):
        path = generator.choice(files)
        before = path.read_bytes()
        path.write_bytes(damage(before, generator))
        try:
            find_tasks(data)
            splits = open_data(data, "detection")
            for images in (splits.train, splits.val):
                for index in range(len(images)):
                    images.truth(index)
        except FeatherboneError as error:
            num_refused += 1
            assert seen_by_the_doctor(data), f"damage {number} of {path.name}: {error}"
        finally:
            path.write_bytes(before)
    assert 5 < num_refused < 40
