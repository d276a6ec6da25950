"""Every row of the table of replacements computes what its module computes; forms of whole networks do, too."""

from copy import deepcopy

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from featherbone.backbones import lightvit, lit, lvt, xformer
from featherbone.backbones.lightvit import State
from featherbone.deployment import STEPS, deploy, use_form
from featherbone.exporters.concerns import highest_rank, operators
from featherbone.heads import nms_free, roi
from featherbone.heads.levels import Level
from featherbone.replacements import TABLE
from registered import SMALLEST, each_but_only_smallest_is_fast, image, net

LACKED = ("bicubic", "unfold", "im2col", "col2im", "deform_conv2d", "scaled_dot_product", "nms", "flip", "index.Tensor")
PAIRS = [(kind, form) for form, steps in STEPS.items() for kind, row in TABLE.items() if row.keys() & set(steps)]
BOXES = torch.tensor([[0.0, 0.0, 120.0, 124.0], [4.0, 24.0, 44.0, 84.0]])


def stage():
    return lightvit.Stage(lightvit.Merge(32, 64), [lightvit.Block(64, 2, 3, True, 0.0)], 3)


def tiny_lit():
    return lit.LIT(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), head_dim=8)


EXAMPLES = {
    DropPath: lambda: (DropPath(0.5), image(2, 3)),
    nn.Dropout: lambda: (nn.Dropout(0.5), image(2, 3)),
    nn.Dropout2d: lambda: (nn.Dropout2d(0.5), image(2, 3, 4, 4)),
    lvt.CSA: lambda: (lvt.CSA(8, 2), image(2, 5, 4, 8)),
    lvt.RASA: lambda: (lvt.RASA(8, 2, 2, 2), image(2, 5, 4, 8)),
    lvt.Pointwise: lambda: (lvt.Pointwise(4, 6), image(2, 4, 3, 5)),
    lvt.Mlp: lambda: (lvt.Mlp(8, 16, depthwise=False), image(2, 5, 4, 8)),
    lvt.ClassBlock: lambda: (lvt.ClassBlock(8, 2, 2), image(2, 1, 8), image(2, 5, 8)),
    lightvit.Attention: lambda: (lightvit.Attention(64, 3), image(2, 2 + 4 * 5, 64), 4, 5),
    lightvit.Merge: lambda: (lightvit.Merge(8, 12), State(image(2, 2 + 5 * 4, 8), 5, 4)),
    lightvit.Stage: lambda: (stage(), State(image(2, 2 + 12 * 12, 32), 12, 12), False),
    lit.LIT: lambda: (tiny_lit(), image(1, 3, 64, 96)),
    lit.PatchEmbed: lambda: (lit.PatchEmbed(3, 4, pad=True), image(2, 3, 9, 12)),
    lit.LearnedGrid: lambda: (lit.LearnedGrid(4, 3, 3, "bilinear"), 5, 4),
    lit.PositionBias: lambda: (lit.PositionBias(2, 3), 3, 3),
    lit.DTM: lambda: (lit.DTM(4, 6, deformable=True), image(2, 5, 6, 4)),
    lit.Attention: lambda: (lit.Attention(8, 2, None), image(2, 6, 8), 2, 3),
    xformer.XFA: lambda: (xformer.XFA(8, 2, 2), image(2, 6, 8)),
    xformer.SoftmaxAttention: lambda: (xformer.SoftmaxAttention(8, 2), image(2, 6, 8)),
    nms_free.Separable: lambda: (nms_free.Separable(6, num_levels=3), image(2, 6, 5, 7), 1),
    roi.RoIReader: lambda: (
        *(roi.RoIReader(), roi.BoxHead(4, 3, 8).double(), [image(2, 4, 32, 32), image(2, 4, 16, 16)]),
        *([Level(4, 4), Level(4, 8)], BOXES.expand(2, -1, -1), torch.ones(2, 2, dtype=torch.bool), 7),
    ),
}
"""A module of each type in the table, and its arguments."""


def drawn(kind):
    """The example of a module type, in float64 and evaluation, with random weights and statistics."""
    torch.manual_seed(0)
    module, *arguments = EXAMPLES[kind]()
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            value.data = torch.rand_like(value) if name.endswith("running_var") else 0.5 * torch.randn_like(value)
    return module.double().eval(), tuple(map(double, arguments))


def double(value):
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, State):
        return value._replace(tokens=value.tokens.double())
    if isinstance(value, list | tuple) and not isinstance(value, Level):
        return type(value)(map(double, value))
    return value


@pytest.mark.parametrize(("kind", "form"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_a_row_equals_its_module(kind, form):
    module, arguments = drawn(kind)
    with torch.no_grad():
        expected = module(*arguments)
        holder = nn.ModuleList([deepcopy(module)])
        size = (64, 96) if form != "size" else None
        for step in STEPS[form]:
            use_form(holder, step, size)
        got = holder[0](*arguments)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SMALLEST)
def test_every_form_of_a_network_equals_it(name):
    model, x = deepcopy(net(name)).double(), image(2, 3, 64, 96).double()
    with torch.no_grad():
        expected = model(x)
        for form in STEPS:
            got = deploy(model, None if form == "size" else (64, 96), form)(x)
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@each_but_only_smallest_is_fast()
@pytest.mark.parametrize("size", [(75, 106), pytest.param((96, 96), marks=pytest.mark.slow)])
def test_the_form_for_devices_has_no_operator_that_they_lack(name, size):
    """In float64: in float32 LIT's sampling alone rounds by 2e-5."""
    model, example = deepcopy(net(name)).double(), image(1, 3, *size).double()
    program = torch.export.export(deploy(model, size, "device"), (example,), strict=False)
    assert highest_rank(program) <= 4
    assert not [found for found in operators(program) if any(lacked in found for lacked in LACKED)]
    pads = [node.args[1] for node in program.graph.nodes if str(node.target).startswith("aten.pad.")]
    assert all(side >= 0 for pad in pads for side in pad)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(example), model(example), rtol=1e-9, atol=1e-9)


def test_runtimes_get_convolutions_beside_depthwise_ones():
    """The query of six RASAs, each applied twice, and both layers of their six MLPs; devices keep products."""
    model, x = net("lvt"), image(1, 3, 64, 64)
    graph, device = (operators(torch.export.export(deploy(model, (64, 64), f), (x,))) for f in ("graph", "device"))
    assert graph["aten.conv2d.default"] - device["aten.conv2d.default"] == 6 * 2 + 6 * 2


def test_attention_of_timm_is_spelt_out_in_the_copy():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=2).eval()
    example = torch.randn(1, 3, 32, 32)
    program = torch.export.export(deploy(model, (32, 32), "device"), (example,), strict=False)
    assert not any("scaled_dot_product" in name for name in operators(program))
    assert model.blocks[0].attn.fused_attn is True
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(example), model(example), rtol=1e-5, atol=1e-5)
