import re
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError
from PIL import Image

from examined import Page
from featherbone.report import format_metric, jpeg, render


def test_a_page_loads_nothing_and_escapes_names(tmp_path):
    picture = SimpleNamespace(name="a", caption="<i>caption", image=Image.new("RGB", (8, 8)))
    section = SimpleNamespace(title="a title", text="", pictures=[picture], beside=True)
    values = {"model": "<b>net", "subtitle": "", "warning": "", "items": [("<u>a", 0.5)], "omitted": 3}
    render("explain.html", tmp_path / "page.html", **values, sections=[section])
    html = (tmp_path / "page.html").read_text()
    page = Page(html)
    text = " ".join(page.text)
    assert page.open == [] and "<b>net" in text and "<i>caption" in text
    assert not re.search(r"<i>|<u>|<script|https?://|\burl\(", html) and "default-src 'none'" in html
    assert len(page.addresses) == 1 and page.addresses[0].startswith("data:image/jpeg;base64,")


def test_a_missing_value_is_an_error(tmp_path):
    with pytest.raises(UndefinedError, match="'model' is undefined"):
        render("explain.html", tmp_path / "page.html", subtitle="", warning="", items=[], omitted=0, sections=[])
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_reduced_to_the_pixels_that_are_shown():
    picture = Image.effect_noise((900, 600), 80).convert("RGB")
    assert len(jpeg(picture, 60)) < len(jpeg(picture, 300)) / 4 and picture.size == (900, 600)


def test_metrics_have_three_decimals():
    assert (format_metric(None), format_metric(0.12345)) == ("not measured", "0.123")
