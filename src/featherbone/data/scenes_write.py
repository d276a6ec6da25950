"""Folders of drawn scenes in the layouts that Featherbone trains on.

Every writer here takes the number of pictures to train and to validate on, their height and width, and a seed. The
folder must be new or empty, and appears when it is complete. `BadOption` is raised where something is there already,
and for a number out of range.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherbone.data.scenes import CLASSES, THINGS, Bools, Scene, draw_portrait, draw_scene
from featherbone.errors import BadOption
from featherbone.files import atomic_folder, check_new_folder
from featherbone.ops.rle import box_of


def write_classification(
    folder: Path, train: int = 1200, val: int = 300, size: tuple[int, int] = (64, 64), seed: int = 0
) -> None:
    """Write portraits as `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, the classes in turn."""
    with _new_folder(folder) as new:
        for stream, (split, count) in enumerate(_splits(train, val)):
            for number in range(count):
                label = number % len(THINGS)
                scene = draw_portrait(seed, 2 * number + stream, size, label)
                _save(scene.image, new / split / THINGS[label] / f"{number:05}.jpg")


def write_coco(
    folder: Path, train: int = 200, val: int = 50, size: tuple[int, int] = (128, 128), seed: int = 0
) -> None:
    """Write `annotations/instances_{train,val}.json`, masks as uncompressed RLE, and pictures in `train` and `val`.

    In this layout and those below every eighth picture has no things; a seed gives the same pictures in all of them.
    """
    with _new_folder(folder) as new:
        for split, count in _splits(train, val):
            annotations: list[dict[str, Any]] = []
            for number, scene in _scenes(split, count, size, seed):
                _save(scene.image, new / split / f"{number:05}.jpg")
                for label, mask in zip(scene.labels, scene.masks, strict=True):
                    rle = {"size": list(size), "counts": encode_rle(mask)}
                    record = {"id": len(annotations) + 1, "image_id": number, "segmentation": rle}
                    annotations.append(record | _region_record(int(label), mask))
            _save_json(new / "annotations" / f"instances_{split}.json", count, size, annotations, THINGS)


def write_panoptic(
    folder: Path, train: int = 200, val: int = 50, size: tuple[int, int] = (128, 128), seed: int = 0
) -> None:
    """Write COCO panoptic: `annotations/panoptic_{train,val}.json`, pictures in `train` and `val`, and segment ids,
    id = R + 256 G + 65536 B, in `panoptic_{train,val}/*.png`.
    """
    with _new_folder(folder) as new:
        for split, count in _splits(train, val):
            annotations: list[dict[str, Any]] = []
            for number, scene in _scenes(split, count, size, seed):
                _save(scene.image, new / split / f"{number:05}.jpg")
                ids = np.stack([scene.panoptic, scene.panoptic >> 8, scene.panoptic >> 16], axis=2)
                _save(Image.fromarray((ids & 255).astype(np.uint8)), new / f"panoptic_{split}" / f"{number:05}.png")
                segments = [{"id": s.id} | _region_record(s.label, scene.panoptic == s.id) for s in scene.segments]
                annotations.append({"image_id": number, "file_name": f"{number:05}.png", "segments_info": segments})
            _save_json(new / "annotations" / f"panoptic_{split}.json", count, size, annotations, CLASSES)


def write_masks(
    folder: Path, train: int = 200, val: int = 50, size: tuple[int, int] = (128, 128), seed: int = 0
) -> None:
    """Write `images/{train,val}/*.jpg`, `masks/{train,val}/*.png` of indices, and `classes.txt`, a name a line."""
    with _new_folder(folder) as new:
        (new / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        for split, count in _splits(train, val):
            for number, scene in _scenes(split, count, size, seed):
                _save(scene.image, new / "images" / split / f"{number:05}.jpg")
                _save(Image.fromarray(scene.semantic), new / "masks" / split / f"{number:05}.png")


def write_yolo(
    folder: Path, train: int = 200, val: int = 50, size: tuple[int, int] = (128, 128), seed: int = 0
) -> None:
    """Write `data.yaml`, `images/{train,val}/*.jpg`, and `labels/{train,val}/*.txt` of lines `label cx cy w h`."""
    with _new_folder(folder) as new:
        names = "".join(f"  {label}: {name}\n" for label, name in enumerate(THINGS))
        (new / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}")
        for split, count in _splits(train, val):
            (new / "labels" / split).mkdir(parents=True)
            for number, scene in _scenes(split, count, size, seed):
                _save(scene.image, new / "images" / split / f"{number:05}.jpg")
                low, high = scene.boxes[:, :2] / size[::-1], scene.boxes[:, 2:] / size[::-1]
                rows = np.column_stack([scene.labels, (low + high) / 2, high - low])
                np.savetxt(new / "labels" / split / f"{number:05}.txt", rows, fmt="%d" + 4 * " %.6f")


def encode_rle(mask: Bools) -> list[int]:
    """Lengths of the runs of a mask (H, W) down its columns, of 0 and 1 in turn from 0: COCO's uncompressed RLE."""
    flat = mask.T.ravel()
    turns = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff(turns, prepend=0, append=flat.size).tolist()


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name when everything is written."""
    check_new_folder(folder)
    with atomic_folder(folder) as new:
        yield new


def _splits(train: int, val: int) -> tuple[tuple[str, int], tuple[str, int]]:
    if min(train, val) < 1:
        raise BadOption(f"{train} pictures to train and {val} to validate; give one or more of each")
    return ("train", train), ("val", val)


def _scenes(split: str, count: int, size: tuple[int, int], seed: int) -> Iterator[tuple[int, Scene]]:
    for number in range(count):
        yield number, draw_scene(seed, 2 * number + (split == "val"), size, most=0 if number % 8 == 7 else 5)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92, subsampling=0)  # for JPEG: colours as sharp as light, pictures are small


def _region_record(label: int, mask: Bools) -> dict[str, Any]:
    """What COCO says of an instance and of a segment alike: boxes are x y width height, categories count from 1."""
    x1, y1, x2, y2 = box_of(mask)
    return {"category_id": label + 1, "area": int(mask.sum()), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}


def _save_json(
    path: Path, count: int, size: tuple[int, int], annotations: list[dict[str, Any]], names: Sequence[str]
) -> None:
    height, width = size
    images = [{"id": i, "file_name": f"{i:05}.jpg", "height": height, "width": width} for i in range(count)]
    categories = [{"id": i, "name": name, "isthing": int(name in THINGS)} for i, name in enumerate(names, 1)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
