import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from featherbone.ops.product import FUSED, ONEDNN, convolve, fuses, product, split_linear

needs_onednn = pytest.mark.skipif(not ONEDNN, reason="torch was built without oneDNN")


def drawn(*leading, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(*leading, 12, dtype=dtype), torch.randn(9, 12, dtype=dtype), torch.randn(9, dtype=dtype)


def by_onednn(call):
    with profile() as seen:
        result = call()
    fast = "mkldnn::_linear_pointwise", "mkldnn::_convolution_pointwise"
    return result, any(event.key in fast for event in seen.key_averages())


@needs_onednn
@pytest.mark.parametrize("leading", [(5,), (2, 7), (2, 3, 4), (1, 1, 1)])
def test_the_value_is_that_of_linear(leading):
    x, weight, bias = drawn(*leading)
    for own in (bias, None):
        got, fast = by_onednn(lambda own=own: product(x, weight, own))
        assert fast
        torch.testing.assert_close(got, F.linear(x, weight, own), rtol=1e-5, atol=1e-5)
    turned = torch.randn(12, 5).t()
    torch.testing.assert_close(product(turned, weight, bias), F.linear(turned, weight, bias), rtol=1e-5, atol=1e-5)


def test_gradients_types_and_recorders_get_linear():
    x, weight, bias = drawn(3)
    assert not by_onednn(lambda: product(x, weight.clone().requires_grad_(), bias))[1]
    assert not by_onednn(lambda: product(*drawn(3, dtype=torch.float64)))[1]
    assert not by_onednn(lambda: product(*drawn(0)))[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x, weight, bias).dtype == torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        product(x, weight, bias)
    assert counter.get_total_flops() == 2 * 3 * 12 * 9

    class Net(torch.nn.Module):
        def forward(self, x):
            return product(x, weight, bias)

    program = torch.export.export(Net(), (x,))
    assert "aten.linear.default" in {str(node.target) for node in program.graph.nodes}
    torch.testing.assert_close(torch.compile(Net(), backend="eager", fullgraph=True)(x), F.linear(x, weight, bias))


@needs_onednn
@pytest.mark.parametrize("kind", [kind for kind in FUSED if kind is not type(None)])
def test_an_activation_comes_with_the_product(kind):
    activation = kind()
    assert fuses(activation)
    x, weight, bias = drawn(2, 7)
    got, fast = by_onednn(lambda: product(3 * x, weight, bias, activation))
    assert fast
    torch.testing.assert_close(got, activation(F.linear(3 * x, weight, bias)), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize(
    ("groups", "stride", "padding", "dilation"), [(1, (1, 2), (1, 0), (2, 1)), (6, (1, 1), (1, 1), (1, 1))]
)
def test_an_activation_comes_with_the_convolution(groups, stride, padding, dilation):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 6, 9, 8), torch.randn(6, 6 // groups, 3, 3), torch.randn(6)
    how, activation = (stride, padding, dilation, groups), nn.GELU()
    for maps, own in ((x, bias), (x.contiguous(memory_format=torch.channels_last), None)):
        expected = activation(F.conv2d(maps, weight, own, *how))
        got, fast = by_onednn(lambda maps=maps, own=own: convolve(maps, weight, own, activation, *how))
        assert fast
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    got, fast = by_onednn(lambda: convolve(x.double(), weight.double(), None, activation, *how))
    assert not fast
    torch.testing.assert_close(got, activation(F.conv2d(x.double(), weight.double(), None, *how)))


def test_only_what_is_equal_is_fused():
    assert not fuses(nn.GELU(approximate="tanh")) and not fuses(nn.Softmax(-1)) and not fuses(nn.LeakyReLU())


@pytest.mark.parametrize("bias", [False, True])
def test_the_parts_of_a_linear_are_in_its_memory(bias):
    linear, x = nn.Linear(4, 6, bias), torch.randn(5, 4)
    parts = split_linear(linear, 3)
    torch.testing.assert_close(torch.cat([part(x) for part in parts], dim=1), linear(x))
    assert all(part.weight.untyped_storage().data_ptr() == linear.weight.data_ptr() for part in parts)
