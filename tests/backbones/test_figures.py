"""Figures in the docstrings of models are those that are counted."""

import re
from inspect import getdoc

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from registered import NAMES, num_parameters, on_meta


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_counted_figures(name):
    text = getdoc(timm.model_entrypoint(name))
    (params,) = re.findall(r"([\d.]+)M parameters,", text)
    assert params == f"{num_parameters(name) / 1e6:.3f}"
    macs = re.findall(r"([\d.]+) GMACs at (\d+)", text)
    assert macs
    for stated, side in macs:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            on_meta(name).eval()(torch.empty(1, 3, int(side), int(side), device="meta"))
        assert stated == f"{counter.get_total_flops() / 2e9:.2f}"
