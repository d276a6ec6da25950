import re
from pathlib import Path

import pytest

from featherbone.benchmarking.dense import PAPERS, dense_cost, dense_table

PAGE = Path(__file__).parents[2] / "docs" / "dense-models.md"
EXPECTED = {  # parameters in millions and GMACs as the papers' architectures add up
    ("lit_tiny", "retinanet"): (29.62, None),
    ("lit_small", "retinanet"): (38.14, None),
    ("lit_tiny", "mask_rcnn"): (39.54, None),
    ("lit_small", "mask_rcnn"): (47.48, None),
    ("lightvit_tiny", "mask_rcnn"): (28.05, 187.4),
    ("lightvit_small", "mask_rcnn"): (37.76, 205.6),
    ("lightvit_base", "mask_rcnn"): (53.65, 243.7),
    ("xformer_small", "yolov3"): (6.30, 3.81),
    ("lvt", "segformer"): (3.87, 10.63),
    ("xformer_small", "segformer"): (5.18, None),
    ("lit_tiny", "semantic_fpn"): (23.64, None),
    ("lit_small", "semantic_fpn"): (31.58, None),
    ("lvt", "panoptic_fpn_light"): (5.35, 56.8),
}

pytestmark = pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")  # torchvision's


@pytest.fixture(scope="module")
def costs():
    return {model: dense_cost(model) for model in PAPERS}


def test_sums_are_the_papers(costs):
    assert {(model.backbone, model.head) for model in costs} == EXPECTED.keys()
    for model, (params, macs) in costs.items():
        millions, gmacs = EXPECTED[model.backbone, model.head]
        assert round(params / 1e6, 2) == millions
        assert gmacs is None or macs / 1e9 == pytest.approx(gmacs, rel=0.015)  # the counter leaves norms out


def test_the_page_has_this_table(costs):
    table = re.search(r"<!-- dense:.*?-->\n\n(.*?)\n+<!-- end of dense -->", PAGE.read_text(encoding="utf-8"), re.S)
    assert table is not None and table[1].strip() == dense_table(costs)
