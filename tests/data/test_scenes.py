import json
import math

import numpy as np
import pytest
from PIL import Image

from featherbone.data import scenes_write
from featherbone.data.layouts import find_tasks
from featherbone.data.scenes import CLASSES, THINGS, _inside, draw_portrait, draw_scene
from featherbone.errors import BadOption

SIZES = [(32, 32), (64, 96), (101, 67)]
WRITERS = {
    scenes_write.write_classification: ("classification",),
    scenes_write.write_coco: ("detection", "instance"),
    scenes_write.write_panoptic: ("detection", "instance", "semantic", "panoptic"),
    scenes_write.write_masks: ("semantic",),
    scenes_write.write_yolo: ("detection",),
}


def decode_rle(counts, size):
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size[::-1]).T


def written(split):
    """The scenes that a writer of 9 and 2 pictures with seed 3 puts into a split."""
    first, count = {"train": (0, 9), "val": (1, 2)}[split]
    return [draw_scene(3, 2 * i + first, (48, 80), most=0 if i % 8 == 7 else 5) for i in range(count)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "drawn"


@pytest.mark.parametrize("size", SIZES)
def test_all_labels_of_a_scene_agree(size):
    for index in range(25):
        scene = draw_scene(5, index, size)
        assert scene.image.size == size[::-1] and scene.image.mode == "RGB"
        assert 1 <= len(scene.labels) <= 5
        covered = np.zeros(size, bool)
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert not covered[mask].any()
            assert (scene.semantic[mask] == label).all()
            assert len(np.unique(scene.panoptic[mask])) == 1
            covered |= mask
        assert (covered == (scene.semantic < len(THINGS))).all()
        assert {segment.id for segment in scene.segments} == set(np.unique(scene.panoptic).tolist())
        for segment in scene.segments:
            assert (scene.semantic[scene.panoptic == segment.id] == segment.label).all()
        assert sum(segment.label < len(THINGS) for segment in scene.segments) == len(scene.labels)


def test_seed_and_index_make_the_picture_and_nothing_else_does():
    first, again = (draw_scene(1, 2, (64, 64)) for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes() and (first.panoptic == again.panoptic).all()
    others = {draw_scene(seed, index, (64, 64)).image.tobytes() for seed in range(3) for index in range(3)}
    assert len(others) == 9


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", 0.81 * math.pi),
        ("ring", 0.63 * math.pi),
        ("square", 1.5**2),
        ("cross", 2 * 1.9 * 0.6 - 0.6**2),
        ("triangle", 0.75 * math.sqrt(3)),
        ("star", 10 * math.sin(math.pi / 5) * math.sin(math.pi / 10) / math.sin(7 * math.pi / 10) / 2),
    ],
)
def test_outlines_have_the_area_of_their_figure_and_stay_in_the_circle(shape, area):
    line = np.linspace(-1.2, 1.2, 800, dtype=np.float32)
    u, v = np.meshgrid(line, line)
    inside = _inside(shape, u, v)
    assert inside.mean() * 2.4**2 == pytest.approx(area, rel=0.01)
    assert (u * u + v * v)[inside].max() < 1.13  # the corners of a square of half side 0.75 lie farthest out


def test_a_thing_contrasts_with_its_ground():
    """Pictures are lit and averaged after labelling; this ties the two together."""
    apart = []
    for index in range(24):
        scene = draw_portrait(0, index, (64, 64), index % 6)
        colours, mask = np.asarray(scene.image, float), scene.masks[0]
        rim = np.logical_xor(mask, np.roll(mask, 1, axis=1))
        steps = np.abs(np.diff(colours, axis=1, prepend=colours[:, :1])).sum(2)
        apart.append(steps[rim].mean() / steps[~rim].mean())
    assert np.median(apart) > 2


def test_portraits_ask_for_more_than_single_pixels():
    draw = [draw_portrait(4, index, (32, 32), index % 6) for index in range(420)]
    assert [scene.labels.tolist() for scene in draw[:12]] == [[i] for i in (*range(6), *range(6))]
    pixels = np.stack([np.asarray(scene.image, float).ravel() for scene in draw]) / 255 - 0.5
    targets = np.eye(6)[np.arange(420) % 6] - 1 / 6
    seen, unseen = pixels[:300], pixels[300:]
    for penalty in (10, 100, 1000):  # ridge regression, in its dual form
        weights = np.linalg.solve(seen @ seen.T + penalty * np.eye(300), targets[:300])
        right = (unseen @ seen.T @ weights).argmax(1) == np.arange(300, 420) % 6
        assert right.mean() < 0.65  # a linear classifier misses a third of what the demo learns


@pytest.mark.parametrize("mask", [np.zeros((3, 5)), np.ones((3, 5)), np.eye(4, 7), 1 - np.eye(4, 7)])
def test_rle_is_what_coco_decodes(mask):
    mask = mask.astype(bool)
    counts = scenes_write.encode_rle(mask)
    assert (decode_rle(counts, mask.shape) == mask).all()
    coco = pytest.importorskip("faster_coco_eval.core.mask")
    rle = coco.frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape)
    assert (coco.decode(rle) == mask).all()


