import pytest
import torch
from torch.nn import functional as F
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from featherbone.ops.product import ONEDNN, product

needs_onednn = pytest.mark.skipif(not ONEDNN, reason="torch was built without oneDNN")


def drawn(*leading, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(*leading, 12, dtype=dtype), torch.randn(9, 12, dtype=dtype), torch.randn(9, dtype=dtype)


def by_onednn(call):
    with profile() as seen:
        result = call()
    return result, any("mkldnn::_linear_pointwise" in event.key for event in seen.key_averages())


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
