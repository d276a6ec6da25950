import re
from pathlib import Path

import pytest

from featherbone.benchmarking.models import model_facts, model_table, published
from featherbone.errors import UnknownModel

README = Path(__file__).parents[2] / "README.md"
EXPECTED = {  # parameters in millions and GMACs as the papers' architectures add up
    "lvt": (3.687, 0.87),
    "lvt_cls": (5.522, 0.90),
    "lightvit_tiny": (9.378, 0.78),
    "lightvit_small": (19.200, 1.84),
    "lightvit_base": (35.196, 4.13),
    "xformer_small": (5.542, 1.78),
    "lit_tiny": (19.886, 3.62),
    "lit_small": (27.974, 4.08),
    "lit_medium": (49.372, 8.61),
    "lit_base": (87.292, 15.05),
}


@pytest.fixture(scope="module")
def facts():
    return {name: model_facts(name) for name in published()}


def test_sums_are_the_papers(facts):
    assert facts.keys() == EXPECTED.keys()
    for name, (params, gmacs) in EXPECTED.items():
        assert round(facts[name].params / 1e6, 3) == params
        assert facts[name].macs / 1e9 == pytest.approx(gmacs, rel=0.021)  # the counter leaves norms and pools out
        assert facts[name].strides == (4, 8, 16, 32)


def test_the_readme_has_this_table(facts):
    text = README.read_text(encoding="utf-8")
    table = re.search(r"<!-- models:.*?-->\n\n(.*?)\n+<!-- end of models -->", text, re.S)
    assert table is not None and table[1].strip() == model_table(list(facts.values()), markdown=True)


def test_docstrings_carry_the_same_numbers(facts):
    import featherbone.backbones as backbones

    for family in backbones.FAMILIES:
        for name in family.PUBLISHED:
            text = getattr(family, name).__doc__
            params, _ = EXPECTED[name]
            assert f"{params:.3f}M" in text or f"{params:.1f}M" in text, (name, text)


def test_other_timm_models_and_none():
    assert model_facts("resnet18").published is None
    assert model_facts("deit_tiny_patch16_224").strides  # timm gives plain ViTs maps of one stride
    with pytest.raises(UnknownModel):
        model_facts("resnet17")
