"""LiteRT's conversion, tested where it is installed: in its own environment (docs/exports.md)."""

from importlib.util import find_spec

import pytest

from exporting import HEADS, a_model, pictures
from featherbone.errors import BadOption
from featherbone.exporters.artifact import choose_form
from featherbone.exporters.contract import export_task
from featherbone.exporters.targets import TARGETS

pytestmark = pytest.mark.skipif(find_spec("litert_torch") is None, reason="litert_torch is not installed")
FAMILIES = ("lvt", "lightvit_tiny", "xformer_small", "lit_tiny")


@pytest.mark.parametrize(
    ("backbone", "head"), [*((name, None) for name in FAMILIES), *(("test_resnet", head) for head in HEADS)]
)
def test_a_converted_file_gives_the_results_of_the_model(backbone, head, tmp_path):
    card, task = a_model(head, backbone)
    try:
        form = choose_form(TARGETS["litert"], card.task, head)
    except BadOption as error:
        pytest.skip(str(error))
    assert export_task(card, task, form, tmp_path / "out", pictures()).holds
