"""Panoptic sets made from objects and maps of classes."""

import json

import numpy as np
import pytest
from PIL import Image

from featherbone.data.dataset import open_data
from featherbone.data.doctor.examine import examine
from featherbone.data.panoptic_write import make_panoptic_set
from featherbone.errors import BadData, BadOption
from featherbone.ops import rle
from label_files import to_stacks
from scenes import write_coco, write_masks, write_panoptic


def test_drawn_sets_become_what_was_drawn(tmp_path):
    """The same scenes as objects, as classes and as segments; void is where the maps have it."""
    for name, write in (("coco", write_coco), ("masks", write_masks), ("panoptic", write_panoptic)):
        write(tmp_path / name, 6, 3, (48, 64))
    settled = make_panoptic_set(tmp_path / "coco", tmp_path / "masks", tmp_path / "made")
    assert settled.images == 9 and not settled.vanished and not settled.unmapped
    for split in ("train", "val"):
        made = getattr(open_data(tmp_path / "made", "panoptic"), split)
        drawn = getattr(open_data(tmp_path / "panoptic", "panoptic"), split)
        names = {name: drawn.classes.index(name) for name in made.classes}
        table = np.array([names[name] for name in made.classes] + [255] * (256 - len(names)), np.uint8)
        assert {made.classes[i] for i in made.things} == {drawn.classes[i] for i in drawn.things}
        for i in range(len(made)):
            np.testing.assert_array_equal(table[made.truth(i).labels()], drawn.truth(i).labels())
            assert len(made.objects(made.truth(i))) == len(drawn.objects(drawn.truth(i)))
    kinds = {f.code for f in examine(tmp_path / "made", "panoptic").findings if f.severity == "error"}
    assert not kinds
    told = json.loads((tmp_path / "made/overlaps.json").read_text())
    assert told["images"] == 9 and told["things"] == settled.things


def test_stacks_are_written_as_arrays(tmp_path):
    write_coco(tmp_path / "coco", 2, 1, (48, 64))
    write_masks(tmp_path / "masks", 2, 1, (48, 64))
    to_stacks(tmp_path / "coco")
    make_panoptic_set(tmp_path / "coco", tmp_path / "masks", tmp_path / "made")
    before, after = open_data(tmp_path / "coco", "detection").val, open_data(tmp_path / "made", "panoptic").val
    assert after.name(0).endswith(".npy")
    assert np.array_equal(after.image(0, 3).values, before.image(0, 3).values)


@pytest.fixture
def one(tmp_path):
    """One picture of 4 x 6: a cat on a large dog and a tiny dog on it, a crowd partly under; grass, a dog unmarked."""
    masks = {
        ("dog", 0): [[1, 1, 1, 1, 0, 0]] * 2 + [[0] * 6] * 2,
        ("cat", 0): [[0, 0, 1, 1, 0, 0]] + [[0] * 6] * 3,
        ("dog ", 0): [[0, 0, 0, 1, 0, 0]] + [[0] * 6] * 3,
        ("cat", 1): [[0] * 6, [1, 0, 0, 0, 0, 0], [0] * 6, [1, 1, 0, 0, 0, 0]],
    }
    ids = {"cat": 3, "dog": 7}
    annotations = [
        {
            "id": i, "image_id": 5, "category_id": ids[name.strip()], "iscrowd": crowd, "bbox": [0, 0, 6, 4],
            "area": 1, "segmentation": dict(rle.encode(np.array(mask, bool))),
        }
        for i, ((name, crowd), mask) in enumerate(masks.items(), 1)
    ]  # fmt: skip
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 4, "width": 6}],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": annotations,
    }
    for split in ("train", "val"):
        for folder in (f"coco/{split}", "coco/annotations", f"maps/masks/{split}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / f"coco/annotations/instances_{split}.json").write_text(json.dumps(content))
        Image.new("RGB", (6, 4)).save(tmp_path / f"coco/{split}/a.jpg")
        labels = np.array([[0, 0, 0, 0, 0, 2]] * 3 + [[0, 0, 0, 1, 255, 255]], np.uint8)
        Image.fromarray(labels).save(tmp_path / f"maps/masks/{split}/a.png")
    (tmp_path / "maps/classes.txt").write_text("grass\ndog\nsky\n")
    return tmp_path


def test_overlaps_are_settled_and_told(one):
    settled = make_panoptic_set(one / "coco", one / "maps", one / "made")
    images = open_data(one / "made", "panoptic").train
    assert images.classes == ("cat", "dog", "grass", "sky") and images.category_ids == (3, 7, 8, 9)
    cat, dog, grass, sky, void = 0, 1, 2, 3, 255
    assert images.truth(0).labels().tolist() == [
        [dog, dog, cat, dog, grass, sky],
        [dog, dog, dog, dog, grass, sky],
        [grass, grass, grass, grass, grass, sky],
        [cat, cat, grass, void, void, void],
    ]
    objects = images.objects(images.truth(0))
    assert objects.crowd.sum() == 1 and len(objects.boxes) == 4
    assert settled.pairs == {("dog", "cat"): 2 + 2, ("cat", "dog"): 4}
    assert (settled.no_thing, settled.void, settled.things, settled.stuff) == (2, 6, 8, 4)
    assert settled.under_things == 2 * (8 + 2)
    assert "cat over dog: 4 pixels" in str(settled) and {pair["over"] for pair in settled.to_json()["pairs"]} == {
        "cat",
        "dog",
    }


def test_what_is_covered_wholly_vanishes_by_name(one):
    path = one / "coco/annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = content["annotations"][1]["segmentation"]
    path.write_text(json.dumps(content))
    settled = make_panoptic_set(one / "coco", one / "maps", one / "made")
    assert settled.vanished == ["train/a.jpg object 1"]


def test_an_image_without_a_map_has_no_stuff(one):
    (one / "maps/masks/train/a.png").unlink()
    settled = make_panoptic_set(one / "coco", one / "maps", one / "made")
    assert settled.unmapped == ["train/a.jpg"]
    assert open_data(one / "made", "panoptic").train.truth(0).labels()[2].tolist() == [255] * 6


def test_refusals_leave_nothing_behind(one):
    def refuse(message, kind=BadData):
        with pytest.raises(kind, match=message):
            make_panoptic_set(one / "coco", one / "maps", one / "made")
        assert not (one / "made").exists() and not list(one.glob(".made*"))

    path = one / "maps/masks/val/a.png"
    labels = np.asarray(Image.open(path)).copy()
    Image.fromarray(labels[:-1]).save(path)
    refuse("6x3 pixels for an image of 6x4")
    labels[0, 0] = 77
    Image.fromarray(labels).save(path)
    refuse("no class")
    (one / "maps/classes.txt").unlink()
    refuse(r"no classes\.txt")
    (one / "made").mkdir()
    (one / "made/file").touch()
    with pytest.raises(BadOption, match="not an empty folder"):
        make_panoptic_set(one / "coco", one / "maps", one / "made")
