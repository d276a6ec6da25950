"""The preprocessing graph gives the network's input that Pillow, timm and Featherbone give, to the bit."""

import numpy as np
import PIL
import pytest

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption
from scenes import draw_portrait, draw_scene

onnxruntime = pytest.importorskip("onnxruntime", reason="graphs run in ONNX Runtime, which is not installed")

PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13
"""Older ones resize images that lose much of their height in another order, so some bytes differ by a few."""
SIZES = [(64, 64), (33, 47), (200, 150), (150, 333), (97, 65), (37, 300), *([(400, 60)] if PILLOW_13 else [])]


def graph_of(p):
    from featherbone.exporters.preprocessing_graph import preprocessing_graph

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(preprocessing_graph(p).SerializeToString(), options)
    return lambda image, mode: session.run(["images", "inner"], {"image": np.array(image.convert(mode))})


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("rule", ["crop", "fit"])
def test_images_become_the_same_input(rule, interpolation):
    """Enlarged and reduced, upright and wide, with cuts of odd and even rests: no value differs."""
    pictures = [draw_portrait(2, i, size, i % 6).image for i, size in enumerate(SIZES)]
    for height, width, share in ((64, 64, 0.875), (64, 96, 0.9), (75, 64, 1.0)):
        p = Preprocessing(height, width, share, interpolation, rule=rule)
        run = graph_of(p)
        for picture, mode in zip(pictures, ["RGB", "RGBA"] * len(pictures), strict=False):
            images, inner = run(picture, mode)
            np.testing.assert_array_equal(images[0], p.transform()(picture).numpy())
            expected = p.frame(picture.height, picture.width).inner if rule == "fit" else (height, width)
            assert tuple(inner) == expected


def test_a_photo_of_many_pixels():
    p = Preprocessing(224, 224)
    picture = draw_scene(3, 0, (90, 120)).image.resize((1201, 900))
    np.testing.assert_array_equal(graph_of(p)(picture, "RGBA")[0][0], p.transform()(picture).numpy())


def test_another_filter_is_refused():
    with pytest.raises(BadOption, match="interpolation 'lanczos' is not supported here; supported: bilinear, bicubic"):
        graph_of(Preprocessing(64, 64, interpolation="lanczos"))
