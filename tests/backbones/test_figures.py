"""Figures in the docstrings of models are those that are counted."""

import re
from inspect import getdoc

import pytest
import timm

from featherbone.benchmarking.models import count_macs
from registered import NAMES, num_parameters, on_meta


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_counted_figures(name):
    text = getdoc(timm.model_entrypoint(name))
    (params,) = re.findall(r"([\d.]+)M parameters,", text)
    assert params == f"{num_parameters(name) / 1e6:.3f}"
    macs = re.findall(r"([\d.]+) GMACs at (\d+)", text)
    assert macs
    for stated, side in macs:
        assert stated == f"{count_macs(on_meta(name).requires_grad_(False), int(side), int(side)) / 1e9:.2f}"
