"""Data sets of objects written as VOC, labelme and CVAT store them, from one in COCO's layout."""

import base64
import io
import json
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
from PIL import Image

from featherbone.data.dataset import open_data
from featherbone.data.doctor.examine import examine
from featherbone.data.formats import find_tasks
from featherbone.errors import BadData
from featherbone.ops import rle


def noise(path, seed):
    """Write a picture of 80 x 40 pixels, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 80, 3)).astype(np.uint8)).save(path)


def to_stacks(folder):
    """Replace the pictures of a data set, but for PNGs of masks, by folders of a PNG file for each channel."""
    for path in [*folder.rglob("*.jpg")]:
        channels = Image.open(path).split()
        path.unlink()
        path.with_suffix(".stack").mkdir()
        for name, channel in zip("bgr", reversed(channels), strict=True):
            channel.save(path.with_suffix(".stack") / f"{name}.png")
    for path in folder.rglob("*.*"):
        if path.suffix in (".json", ".jsonl", ".csv", ".xml", ".txt"):
            path.write_text(path.read_text().replace(".jpg", ".stack"))


def write_pictures(folder, file, picture, content):
    """Three pictures for training and two for validation; `content(split, number)` is that of their files."""
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            place = {"split": split, "number": f"{split}{i}"}
            noise(folder / picture.format(**place), i + 10 * (split == "val"))
            path = folder / file.format(**place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content(**place), encoding="utf-8")


def sound(folder, tasks, box, train, val, classes=None):
    """Both splits, whose every image has one object at `box` for training and nothing wrong for the doctor."""
    splits = open_data(folder, tasks[-1])
    every = [images.truth(index) for images in (splits.train, splits.val) for index in range(len(images))]
    assert (len(splits.train), len(splits.val)) == (train, val) and classes in (None, splits.classes)
    assert all(of.boxes.tolist() == [box] and not of.crowd.any() for of in every)
    assert find_tasks(folder) == tasks and not examine(folder, tasks[-1], 64).spoiled
    return splits


def refused_by_both(folder, message, task="detection"):
    """The one example of the doctor for an annotation that training refuses with the same text."""
    with pytest.raises(BadData, match=message) as refused:
        open_data(folder, "detection")
    found = {one.code: one for one in examine(folder, task, 64).findings}
    (example,) = found["unreadable-annotation"].examples
    assert example.note in str(refused.value)
    return example, found


def splits_of(coco):
    splits = open_data(coco, "instance")
    return (("train", splits.train), ("val", splits.val))


def voc_xml(filename, size, objects, first=1):
    """A file of objects (class, x1, y1, x2, y2), edges in pixels from 0; `first` is the number of the first pixel."""
    height, width = size
    rows = "".join(
        f"<object><name>{escape(name)}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{x1 + first}</xmin><ymin>{y1 + first}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "</object>\n"
        for name, x1, y1, x2, y2 in objects
    )
    size_text = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>\n<folder>x</folder><filename>{escape(filename)}</filename>{size_text}\n{rows}</annotation>\n"


def write_voc(coco, folder):
    """VOC's own layout: `Annotations`, `JPEGImages`, `ImageSets/Main`."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, images in splits_of(coco):
        stems = []
        for index in range(len(images)):
            of, stem = images.truth(index), f"{split}_{index:03}"
            stems.append(stem)
            (folder / f"JPEGImages/{stem}.jpg").write_bytes(images.encoded(index))
            boxes = [(images.classes[label], *box) for label, box in zip(of.labels, of.boxes.astype(int), strict=True)]
            (folder / f"Annotations/{stem}.xml").write_text(voc_xml(f"{stem}.jpg", (of.height, of.width), boxes))
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems) + "\n")


def labelme_shape(label, points, shape_type="polygon", group_id=None, mask=None):
    flags = {"description": "", "flags": {}}
    return {"label": label, "points": points, "group_id": group_id, "shape_type": shape_type, "mask": mask, **flags}


def labelme_json(path, size, shapes):
    about = {"version": "5.5.0", "flags": {}, "imagePath": path, "imageData": "iVBORw0KGgo="}
    return json.dumps({**about, "shapes": shapes, "imageHeight": size[0], "imageWidth": size[1]}, indent=2)


def png(mask):
    """A mask as labelme stores it."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_labelme(coco, folder):
    """Files beside the images of each split, every object a mask."""
    for split, images in splits_of(coco):
        (folder / split).mkdir(parents=True)
        for index in range(len(images)):
            of, shapes = images.truth(index), []
            (folder / f"{split}/{index:03}.jpg").write_bytes(images.encoded(index))
            for label, shape in zip(of.labels.tolist(), of.masks, strict=True):
                mask = rle.decode(shape)
                x1, y1, x2, y2 = rle.box_of(mask)
                points = [[x1, y1], [x2 - 1, y2 - 1]]
                shapes.append(labelme_shape(images.classes[label], points, "mask", mask=png(mask[y1:y2, x1:x2])))
            text = labelme_json(f"{index:03}.jpg", (of.height, of.width), shapes)
            (folder / f"{split}/{index:03}.json").write_text(text)


def cvat_xml(labels, images):
    """A file of images: rows of attributes as text and elements inside."""
    names = "".join(f"<label><name>{escape(name)}</name><type>any</type></label>" for name in labels)
    rows = "".join(f"<image id='{i}' {about}>{inside}</image>\n" for i, (about, inside) in enumerate(images))
    meta = f"<meta><task><name>t</name><labels>{names}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}\n{rows}</annotations>\n'


def cvat_mask(label, mask):
    x1, y1, x2, y2 = rle.box_of(mask)
    flat = mask[y1:y2, x1:x2].ravel()
    turns = np.flatnonzero(np.diff(flat, prepend=False))
    runs = ", ".join(map(str, np.diff(turns, prepend=0, append=flat.size).tolist()))
    where = f'left="{x1}" top="{y1}" width="{x2 - x1}" height="{y2 - y1}"'
    return f'<mask label={quoteattr(label)} source="manual" occluded="0" rle="{runs}" {where} z_order="0"></mask>'


def write_cvat(coco, folder):
    """`annotations.xml` with subsets, images under `images`, every object a mask."""
    rows = []
    for split, images in splits_of(coco):
        (folder / "images" / split).mkdir(parents=True)
        for index in range(len(images)):
            of, name = images.truth(index), f"{split}/{index:03}.jpg"
            (folder / "images" / name).write_bytes(images.encoded(index))
            labels = [images.classes[label] for label in of.labels]
            masks = "".join(cvat_mask(n, rle.decode(m)) for n, m in zip(labels, of.masks, strict=True))
            rows.append((f'name="{name}" subset="{split}" width="{of.width}" height="{of.height}"', masks))
        names = images.classes
    (folder / "annotations.xml").write_text(cvat_xml(names, rows))
