import pytest
import torch

from featherbone.ops.atrous import TapByTap, atrous, atrous_plain


@pytest.mark.parametrize("height,width", [(1, 1), (2, 2), (4, 7), (3, 11), (8, 5), (13, 6)])
@pytest.mark.parametrize("dilation", [1, 3, 5])
def test_tap_by_tap_is_the_convolution(height, width, dilation):
    torch.manual_seed(0)
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 3, height, width, dtype=torch.float64)
    plain = atrous_plain(x, kernel, dilation)
    taps = TapByTap.apply(x, kernel, dilation)
    torch.testing.assert_close(taps, plain, rtol=0, atol=1e-12)
    for mine, other in zip(
        torch.autograd.grad(taps, (x, kernel), grad), torch.autograd.grad(plain, (x, kernel), grad), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_small_float_maps_take_the_taps_and_agree():
    torch.manual_seed(0)
    x, kernel = torch.randn(2, 8, 4, 4, requires_grad=True), torch.randn(8, 1, 3, 3)
    y = atrous(x, kernel, 3)
    assert "TapByTap" in type(y.grad_fn).__name__
    torch.testing.assert_close(y, atrous_plain(x, kernel, 3))


def test_empty_batch():
    assert atrous(torch.zeros(0, 4, 2, 2), torch.zeros(4, 1, 3, 3), 3).shape == (0, 4, 2, 2)


@pytest.mark.parametrize("size", [(80, 80), (40, 40), (7, 9)])
@pytest.mark.parametrize("dilation", [1, 3, 5])
def test_autocast_has_the_gradient_of_float32(size, dilation):
    """torch's own bf16 gradient of the kernel differs from call to call."""
    x, kernel = torch.randn(2, 64, *size).bfloat16(), torch.randn(64, 1, 3, 3)
    gradients = []
    for enabled in (True, True, False):
        own = kernel.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = atrous(x if enabled else x.float(), own, dilation)
        y.float().sum().backward()
        gradients.append(own.grad)
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-3, atol=1e-3)
