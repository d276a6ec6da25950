"""Laws of the kernels of deform, run by test_kernels.py in a process with TRITON_INTERPRET=1, or 0 for a GPU."""

import math
import os

import pytest
import torch

from featherbone.ops.deform import deformable_merge_plain
from featherbone.ops.kernels import deform
from featherbone.ops.kernels.deform import deform_sample, deform_sample_backward, merge_kernel, sample_taps

DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
SIZES = [(2, 3), (5, 4)]


def draw(*shape, dtype=torch.float32, seed=0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(DEVICE, dtype).requires_grad_()


def inputs(batch=2, height=5, width=7, c=24, dtype=torch.float32, spread=2.0):
    """A map and offsets, many of which lead out of it."""
    offsets = spread * draw(batch, 8, height // 2, width // 2, seed=1, dtype=torch.float64).detach()
    return draw(batch, height, width, c, dtype=dtype), offsets.to(dtype).requires_grad_()


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
@pytest.mark.parametrize("c", [8, 5])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_plain_form_in_value_and_gradients(size, c, dtype, bound):
    given = *inputs(2, *size, c, dtype=dtype), draw(6, c, 2, 2, dtype=dtype, seed=2), draw(6, dtype=dtype, seed=4)
    expected = with_gradients(deformable_merge_plain, [x.double() for x in given])
    assert_alike(with_gradients(merge_kernel, given), expected, bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rounds_results_not_sums(dtype):
    given = inputs(dtype=dtype)
    got = with_gradients(sample_taps, given)
    assert all(x.dtype == dtype for x in got)
    exact = [x.to(dtype) for x in with_gradients(sample_taps, [x.double() for x in given])]
    for one, other in zip(got, exact, strict=True):  # at most one unit in the last place from the rounded truth
        torch.testing.assert_close(one, other, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_half_precision_does_not_round_the_positions():
    x, offsets = inputs(1, 2, 600, 3, torch.bfloat16, spread=0)  # 599 is no bfloat16 number
    out = sample_taps(x, offsets)  # (1, 1, 300, 4, 3)
    assert torch.equal(out.reshape(300, 2, 2, 3).transpose(0, 1).reshape(2, 600, 3), x[0])


@pytest.mark.parametrize(("tile", "channels"), [(1, 16), (256, 8), (1 << 14, 128)])
def test_blocks_change_nothing(tile, channels, monkeypatch):
    given = inputs(1, 4, 5, 20)
    expected = with_gradients(sample_taps, given)
    monkeypatch.setattr(deform, "TILE", tile)
    monkeypatch.setattr(deform, "CHANNELS", channels)
    torch.testing.assert_close(with_gradients(sample_taps, given), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_kernel():
    given = inputs(1, 4, 5, 3, torch.float64)
    assert torch.autograd.gradcheck(
        sample_taps, given, nondet_tol=1e-12, fast_mode=True
    )  # sums come in any order on a GPU


@pytest.mark.parametrize("far", [1e6, -1e30])
def test_far_outside_there_is_nothing(far):
    x, offsets = inputs(spread=0)
    out, grad_x, grad_offsets = with_gradients(sample_taps, (x, offsets + far))
    assert not out.any() and not grad_x.any() and not grad_offsets.any()


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # of numpy, which interprets the kernel
@pytest.mark.parametrize("far", [math.inf, -math.inf, math.nan])
def test_what_looks_nowhere_sees_no_number_and_gives_no_gradient(far):
    x, offsets = inputs(spread=0)
    offsets = offsets.detach().clone()
    offsets[0, 2, 1, 2] = far  # the dy of the second tap of a window
    out, grad_x, _ = with_gradients(sample_taps, (x, offsets))
    lost = torch.zeros(2, 2, 3, 4, dtype=torch.bool, device=out.device)
    lost[0, 1, 2, 1] = True
    assert torch.equal(out.isnan().all(-1), lost) and torch.equal(out.isnan().any(-1), lost)
    assert grad_x.isfinite().all()


def test_a_batch_is_its_images_and_may_be_empty():
    x, offsets = (given.detach() for given in inputs(3))
    out = sample_taps(x, offsets)
    for n in range(3):
        alone = torch.full_like(x, torch.nan)
        alone[n] = x[n]  # nothing of another image comes in
        torch.testing.assert_close(sample_taps(alone, offsets)[n], out[n])
    assert [got.shape[0] for got in with_gradients(sample_taps, (x[:0], offsets[:0]))] == [0, 0, 0]
    thin = with_gradients(sample_taps, (x[:, :1], offsets[:, :, :0]))  # no window fits into one row
    assert thin[0].shape == (3, 0, 3, 4, 24) and not thin[1].any()


def test_any_layout_and_a_mix_of_precisions():
    x, offsets = (given.detach() for given in inputs())
    expected = sample_taps(x, offsets)
    turned = x.transpose(1, 3).contiguous().transpose(1, 3), offsets.transpose(1, 3).contiguous().transpose(1, 3)
    torch.testing.assert_close(sample_taps(*turned), expected)
    given = x.bfloat16().requires_grad_(), offsets.requires_grad_()
    out = sample_taps(*given)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=5e-2)
    out.sum().backward()  # from a cotangent that is one number, expanded
    exact = torch.autograd.grad(sample_taps(*(x.double() for x in given)).sum(), given)
    assert [x.grad.dtype for x in given] == [torch.bfloat16, torch.float32]
    torch.testing.assert_close([x.grad for x in given], list(exact), rtol=1e-2, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the check itself
def test_torch_takes_the_operators():
    x, offsets = inputs(1, 4, 5, 3)
    torch.library.opcheck(deform_sample, (x, offsets))
    torch.library.opcheck(deform_sample_backward, (draw(1, 2, 2, 4, 3).detach(), x.detach(), offsets.detach()))


def test_graphs_keep_the_operators():
    class Net(torch.nn.Module):
        def forward(self, x, offsets):
            return sample_taps(2 * x, offsets)

    given = inputs(2, 4, 5, 3)
    program = torch.export.export(Net(), tuple(x.detach() for x in given))
    assert "featherbone.deform_sample.default" in [str(node.target) for node in program.graph.nodes]
    expected = with_gradients(Net(), given)
    torch.testing.assert_close(program.module()(*given), expected[0])
    compiled = torch.compile(Net(), backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(with_gradients(compiled, given), expected)


def test_shapes_are_known_without_values():
    x, offsets = (given.detach().to("meta") for given in inputs())
    out = sample_taps(x, offsets)
    assert out.is_meta and out.shape == (2, 2, 3, 4, 24)
    assert [grad.shape for grad in deform_sample_backward(out, x, offsets)] == [x.shape, offsets.shape]


def test_what_does_not_fit_is_refused():
    x, offsets = (given.detach() for given in inputs())
    for wrong in (offsets[:1], offsets[:, :4], offsets[..., :2]):
        with pytest.raises(ValueError, match=r"here \(2, 8, 2, 3\)"):
            sample_taps(x, wrong)
    assert sample_taps(x, offsets).shape == (2, 2, 3, 4, 24)
