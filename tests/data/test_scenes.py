import math

import numpy as np
import pytest
from PIL import Image

from featherbone.data.formats import find_tasks
from featherbone.data.scenes import THINGS, _inside, write_classification
from featherbone.errors import BadOption
from scenes import draw_portrait, draw_scene

SIZES = [(32, 32), (64, 96), (101, 67)]


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
        assert {number for number, _ in scene.segments} == set(np.unique(scene.panoptic).tolist())
        for number, label in scene.segments:
            assert (scene.semantic[scene.panoptic == number] == label).all()
        assert sum(label < len(THINGS) for _, label in scene.segments) == len(scene.labels)


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


def test_a_folder_of_portraits_is_refused_when_it_exists(folder):
    folder.mkdir()  # an empty folder may be used
    write_classification(folder, train=9, val=6, size=(32, 32))
    assert find_tasks(folder) == ("classification",)
    before = sorted(folder.rglob("*"))
    with pytest.raises(BadOption, match="is not an empty folder; choose another --out"):
        write_classification(folder, train=1, val=1, size=(32, 32))
    assert sorted(folder.rglob("*")) == before and list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": -1}, {"size": (31, 64)}])
def test_what_cannot_be_finished_leaves_nothing(wrong, folder):
    with pytest.raises(BadOption, match=r"at least one|or more"):
        write_classification(folder, **wrong)
    assert list(folder.parent.iterdir()) == []


def test_classification_reads_back(folder):
    write_classification(folder, train=13, val=6, size=(40, 32), seed=3)
    assert sorted(path.parent.name for path in folder.glob("train/*/*.jpg")) == sorted((THINGS * 3)[:13])
    for number, path in enumerate(sorted(folder.glob("val/*/*.jpg"), key=lambda path: path.name)):
        drawn = draw_portrait(3, 2 * number + 1, (40, 32), THINGS.index(path.parent.name)).image
        with Image.open(path) as image:
            assert image.size == (32, 40)
            assert np.abs(np.asarray(image, float) - np.asarray(drawn, float)).mean() < 4
