import numpy as np
import pytest
from PIL import Image

from featherbone.draw import contact_sheet, draw_record, font, save_picture, shorten
from featherbone.errors import FeatherboneError
from featherbone.results import Classification

RECORD = Classification((2, 0, 1), ("rose", "a very long name of a class that cannot fit" * 3, "日本"), (0.7, 0.2, 0.1))


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (500, 30), (30, 900), (3000, 2000)])
def test_any_size_stays_whole_and_legible(size):
    image = Image.new("RGB", size, (10, 200, 30))
    drawn = draw_record(image, RECORD)
    assert 240 <= drawn.width <= 1600 and drawn.height <= 2100
    pixels = np.asarray(drawn)
    assert (pixels[0, drawn.width // 2] == (10, 200, 30)).all()  # the picture is above, untouched
    assert (pixels[-1] != (10, 200, 30)).any()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # bars and text below


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