@pytest.mark.parametrize("writer", WRITERS)
def test_a_layout_is_recognised_and_refused_when_it_is_there_already(writer, folder):
    folder.mkdir()  # an empty folder may be used
    writer(folder, train=9, val=6, size=(32, 32))
    assert find_tasks(folder) == WRITERS[writer]
    before = sorted(folder.rglob("*"))
    with pytest.raises(BadOption, match="is not an empty folder; choose another --out"):
        writer(folder, train=1, val=1, size=(32, 32))
    assert sorted(folder.rglob("*")) == before and list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": -1}, {"size": (31, 64)}])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_cannot_be_finished_leaves_nothing(writer, wrong, folder):
    with pytest.raises(BadOption, match="or more"):
        writer(folder, **wrong)
    assert list(folder.parent.iterdir()) == []


def test_classification_reads_back(folder):
    scenes_write.write_classification(folder, train=13, val=6, size=(40, 32), seed=3)
    assert sorted(path.parent.name for path in folder.glob("train/*/*.jpg")) == sorted((THINGS * 3)[:13])
    for number, path in enumerate(sorted(folder.glob("val/*/*.jpg"), key=lambda path: path.name)):
        drawn = draw_portrait(3, 2 * number + 1, (40, 32), THINGS.index(path.parent.name)).image
        with Image.open(path) as image:
            assert image.size == (32, 40)
            assert np.abs(np.asarray(image, float) - np.asarray(drawn, float)).mean() < 4


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_reads_back(folder, split):
    scenes_write.write_coco(folder, train=9, val=2, size=(48, 80), seed=3)
    data = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    assert [c["name"] for c in sorted(data["categories"], key=lambda c: c["id"])] == list(THINGS)
    assert min(c["id"] for c in data["categories"]) == 1
    assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"])
    for record, scene in zip(data["images"], written(split), strict=True):
        with Image.open(folder / split / record["file_name"]) as image:
            assert image.size == (record["width"], record["height"]) == scene.image.size
        own = [a for a in data["annotations"] if a["image_id"] == record["id"]]
        assert [a["category_id"] - 1 for a in own] == scene.labels.tolist()
        for annotation, box, mask in zip(own, scene.boxes, scene.masks, strict=True):
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == box.tolist()
            rle = annotation["segmentation"]
            assert (decode_rle(rle["counts"], rle["size"]) == mask).all() and annotation["area"] == mask.sum()
    assert any(len(scene.labels) == 0 for scene in written(split)) == (split == "train")


@pytest.mark.parametrize("split", ["train", "val"])
def test_panoptic_reads_back(folder, split):
    scenes_write.write_panoptic(folder, train=9, val=2, size=(48, 80), seed=3)
    data = json.loads((folder / "annotations" / f"panoptic_{split}.json").read_text())
    names = {c["id"]: c["name"] for c in data["categories"]}
    assert [c["isthing"] for c in data["categories"]] == [name in THINGS for name in names.values()]
    for record, annotation, scene in zip(data["images"], data["annotations"], written(split), strict=True):
        assert annotation["image_id"] == record["id"] and (folder / split / record["file_name"]).is_file()
        with Image.open(folder / f"panoptic_{split}" / annotation["file_name"]) as image:
            ids = np.asarray(image, np.int64) @ [1, 256, 65536]
        assert (ids == scene.panoptic).all()
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids))
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            x, y, width, height = segment["bbox"]
            assert names[segment["category_id"]] == CLASSES[scene.semantic[mask][0]]
            assert segment["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()


def test_masks_read_back(folder):
    scenes_write.write_masks(folder, train=9, val=2, size=(48, 80), seed=3)
    assert (folder / "classes.txt").read_text().split() == list(CLASSES)
    for split in ("train", "val"):
        names = sorted(path.stem for path in (folder / "images" / split).iterdir())
        for name, scene in zip(names, written(split), strict=True):
            with Image.open(folder / "masks" / split / f"{name}.png") as image:
                assert image.mode == "L" and (np.asarray(image) == scene.semantic).all()


def test_yolo_reads_back(folder):
    scenes_write.write_yolo(folder, train=9, val=2, size=(48, 80), seed=3)
    assert [f"  {i}: {name}" in (folder / "data.yaml").read_text() for i, name in enumerate(THINGS)] == [True] * 6
    for split in ("train", "val"):
        names = sorted(path.stem for path in (folder / "images" / split).iterdir())
        for name, scene in zip(names, written(split), strict=True):
            text = (folder / "labels" / split / f"{name}.txt").read_text()
            rows = np.array([line.split() for line in text.splitlines()], float).reshape(-1, 5)
            centre, extent = rows[:, 1:3] * (80, 48), rows[:, 3:] * (80, 48)
            assert rows[:, 0].tolist() == scene.labels.tolist()
            np.testing.assert_allclose(np.hstack([centre - extent / 2, centre + extent / 2]), scene.boxes, atol=1e-3)
