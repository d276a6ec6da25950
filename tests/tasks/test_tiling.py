"""Objects of a large image are found in tiles, once, in the image's own pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption
from featherbone.ops import rle
from featherbone.ops.boxes import Found
from featherbone.results import Detections, Instances
from featherbone.tasks.detection import ObjectDecoder
from featherbone.tasks.inference import Inference
from featherbone.tasks.tiling import decode_tiled


class Bright:
    """Finds the bright rectangles of an image whose sides at the input are 8 pixels or more, perfectly."""

    raw, score = torch.Tensor, 0.05

    def __init__(self, masks):
        self.masks = masks

    def describe(self):
        return {}

    def __call__(self, raw, sizes, score=None):
        return [self._find(image, score or 0.05) for image in raw]

    def _find(self, image, score):
        bright = (image[0] > 0.5).numpy()
        boxes = []
        while bright.any():
            y, x = np.argwhere(bright)[0]
            w = int(np.argmin(np.append(bright[y, x:], False)))
            h = int(np.argmin(np.append(bright[y:, x], False)))
            bright[y : y + h, x : x + w] = False
            if min(w, h) >= 8:
                boxes.append((x, y, x + w, y + h))
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        masks = torch.ones(len(boxes), 28, 28) if self.masks else None
        return Found(boxes, torch.zeros(len(boxes), dtype=torch.int64), torch.full((len(boxes),), 0.9), masks)


class Itself(torch.nn.Module):
    """A network that passes the image on to the decoder."""

    def __init__(self, masks):
        super().__init__()
        self.decoder = ObjectDecoder("detection", ("thing",), Bright(masks))

    def forward(self, images, score):
        return images


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (64, 400), (64, 48)])
def test_small_objects_are_found_once(masks, height, width):
    generator = np.random.default_rng(height)
    pixels = np.zeros((height, width, 3), np.uint8)
    truth = []
    for y in range(4, height - 16, 24):
        for x in range(4, width - 16, 24):
            w, h = generator.integers(10, 14, 2)
            pixels[y : y + h, x : x + w] = 255
            truth.append((x, y, x + w, y + h))
    task = Itself(masks)
    preprocessing = Preprocessing(64, 64, interpolation="nearest", mean=(0, 0, 0), std=(1, 1, 1), rule="fit")
    about = (preprocessing, Image.fromarray(pixels), 64, 0.3, torch.device("cpu"))
    record = decode_tiled(task, *about, batch_size=3)
    assert type(record) is (Instances if masks else Detections)
    assert (record.height, record.width) == (height, width)
    assert sorted(record.boxes) == sorted(map(tuple, np.array(truth, float).tolist()))
    if masks:
        covered = sum(rle.decode(mask).astype(int) for mask in record.masks)
        assert (covered == (pixels[..., 0] > 0)).all()


def test_an_object_larger_than_a_tile_is_found_whole():
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[20:220, 40:240] = 255
    task = Itself(False)
    preprocessing = Preprocessing(64, 64, interpolation="nearest", mean=(0, 0, 0), std=(1, 1, 1), rule="fit")
    record = decode_tiled(task, preprocessing, Image.fromarray(pixels), 64, 0.2, torch.device("cpu"))
    assert record.boxes == ((40, 20, 240, 220),)


def test_nothing_is_found_where_nothing_is():
    task = Itself(True)
    preprocessing = Preprocessing(64, 64, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest", rule="fit")
    record = decode_tiled(task, preprocessing, Image.new("RGB", (200, 100)), 64, 0.2, torch.device("cpu"))
    assert isinstance(record, Instances) and len(record) == 0 and record.to_json()["objects"] == []


@pytest.mark.parametrize(
    ("size", "overlap", "message"), [(8, 0.2, "tiles of 8"), (64, 0.95, "overlap 0.95"), (64, -1, "overlap")]
)
def test_tiles_that_cannot_be_cut(size, overlap, message):
    with pytest.raises(BadOption, match=message):
        Inference(tile=size, overlap=overlap)
