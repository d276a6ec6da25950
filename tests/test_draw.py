import numpy as np
import pytest
from PIL import Image, ImageColor

from featherbone.draw import (
    colour,
    contact_sheet,
    contrast,
    draw_detections,
    draw_record,
    font,
    ink,
    save_picture,
    shorten,
)
from featherbone.errors import FeatherboneError
from featherbone.ops import rle
from featherbone.results import Classification, Detections, Instances

RECORD = Classification((2, 0, 1), ("rose", "a very long name of a class that cannot fit" * 3, "日本"), (0.7, 0.2, 0.1))


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (500, 30), (30, 900), (3000, 2000)])
def test_any_size_stays_whole_and_legible(size):
    image = Image.new("RGB", size, (10, 200, 30))
    drawn = draw_record(image, RECORD)
    assert 240 <= drawn.width <= 1600 and drawn.height <= 2100
    pixels = np.asarray(drawn)
    assert (pixels[0, drawn.width // 2] == (10, 200, 30)).all()  # the picture is above, untouched
    assert (pixels[-1] != (10, 200, 30)).any()
    assert len(drawn.getcolors(drawn.width * drawn.height)) > 20  # bars and text below


def test_text_fits():
    face = font(12)
    assert face.getlength(shorten(RECORD.names[1], face, 100)) <= 100
    assert shorten("rose", face, 100) == "rose"


def test_sheets_and_files(tmp_path):
    sheet = contact_sheet([Image.new("RGB", (9, 90)), Image.new("L", (90, 9)).convert("RGB")], ["a", "b" * 99])
    for name in ("sheet.jpg", "sheet.png"):
        save_picture(sheet, tmp_path / name)
        with Image.open(tmp_path / name) as written:
            assert written.size == sheet.size
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatherboneError, match="cannot write"):
        save_picture(sheet, tmp_path / "file" / "sheet.png")


def objects(width, height, boxes, labels, scores, masks=None):
    names = tuple(f"class {label}" for label in labels)
    kind, rest = (Detections, ()) if masks is None else (Instances, (tuple(masks),))
    return kind(height, width, tuple(boxes), tuple(labels), names, tuple(scores), *rest)


@pytest.mark.parametrize(("width", "height"), [(9, 7), (64, 48), (640, 480), (3000, 2000), (40, 900)])
def test_objects_are_drawn_on_images_of_any_size(width, height):
    image = Image.new("RGB", (width, height), "white")
    box = (width * 0.25, height * 0.25, width * 0.75, height * 0.75)
    drawn = draw_detections(image, objects(width, height, [box], [0], [0.9]))
    assert max(drawn.size) <= 1600 and drawn.width >= min(width, 480)
    painted = (np.abs(np.asarray(drawn).astype(int) - ImageColor.getrgb(colour(0))) < 12).all(2)
    assert painted.sum() > 20
    assert image.getextrema() == ((255, 255),) * 3  # the image is not changed


def test_a_box_is_drawn_at_its_place_only():
    image = Image.new("RGB", (800, 600), "white")
    drawn = np.asarray(draw_detections(image, objects(800, 600, [(200.0, 300, 400, 500)], [1], [0.5])))
    paint = ImageColor.getrgb(colour(0))  # one class: colours differ by object
    assert (drawn[300, 250:390] == paint).all() and (drawn[499, 210:390] == paint).all()
    assert (drawn[310:490, 200] == paint).all() and (drawn[310:490, 399] == paint).all()
    assert (drawn[310:490, 210:390] == 255).all()
    outside = np.ones((600, 800), bool)
    outside[250:502, 190:460] = False  # the box and its name
    assert (drawn[outside] == 255).all()


def test_a_mask_shows_through_and_only_where_it_is():
    covered = np.zeros((400, 600), bool)
    covered[100:300, 200:500] = True
    image = Image.new("RGB", (600, 400), "white")
    record = objects(600, 400, [(200.0, 100, 500, 300)], [0], [0.8], [rle.encode(covered)])
    drawn = np.asarray(draw_detections(image, record)).astype(int)
    expected = np.array(ImageColor.getrgb(colour(0))) * 0.4 + 255 * 0.6
    assert np.abs(drawn[150:280, 220:480] - expected).max() < 3
    assert (drawn[310:, :190] == 255).all()


def test_only_objects_above_the_score_are_drawn():
    image = Image.new("RGB", (600, 300), "black")
    high, low = (20.0, 40, 120, 140), (250.0, 150, 350, 250)
    record = objects(600, 300, [high, low], [0, 1], [0.9, 0.2])
    one = np.asarray(draw_detections(image, record, score=0.5))
    same = np.asarray(draw_detections(image, objects(600, 300, [high], [0], [0.9])))
    assert (one == same).all() and one[140:260, 240:360].max() == 0


def test_a_record_of_another_image_is_refused():
    with pytest.raises(ValueError, match="neither resized nor turned"):
        draw_detections(Image.new("RGB", (30, 20)), objects(20, 30, [], [], []))


def test_colours_differ():
    values = np.array([ImageColor.getrgb(colour(i)) for i in range(12)], float)
    gaps = np.abs(values[:, None] - values).sum(2) + 1000 * np.eye(12)
    assert gaps.min() > 60 and colour(0) == colour(20)
    for i in range(20):
        assert contrast(colour(i), ink(colour(i))) >= 3.5  # names are read on their colour
