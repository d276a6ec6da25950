from copy import deepcopy

import pytest
import torch

from featherbone.deployment import deploy
from featherbone.exporters.concerns import highest_rank, operators
from featherbone.exporters.program import device_program
from featherbone.ops.attention import attention, attention_plain, device_form, in_device_form
from featherbone.ops.deform import deformable_merge
from featherbone.ops.windows import bias_rows, position_bias
from registered import SMALLEST, each_but_only_smallest_is_fast, image, net

LACKED = ("bicubic", "unfold", "im2col", "col2im", "deform_conv2d", "scaled_dot_product", "nms", "flip", "index.Tensor")


def assert_alike(got, expected, bound=1e-5):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= bound * expected.square().mean().sqrt()


@each_but_only_smallest_is_fast()
@pytest.mark.parametrize("size", [(96, 96), (75, 106)])
def test_the_form_for_devices_is_the_model_without_what_devices_lack(name, size):
    """In float64: in float32 LIT's sampling alone rounds by 2e-5."""
    model, example = deepcopy(net(name)).double(), image(1, 3, *size).double()
    program = device_program(deploy(model, size), example)
    assert highest_rank(program) <= 5
    assert not [found for found in operators(program) if any(lacked in found for lacked in LACKED)]
    with torch.inference_mode():
        assert_alike(program.module()(example), model(example), bound=1e-9)


@pytest.mark.parametrize("name", SMALLEST)
def test_no_map_is_padded_by_less_than_nothing(name):
    program = device_program(deploy(net(name), (75, 106)), image(1, 3, 75, 106))
    pads = [node.args[1] for node in program.graph.nodes if str(node.target).startswith("aten.pad.")]
    assert all(side >= 0 for pad in pads for side in pad)


def test_the_form_is_for_exports_alone():
    class Net(torch.nn.Module):
        def forward(self, x):
            assert in_device_form() == torch.compiler.is_exporting()
            return attention(x, x, x)

    x = image(1, 2, 3, 4)
    with device_form():
        Net()(x)
        device = torch.export.export(Net(), (x,), strict=False)
    assert "aten.scaled_dot_product_attention.default" not in operators(device)

    class Plain(torch.nn.Module):
        def forward(self, x):
            return attention(x, x, x)

    assert "aten.scaled_dot_product_attention.default" in operators(torch.export.export(Plain(), (x,), strict=False))


@pytest.mark.parametrize("biased", [False, True])
def test_attention_equals_its_plain_form(biased):
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (5, 7, 7))
    bias = torch.randn(1, 3, 5, 7, dtype=torch.float64) if biased else None
    torch.testing.assert_close(attention(q, k, v, bias), attention_plain(q, k, v, bias))


def test_rows_of_the_bias_are_those_of_the_windows():
    table = torch.randn(3 * 5, 2)
    rows = torch.tensor(bias_rows(2, 3))
    assert torch.equal(table[rows].reshape(6, 6, 2).permute(2, 0, 1), position_bias(table, 2, 3))


def test_sampling_for_devices_is_the_merge():
    class Merge(torch.nn.Module):
        def forward(self, x, offsets, weight, bias):
            return deformable_merge(x, offsets, weight, bias)

    given = (image(2, 7, 6, 5), 2 * image(2, 8, 3, 3, seed=1), image(4, 5, 2, 2, seed=2), image(4, seed=3))
    with device_form():
        program = torch.export.export(Merge(), given, strict=False)
    assert any("grid_sampl" in name for name in operators(program))
    assert_alike(program.module()(*given), deformable_merge(*given))
