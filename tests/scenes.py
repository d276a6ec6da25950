"""Drawn scenes with boxes, masks and panoptic maps, and folders of them in the layouts that Featherbone reads.

Every writer takes the number of training and validation images, their height and width, and a seed. Every eighth image
has no things; a seed gives the same images in all layouts.
"""

import json
from dataclasses import dataclass

import numpy as np
from PIL import Image

from featherbone.data.scenes import CLASSES, MIDDLES, THINGS, Painting, save_drawing, write_classification
from featherbone.ops.rle import box_of

__all__ = ["write_classification", "write_coco", "write_masks", "write_panoptic", "write_yolo"]


@dataclass(frozen=True)
class Scene:
    """A picture with exact labels; of N things, later ones cover earlier ones.

    `boxes` (N, 4) are those of the visible parts, x1 y1 x2 y2 in pixels; `labels` (N,) index `THINGS`; `masks`
    (N, H, W) are the visible parts. `semantic` (H, W) indexes `CLASSES`. `panoptic` (H, W) holds 10,000 (label + 1)
    plus a running number, so that all three bytes of a panoptic PNG are used; `segments` are pairs of id and label.
    """

    image: Image.Image
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    semantic: np.ndarray
    panoptic: np.ndarray
    segments: tuple


def draw_scene(seed, index, size, most=5):
    """Draw one or two grounds and on them one to `most` things (none if 0), each at most half covered."""
    painting = Painting(seed, index, size)
    painting.lay_ground(split=painting.rng.random() < 0.7)
    for _ in range(painting.rng.integers(1, most + 1) if most else 0):
        for _ in range(6):  # tries; a crowded picture gets fewer things
            if painting.add_thing(int(painting.rng.integers(len(THINGS))), radius=(0.1, 0.24), reach=0.4):
                break
    return finish(painting)


def draw_portrait(seed, index, size, label):
    """The picture of the function of that name in `featherbone.data.scenes`, with labels."""
    painting = Painting(seed, index, size)
    painting.add_portrait(label)
    return finish(painting)


def finish(painting):
    regions, labels = painting.regions[MIDDLES], np.array(painting.labels)
    ids = (10_000 * (labels + 1) + np.arange(len(labels))).astype(np.int32)
    things = np.flatnonzero(labels < len(THINGS))
    masks = regions == things[:, None, None]
    return Scene(
        image=painting.image(),
        boxes=np.array([box_of(mask) for mask in masks], np.float32).reshape(-1, 4),
        labels=labels[things],
        masks=masks,
        semantic=labels.astype(np.uint8)[regions],
        panoptic=ids[regions],
        segments=tuple((int(ids[i]), painting.labels[i]) for i in np.unique(regions)),
    )


def write_coco(folder, train=200, val=50, size=(128, 128), seed=0):
    """`annotations/instances_{train,val}.json` with masks as uncompressed RLE; images in `train` and `val`."""
    for split, count in (("train", train), ("val", val)):
        annotations = []
        for number, scene in _scenes(folder / split, count, size, seed):
            for label, mask in zip(scene.labels, scene.masks, strict=True):
                region = {"segmentation": {"size": list(size), "counts": _run_lengths(mask)}, **_region(label, mask)}
                annotations.append({"id": len(annotations) + 1, "image_id": number, **region})
        _write_json(folder / "annotations" / f"instances_{split}.json", count, size, annotations, THINGS)


def write_panoptic(folder, train=200, val=50, size=(128, 128), seed=0):
    """`annotations/panoptic_{train,val}.json`, images in `train` and `val`, ids in `panoptic_{train,val}/*.png`."""
    for split, count in (("train", train), ("val", val)):
        annotations = []
        for number, scene in _scenes(folder / split, count, size, seed):
            ids = np.stack([scene.panoptic, scene.panoptic >> 8, scene.panoptic >> 16], axis=2)
            _write_map((ids & 255).astype(np.uint8), folder / f"panoptic_{split}" / f"{number:05}.png")
            segments = [{"id": id_, **_region(label, scene.panoptic == id_)} for id_, label in scene.segments]
            annotations.append({"image_id": number, "file_name": f"{number:05}.png", "segments_info": segments})
        _write_json(folder / "annotations" / f"panoptic_{split}.json", count, size, annotations, CLASSES)


def write_masks(folder, train=200, val=50, size=(128, 128), seed=0):
    """`images/{train,val}/*.jpg`, `masks/{train,val}/*.png` of indices, and `classes.txt`."""
    for split, count in (("train", train), ("val", val)):
        for number, scene in _scenes(folder / "images" / split, count, size, seed):
            _write_map(scene.semantic, folder / "masks" / split / f"{number:05}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def write_yolo(folder, train=200, val=50, size=(128, 128), seed=0):
    """`data.yaml`, `images/{train,val}/*.jpg`, and `labels/{train,val}/*.txt` with lines `label cx cy w h`."""
    for split, count in (("train", train), ("val", val)):
        (folder / "labels" / split).mkdir(parents=True)
        for number, scene in _scenes(folder / "images" / split, count, size, seed):
            low, high = scene.boxes[:, :2] / size[::-1], scene.boxes[:, 2:] / size[::-1]
            rows = np.column_stack([scene.labels, (low + high) / 2, high - low])
            np.savetxt(folder / "labels" / split / f"{number:05}.txt", rows, fmt="%d" + 4 * " %.6f")
    names = "".join(f"  {label}: {name}\n" for label, name in enumerate(THINGS))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}")


def _scenes(folder, count, size, seed):
    """The scenes of a split, by number; their images are saved in the folder, whose name is the split's."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        most = 0 if number % 8 == 7 else 5
        scene = draw_scene(seed, 2 * number + (folder.name == "val"), size, most)
        save_drawing(scene.image, folder / f"{number:05}.jpg")
        yield number, scene


def _run_lengths(mask):
    """Lengths of runs of 0 and 1 in turn, down the columns, starting with 0."""
    flat = mask.T.ravel()
    turns = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff(turns, prepend=0, append=flat.size).tolist()


def _region(label, mask):
    x1, y1, x2, y2 = box_of(mask)
    return {"category_id": int(label) + 1, "area": int(mask.sum()), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}


def _write_map(values, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def _write_json(path, count, size, annotations, names):
    height, width = size
    images = [{"id": i, "file_name": f"{i:05}.jpg", "height": height, "width": width} for i in range(count)]
    categories = [{"id": i, "name": name, "isthing": int(name in THINGS)} for i, name in enumerate(names, 1)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


WRITE = {
    "classification": write_classification,
    "detection": write_coco,
    "instance": write_coco,
    "semantic": write_masks,
    "panoptic": write_panoptic,
}
"""The writer of drawn data for each task."""
