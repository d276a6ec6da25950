"""Laws of the kernels of csa, run by test_kernels.py in a process with TRITON_INTERPRET=1, or 0 for a GPU."""

import os

import pytest
import torch

from featherbone.ops.csa import convolutional_self_attention_plain
from featherbone.ops.kernels import csa
from featherbone.ops.kernels.csa import csa_kernel, csa_mix, csa_mix_backward, mix_windows

DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
SIZES = [(1, 2), (5, 3), (4, 2)]
HEADS = [(2, 8), (1, 5)]


def draw(*shape, dtype=torch.float32, seed=0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(DEVICE, dtype).requires_grad_()


def inputs(batch, height, width, heads=2, dim=3, dtype=torch.float32):
    """A map, its attention and its weight."""
    c = heads * dim
    x = draw(batch, height, width, c, dtype=dtype)
    attention = draw(batch, (height + 1) // 2, (width + 1) // 2, heads, 81, dtype=dtype, seed=1)
    return x, attention, draw(9, c, c, dtype=dtype, seed=2)


def windows(batch, height, width, heads=2, dim=3, dtype=torch.float32):
    """Values, which are not zero outside of the map, and attention."""
    h, w = (height + 1) // 2, (width + 1) // 2
    values = draw(batch, h, w, 9, heads * dim, dtype=dtype)
    return values, draw(batch, h, w, heads, 81, dtype=dtype, seed=1)


def with_gradients(operator, given):
    given = [x.detach().requires_grad_() for x in given]
    out = operator(*given)
    cotangent = draw(*out.shape, dtype=torch.bfloat16, seed=3).detach().to(out.dtype)  # the same in any dtype
    return [out.detach(), *torch.autograd.grad(out, given, cotangent)]


def assert_alike(got, expected, bound):
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other.double()).abs().max() <= bound * other.double().square().mean().sqrt()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_plain_form_in_value_and_gradients(size, heads, dtype, bound):
    given = inputs(2, *size, *heads, dtype=dtype)
    expected = with_gradients(convolutional_self_attention_plain, [x.double() for x in given])
    assert_alike(with_gradients(csa_kernel, given), expected, bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rounds_results_not_sums(dtype):
    given = windows(1, 5, 6, heads=2, dim=24, dtype=dtype)

    def mix(*given):
        return mix_windows(*given, 5, 6)

    got = with_gradients(mix, given)
    assert all(x.dtype == dtype for x in got)
    exact = [x.to(dtype) for x in with_gradients(mix, [x.double() for x in given])]
    for one, other in zip(got, exact, strict=True):  # at most one unit in the last place from the rounded truth
        torch.testing.assert_close(one, other, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize(("tile", "channels"), [(1, 16), (256, 8), (1 << 14, 128)])
def test_blocks_change_nothing(tile, channels, monkeypatch):
    given = windows(1, 3, 3, heads=2, dim=20)

    def mix(*given):
        return mix_windows(*given, 3, 3)

    expected = with_gradients(mix, given)
    monkeypatch.setattr(csa, "TILE", tile)
    monkeypatch.setattr(csa, "CHANNELS", channels)
    torch.testing.assert_close(with_gradients(mix, given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 2), (3, 2)], ids=str)
def test_gradients_are_those_of_the_kernel(size):
    given = windows(1, *size, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *given: mix_windows(*given, *size), given, fast_mode=True)


def test_a_batch_is_its_images_and_may_be_empty():
    values, attention = (x.detach() for x in windows(3, 5, 4))
    out = mix_windows(values, attention, 5, 4)
    for n in range(3):
        alone = torch.full_like(values, torch.nan), torch.full_like(attention, torch.nan)
        alone[0][n], alone[1][n] = values[n], attention[n]  # nothing of another image comes in
        torch.testing.assert_close(mix_windows(*alone, 5, 4)[n], out[n])
    empty = [x[:0].requires_grad_() for x in (values, attention)]
    assert [x.shape[0] for x in with_gradients(lambda *given: mix_windows(*given, 5, 4), empty)] == [0, 0, 0]


def test_any_layout_and_a_mix_of_precisions():
    values, attention = (x.detach() for x in windows(2, 4, 5))
    expected = mix_windows(values, attention, 4, 5)
    turned = values.transpose(0, 4).contiguous().transpose(0, 4), attention.transpose(1, 3).contiguous().transpose(1, 3)
    torch.testing.assert_close(mix_windows(*turned, 4, 5), expected)
    given = values.bfloat16().requires_grad_(), attention.requires_grad_()  # as under autocast
    out = mix_windows(*given, 4, 5)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=5e-2)
    out.sum().backward()  # from a cotangent that is one number, expanded
    assert [x.grad.dtype for x in given] == [torch.bfloat16, torch.float32]
    exact = torch.autograd.grad(mix_windows(*(x.double() for x in given), 4, 5).sum(), given)
    torch.testing.assert_close([x.grad for x in given], list(exact), rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the check itself
def test_torch_takes_the_operators():
    values, attention = windows(1, 3, 4)
    torch.library.opcheck(csa_mix, (values, attention, 3, 4))
    torch.library.opcheck(csa_mix_backward, (draw(1, 3, 4, 6).detach(), values.detach(), attention.detach()))


def test_graphs_keep_the_operators():
    class Net(torch.nn.Module):
        def forward(self, values, attention):
            return mix_windows(2 * values, attention, 3, 4)

    given = windows(2, 3, 4)
    program = torch.export.export(Net(), tuple(x.detach() for x in given))
    assert "featherbone.csa_mix.default" in [str(node.target) for node in program.graph.nodes]
    expected = with_gradients(Net(), given)
    torch.testing.assert_close(program.module()(*given), expected[0])
    compiled = torch.compile(Net(), backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(with_gradients(compiled, given), expected)


def test_shapes_are_known_without_values():
    values, attention = (x.detach().to("meta") for x in windows(2, 5, 6))
    out = mix_windows(values, attention, 5, 6)
    assert out.is_meta and out.shape == (2, 5, 6, 6)
    assert [x.shape for x in csa_mix_backward(out, values, attention)] == [values.shape, attention.shape]


def test_what_does_not_fit_is_refused():
    values, attention = (x.detach() for x in windows(1, 4, 6))
    for wrong in ((values, attention, 4, 8), (values[:, :1], attention, 4, 6), (values, attention[..., :80], 4, 6)):
        with pytest.raises(ValueError, match="half the map's sides, rounded up"):
            mix_windows(*wrong)
    assert mix_windows(values, attention, 3, 5).shape == (1, 3, 5, 6)
