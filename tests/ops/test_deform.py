import math

import pytest
import torch
from torch.nn import functional as F

from featherbone.ops.deform import deformable_merge, deformable_merge_plain, sampling_points

FORMS = pytest.mark.parametrize("merge", [deformable_merge, deformable_merge_plain])


def by_loop(x, offsets, weight, bias):
    """The definition, one multiplication at a time."""
    b, height, width, _ = x.shape
    out = bias.expand(b, height // 2, width // 2, -1).clone()
    for n in range(b):
        for i in range(height // 2):
            for j in range(width // 2):
                for tap in range(4):
                    row, column = divmod(tap, 2)
                    y = 2 * i + row + offsets[n, 2 * tap, i, j]
                    x_ = 2 * j + column + offsets[n, 2 * tap + 1, i, j]
                    top, left = math.floor(y.detach()), math.floor(x_.detach())
                    for yc in (top, top + 1):
                        for xc in (left, left + 1):
                            if 0 <= yc < height and 0 <= xc < width:
                                share = (1 - abs(y - yc)) * (1 - abs(x_ - xc))
                                out[n, i, j] += share * (weight[:, :, row, column] @ x[n, yc, xc])
    return out


def inputs(batch=2, height=5, width=7, spread=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    offsets = spread * draw(batch, 8, height // 2, width // 2)
    return draw(batch, height, width, 3), offsets, draw(4, 3, 2, 2), draw(4)


def with_gradients(merge, arguments):
    arguments = [argument.clone().requires_grad_() for argument in arguments]
    out = merge(*arguments)
    (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
    return [out.detach(), *(argument.grad for argument in arguments)]


@FORMS
@pytest.mark.parametrize("size", [(5, 7), (4, 4), (2, 3)])
def test_equals_the_loop_in_value_and_gradients(merge, size):
    arguments = inputs(height=size[0], width=size[1])
    torch.testing.assert_close(with_gradients(merge, arguments), with_gradients(by_loop, arguments))


@FORMS
def test_whole_offsets_give_the_gradients_of_the_loop(merge):
    x, _, weight, bias = inputs()
    for whole in (torch.zeros(2, 8, 2, 3), torch.ones(2, 8, 2, 3), -torch.ones(2, 8, 2, 3)):
        got = with_gradients(merge, (x, whole.double(), weight, bias))
        ahead = with_gradients(by_loop, (x, whole.double() + 1e-9, weight, bias))  # from the right, as floor says
        torch.testing.assert_close(got, ahead, rtol=0, atol=1e-6)


@FORMS
def test_without_offsets_it_is_a_convolution(merge):
    x, offsets, weight, bias = inputs(dtype=torch.float32)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=2).permute(0, 2, 3, 1)
    torch.testing.assert_close(merge(x, 0 * offsets, weight, bias), expected)


@pytest.mark.parametrize("far", [1e6, -1e30, math.inf, math.nan])
def test_far_outside_there_is_nothing_but_the_bias(far):
    x, offsets, weight, bias = inputs(spread=0)
    out = deformable_merge(x, offsets + far, weight, bias)
    expected = bias if math.isfinite(far) else torch.full_like(bias, math.nan)  # not a read out of bounds
    torch.testing.assert_close(out, expected.expand_as(out), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_round_the_positions(dtype):
    x, offsets, weight, bias = inputs(batch=1, height=2, width=600, spread=0, dtype=dtype)
    out = deformable_merge(x, offsets, weight, bias)  # 599 is no bfloat16 number
    expected = F.conv2d(x.float().permute(0, 3, 1, 2), weight.float(), bias.float(), stride=2).permute(0, 2, 3, 1)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=5e-2)


def test_a_batch_is_its_images_and_may_be_empty():
    x, offsets, weight, bias = inputs(batch=3)
    singles = [deformable_merge(x[i : i + 1], offsets[i : i + 1], weight, bias) for i in range(3)]
    torch.testing.assert_close(deformable_merge(x, offsets, weight, bias), torch.cat(singles))
    assert deformable_merge(x[:0], offsets[:0], weight, bias).shape == (0, 2, 3, 4)


def test_sampling_points_are_the_window_moved():
    offsets = torch.zeros(1, 8, 2, 3)
    offsets[0, 4:6, 1, 2] = torch.tensor([0.25, -3.0])  # (dy, dx) of the third tap: second row, first column
    y, x = sampling_points(offsets)
    assert y[0, 1, 2].tolist() == [2, 2, 3.25, 3] and x[0, 1, 2].tolist() == [4, 5, 1, 5]
