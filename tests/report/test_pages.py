import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError
from PIL import Image

from examined import Page
from featherbone.exporters.int8 import write_int8_page
from featherbone.exporters.sensitivity import Point
from featherbone.report import format_metric, jpeg, render

CARD = SimpleNamespace(backbone="<b>net", head=None, task="classification")


def test_a_page_loads_nothing_and_escapes_names(tmp_path):
    points = tuple(Point(floats, 1000 + floats, 0.1, 0.7 + floats / 100, 2.0) for floats in (0, 4, 8))
    result = SimpleNamespace(
        path=Path("<i>.onnx"),
        target="onnx",
        metric="top1",
        max_drop=0.02,
        calibration=16,
        before=Point(44, 4000, 0.0, 0.79, 3.0),
        points=points,
        kept=points[2],
        ranking=[SimpleNamespace(layer=f"blocks.{i}", error=1 / (1 + i)) for i in range(44)],
        drop=lambda point: 0.79 - point.metric,
    )
    write_int8_page(tmp_path / "int8.html", CARD, result)
    html = (tmp_path / "int8.html").read_text()
    page = Page(html)
    text = " ".join(page.text)
    assert page.open == [] and "<b>net" in text and "<i>.onnx" in text
    assert not re.search(r"<i>|<script|https?://|\burl\(", html) and "default-src 'none'" in html
    assert len(page.addresses) == 1 and page.addresses[0].startswith("data:image/svg+xml;base64,")
    assert "8 of 44 layers are float" in text and "14 more, in int8.json" in text and "0.7800" in text


def test_a_missing_value_is_an_error(tmp_path):
    with pytest.raises(UndefinedError, match="'model' is undefined"):
        render("explain.html", tmp_path / "page.html", subtitle="", warning="", record=None, sections=[])
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_reduced_to_the_pixels_that_are_shown():
    picture = Image.effect_noise((900, 600), 80).convert("RGB")
    assert len(jpeg(picture, 60)) < len(jpeg(picture, 300)) / 4 and picture.size == (900, 600)


def test_metrics_have_three_decimals():
    assert (format_metric(None), format_metric(0.12345)) == ("not measured", "0.123")
