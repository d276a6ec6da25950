import pytest
import torch

from featherbone.ops.csa import (
    TAPS,
    convolutional_self_attention,
    convolutional_self_attention_plain,
    csa_gathered,
    tap_attention,
    tap_attention_by_map,
    tap_attention_plain,
)

SIZES = [(1, 1), (1, 2), (2, 1), (3, 3), (5, 7), (4, 6)]


def inputs(batch, height, width, heads=2, dim=6):
    generator = torch.Generator().manual_seed(height * 100 + width)
    shapes = [
        (batch, height, width, dim),
        (batch, (height + 1) // 2, (width + 1) // 2, heads, TAPS * TAPS),
        (TAPS, dim, dim),
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def by_positions(x, attention, weight):
    """y_i = sum_j A[i, j] W_j x_j in every 3x3 window at stride 2, padding 1; results that fall outside are lost."""
    batch, height, width, dim = x.shape
    windows_down, windows_across, heads = attention.shape[1:4]
    d = dim // heads
    y = torch.zeros_like(x)
    for b in range(batch):
        for p in range(windows_down):
            for q in range(windows_across):
                where = [(2 * p - 1 + row, 2 * q - 1 + column) for row in range(3) for column in range(3)]
                inside = [0 <= r < height and 0 <= c < width for r, c in where]
                for i, (r, c) in enumerate(where):
                    for j, (s, t) in enumerate(where):
                        if not (inside[i] and inside[j]):
                            continue
                        v = weight[j] @ x[b, s, t]
                        for h in range(heads):
                            share = attention[b, p, q, h, TAPS * i + j]
                            y[b, r, c, h * d : (h + 1) * d] += share * v[h * d : (h + 1) * d]
    return y


@pytest.mark.parametrize("size", SIZES)
def test_fast_and_plain_form_are_the_formula(size):
    given = [x.detach() for x in inputs(1, *size)]
    expected = by_positions(*given)
    torch.testing.assert_close(convolutional_self_attention(*given), expected)
    torch.testing.assert_close(convolutional_self_attention_plain(*given), expected)
    torch.testing.assert_close(csa_gathered(*given), expected)


@pytest.mark.parametrize("size", SIZES)
def test_gradients_of_both_forms_are_equal(size):
    given = inputs(2, *size)
    cotangent = torch.randn_like(given[0])
    fast = torch.autograd.grad(convolutional_self_attention(*given), given, cotangent)
    plain = torch.autograd.grad(convolutional_self_attention_plain(*given), given, cotangent)
    torch.testing.assert_close(fast, plain)


def test_a_batch_is_its_singles():
    x, attention, weight = inputs(3, 5, 4)
    singles = [convolutional_self_attention(x[i : i + 1], attention[i : i + 1], weight) for i in range(3)]
    torch.testing.assert_close(convolutional_self_attention(x, attention, weight), torch.cat(singles))


def test_an_empty_batch_stays_empty():
    assert convolutional_self_attention(*inputs(0, 5, 4)).shape == (0, 5, 4, 6)


def test_attention_and_its_gradients_equal_the_plain_form():
    shapes = (2, 3, 4, 6), (2 * TAPS * TAPS, 6), (2 * TAPS * TAPS,)
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    fast, plain = (form(*given, 2, 0.3) for form in (tap_attention, tap_attention_plain))
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(tap_attention_by_map(*given, 2, 0.3), plain)
    cotangent = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(fast, given, cotangent), torch.autograd.grad(plain, given, cotangent)
    )
