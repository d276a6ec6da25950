"""Images, boxes and masks stay together through every augmentation, and follow from (seed, epoch, index) alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn.functional import max_pool2d, pad

from featherbone.data.augment import VISIBLE, Augmentation, Sample, stitch
from featherbone.data.dataset import open_data
from featherbone.data.samples import DetectionSamples, PanopticSamples, SemanticSamples, collate, to_device
from featherbone.data.transforms import Preprocessing
from featherbone.ops import rle
from scenes import write_panoptic

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
EVERYTHING = Augmentation(flip=0.5, scale=(0.5, 1.6), expand=2.0, iou_crop=0.5, mosaic=0.5)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six pictures larger than they are shown; on each but the last three shapes of a colour each, and a crowd."""
    data = tmp_path_factory.mktemp("marked")
    (data / "annotations").mkdir()
    marked = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": f"c{i}"} for i in range(4)]}
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (data / split).mkdir()
    for number, (width, height) in enumerate([(640, 480), (360, 800), (512, 512), (900, 320), (500, 400), (400, 400)]):
        picture = Image.new("RGB", (width, height), (30, 30, 30))
        for label in range(3 if number < 5 else 0):
            w, h = (int(side * (0.2 + 0.1 * generator.random())) for side in (width, height))
            x, y = (width * label // 3), int(generator.random() * (height - h))
            layer = Image.new("1", picture.size)
            draw = ImageDraw.Draw(layer)
            (draw.ellipse if label == 1 else draw.rectangle)((x, y, x + w - 1, y + h - 1), fill=1)
            picture.paste(COLOURS[label], mask=layer)
            a = {"id": len(marked["annotations"]), "image_id": number, "category_id": label + 1, "iscrowd": 0}
            a |= {"bbox": [x, y, w, h], "segmentation": rle.encode(np.asarray(layer))}
            marked["annotations"].append(a)
        if number < 5:
            crowd = {"id": 100 + number, "iscrowd": 1, "category_id": 4, "bbox": [0, 0, width, height]}
            marked["annotations"].append({**marked["annotations"][-1], **crowd})
        marked["images"].append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for split in ("train", "val"):
            picture.save(data / split / f"{number}.png")
    for split in ("train", "val"):
        (data / f"annotations/instances_{split}.json").write_text(json.dumps(marked))
    return open_data(data, "instance").train


def samples(images, augmentation, height=128, width=96, masks=True, seed=0):
    preprocessing = Preprocessing(height, width, interpolation="bilinear", rule="fit")
    return DetectionSamples(images, preprocessing, augmentation, seed, masks)


def seen(image, label):
    """Where a normalised image shows a class's colour (H, W); blurred edges are left out."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (image * std[:, None, None] + mean[:, None, None]) * 255
    return ((pixels - torch.tensor(COLOURS[label], dtype=torch.float32)[:, None, None]).abs() < 90).all(0)


ALONE = {
    "nothing": Augmentation(flip=0),
    "flip": Augmentation(flip=1),
    "smaller": Augmentation(flip=0, scale=(0.5, 0.5)),
    "larger": Augmentation(flip=0, scale=(1.7, 1.7)),
    "expand": Augmentation(flip=0, expand=2.5),
    "crop": Augmentation(flip=0, iou_crop=1.0),
    "mosaic": Augmentation(flip=0, scale=(0.6, 1.2), mosaic=1.0),
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("name", ALONE)
def test_pixels_boxes_and_masks_stay_together(images, name):
    found = 0
    with_masks, with_boxes = samples(images, ALONE[name]), samples(images, ALONE[name], masks=False)
    for epoch in range(2):
        for index in range(len(images)):
            image, target = with_masks[epoch, index]
            assert image.shape == (3, 128, 96) and target.masks.shape == (len(target.labels), 128, 96)
            boxes_only = with_boxes[epoch, index][1]
            assert torch.equal(with_boxes[epoch, index][0], image) and boxes_only.masks is None
            assert 3 not in target.labels  # crowds
            for box, label, mask in zip(target.boxes, target.labels, target.masks, strict=True):
                rows, columns = mask.nonzero().unbind(1)
                around = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
                assert torch.equal(box, around.float())
                outside = pad(1 - mask.float(), (3, 3, 3, 3), value=1.0)
                inner = max_pool2d(outside[None], 7, 1)[0] == 0  # three pixels from any edge or cut, which may blur
                found += bool(inner.any())
                assert seen(image, int(label))[inner].all(), (epoch, index, label)
            for label in range(
                3 if name not in ("crop", "everything") else 0
            ):  # a crop drops what has its centre outside
                told = target.masks[target.labels == label].any(0)
                stray = seen(image, label) & ~(max_pool2d(told.float()[None], 5, 1, 2)[0] > 0)
                assert stray.sum() < 260, (epoch, index, label)  # of objects of which less than a tenth is left
            for box, label in zip(boxes_only.boxes, boxes_only.labels, strict=True):
                assert (box[2:] > box[:2]).all() and box.min() >= 0 and box[2] <= 96 and box[3] <= 128
                x1, y1, x2, y2 = box.round().int().tolist()
                if label != 1 and min(x2 - x1, y2 - y1) > 4:  # a disc's corner may be empty
                    assert seen(image, int(label))[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
    assert found > 12


def test_nothing_at_random_is_what_evaluation_sees(images):
    plain, still = samples(images, None), samples(images, Augmentation(flip=0))
    for index in range(len(images)):
        (one, target), (other, same) = plain[0, index], still[3, index]
        assert torch.equal(one, other)
        assert torch.equal(one, plain.preprocessing.transform()(images.image(index)))
        assert torch.equal(target.labels, same.labels) and torch.equal(target.masks, same.masks)
        entry = images.entries[index]
        frame = plain.preprocessing.frame(entry.height, entry.width)
        objects = images.truth(index)
        np.testing.assert_allclose(frame.to_image(target.boxes), objects.boxes[~objects.crowd], atol=1e-3)


def test_flipping_twice_changes_nothing():
    torch.manual_seed(0)
    masks = torch.zeros(1, 10, 12, dtype=torch.uint8)
    masks[0, 3:5, 2:9] = 1
    image = torch.randint(256, (3, 10, 12), dtype=torch.uint8)
    one = Sample(image, torch.tensor([[2.0, 3, 9, 5]]), torch.tensor([1]), masks)
    flip = Augmentation(flip=1)
    once = flip._flipped(one)
    assert torch.equal(once.image, image.flip(2)) and once.boxes.tolist() == [[3, 3, 10, 5]]
    twice = flip._flipped(once)
    assert torch.equal(twice.image, image) and torch.equal(twice.boxes, one.boxes) and torch.equal(twice.masks, masks)


def test_a_sample_follows_from_its_key(images):
    one, other = samples(images, EVERYTHING), samples(images, EVERYTHING)
    keys = [(epoch, index) for epoch in range(2) for index in range(len(images))]
    first = {key: one[key] for key in keys}
    torch.manual_seed(5)
    for key in reversed(keys):
        image, target = other[key]
        assert torch.equal(image, first[key][0]) and torch.equal(target.boxes, first[key][1].boxes)
    assert not torch.equal(first[0, 0][0], first[1, 0][0])
    assert not torch.equal(samples(images, EVERYTHING, seed=1)[0, 0][0], first[0, 0][0])
    state = torch.random.get_rng_state()
    one[0, 0]
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_a_cut_leaves_too_little_of_is_dropped():
    boxes = torch.tensor([[0.0, 0, 10, 10], [18, 0, 38, 10], [28, 0, 48, 10], [18.5, 0, 58, 10]])
    one = Sample(torch.zeros(3, 20, 60, dtype=torch.uint8), boxes, torch.arange(4))
    left = one.window(0, 0, 20, 20).kept_of(one)
    assert left.labels.tolist() == [0, 1] and left.boxes.tolist() == [[0, 0, 10, 10], [18, 0, 20, 10]]
    assert 1.5 / 39.5 < VISIBLE <= 2 / 20


def test_a_mosaic_shows_four_images_that_meet_in_a_point():
    parts = []
    for place in range(4):
        image = torch.full((3, 60, 60), 10 * (place + 1), dtype=torch.uint8)
        parts.append(Sample(image, torch.tensor([[20.0, 20, 40, 40]]), torch.tensor([place])))
    for seed in range(10):
        torch.manual_seed(seed)
        made = stitch(parts, 80, 100, [1, 2, 3])
        values = made.image[0]
        assert values.shape == (80, 100) and set(values.unique().tolist()) <= {1, 10, 20, 30, 40}
        rows, columns = (values == 10).nonzero().unbind(1)
        y, x = int(rows.max()) + 1, int(columns.max()) + 1
        assert (values[y:, :x] != 10).all() and values[y - 1, x] == 20 and values[y, x - 1] == 30 and values[y, x] == 40
        assert 20 <= y <= 60 and 25 <= x <= 75
        for box, label in zip(made.boxes.int().tolist(), made.labels.tolist(), strict=True):
            assert (values[box[1] : box[3], box[0] : box[2]] == 10 * (label + 1)).all()


def test_colours_change_and_nothing_else(images):
    still, lively = samples(images, Augmentation(flip=0)), samples(images, Augmentation(flip=0, photometric=1.0))
    changed = 0
    for epoch in range(4):
        (one, target), (other, same) = still[epoch, 0], lively[epoch, 0]
        changed += not torch.equal(one, other)
        assert torch.equal(target.boxes, same.boxes) and torch.equal(target.masks, same.masks)
    assert changed >= 2


def test_batches(images):
    rows = [samples(images, EVERYTHING)[0, index] for index in range(len(images))]
    batch, targets = collate(rows)
    assert batch.shape == (6, 3, 128, 96) and len(targets) == 6
    assert all(torch.equal(x, image) for x, (image, _) in zip(batch, rows, strict=True))
    moved = to_device(targets, torch.device("meta"))
    assert all(part.is_meta for target in moved for part in target)
    assert to_device([target._replace(masks=None) for target in targets], torch.device("cpu"))[0].masks is None


def test_an_image_without_objects(images):
    for augmentation in (None, replace(EVERYTHING, mosaic=0)):
        _, target = samples(images, augmentation)[0, 5]
        assert target.boxes.shape == (0, 4) and target.labels.shape == (0,) and target.masks.shape == (0, 128, 96)
        assert target.labels.dtype == torch.int64 and target.masks.dtype == torch.bool


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """Drawn scenes with segments."""
    data = tmp_path_factory.mktemp("parted") / "data"
    write_panoptic(data, 8, 2, (60, 80), seed=4)
    return open_data(data, "panoptic").train


MAPPED = Augmentation(flip=0.5, scale=(0.5, 2.0), photometric=0.5, expand=1.5, iou_crop=0.5, class_share=0.75)


@pytest.fixture(scope="module")
def label_maps(parted):
    """The classes of the same scenes."""
    return open_data(parted.root, "semantic").train


def of_maps(images, augmentation, kind=SemanticSamples, height=64, width=96):
    return kind(images, Preprocessing(height, width, interpolation="bilinear", rule="fit"), augmentation, 0)


def test_maps_are_seen_whole_without_augmentation(label_maps):
    """60 x 80 fits 64 x 96 as 64 x 85; nearest neighbours, what is beyond is not known."""
    for i in range(len(label_maps)):
        image, labels = of_maps(label_maps, None)[0, i]
        assert image.shape == (3, 64, 96) and labels.dtype == torch.int64 and (labels[:, 85:] == 255).all()
        truth = torch.from_numpy(label_maps.truth(i))
        rows, columns = (torch.arange(64) + 0.5) * 60 / 64, (torch.arange(85) + 0.5) * 80 / 85
        assert (labels[:, :85] == truth[rows.long()][:, columns.long()]).all()


def test_maps_and_masks_stay_together(parted):
    """Where a mask says thing, the map says thing."""
    shown = 0
    for key in ((epoch, i) for epoch in range(6) for i in range(len(parted))):
        image, target = of_maps(parted, MAPPED, PanopticSamples)[key]
        assert target.stuff.shape == image.shape[1:] and target.things.masks.shape[1:] == image.shape[1:]
        assert set(target.stuff.unique().tolist()) <= {0, 1, 2, 3, 255}
        covered = target.things.masks.any(0)
        shown += int(covered.sum())
        assert (target.stuff[covered] == 0).float().mean() > 0.9 if covered.any() else True
    assert shown > 5000


def test_a_map_follows_its_image(label_maps):
    """Colours of drawn stuff: where the map says one class, pixels of the image hardly differ from it."""
    flipped, plain = Augmentation(flip=1.0), Augmentation(flip=0.0)
    for i in range(len(label_maps)):
        (image, labels), (other, others) = (of_maps(label_maps, a)[0, i] for a in (flipped, plain))
        inner = labels[:, :85]
        assert (inner.flip(1) == others[:, :85]).float().mean() > 0.97
        assert (image[:, :, :85].flip(2) - other[:, :, :85]).abs().mean() < 0.2


def test_no_class_fills_a_window(label_maps):
    """Of ten windows one is kept in which no class has more than its share, if there is one."""

    def largest(share):
        worst = []
        for i in range(len(label_maps)):
            for epoch in range(5):
                labels = of_maps(label_maps, Augmentation(scale=(3.0, 3.0), class_share=share))[epoch, i][1]
                counts = labels[labels != 255].bincount()
                worst.append(float(counts.max() / counts.sum()))
        return np.mean([value > 0.75 for value in worst])

    assert largest(0.75) < 0.6 * largest(1.0)


def test_maps_follow_from_seed_epoch_and_index(label_maps):
    one, same = of_maps(label_maps, MAPPED)[3, 1], of_maps(label_maps, MAPPED)[3, 1]
    assert torch.equal(one[0], same[0]) and torch.equal(one[1], same[1])
    assert not torch.equal(one[1], of_maps(label_maps, MAPPED)[4, 1][1])


def test_a_batch_of_maps_moves_to_a_device(parted):
    images, targets = collate([of_maps(parted, None, PanopticSamples)[0, i] for i in range(2)])
    moved = to_device(targets, torch.device("cpu"))
    assert images.shape == (2, 3, 64, 96) and torch.equal(moved[0].stuff, targets[0].stuff)
    assert torch.equal(moved[1].things.masks, targets[1].things.masks)
