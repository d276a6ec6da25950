import pytest
import torch

from featherbone.ops.xfa import cross_feature_attention, cross_feature_attention_plain

SHAPES = [(2, 4, 9, 4, 8), (1, 3, 1, 2, 5), (3, 1, 35, 7, 7), (0, 4, 9, 4, 8), (2, 4, 0, 4, 8)]  # B, heads, N, m, d


def inputs(b, heads, n, m, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(b, heads, n, m), (b, heads, n, m), (b, heads, n, d), (heads,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def by_tokens(q, k, v, temperature):
    """Token t sees every token s by the weight lambda_h <q_t, k_s>."""
    y = torch.zeros_like(v)
    for b, h in torch.cartesian_prod(torch.arange(q.shape[0]), torch.arange(q.shape[1])).tolist():
        for t in range(q.shape[2]):
            for s in range(k.shape[2]):
                y[b, h, t] += temperature[h] * torch.dot(q[b, h, t], k[b, h, s]) * v[b, h, s]
    return y


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_and_plain_form_are_the_formula(shape):
    given = inputs(*shape)
    expected = by_tokens(*[x.detach() for x in given])
    torch.testing.assert_close(cross_feature_attention(*given).detach(), expected)
    torch.testing.assert_close(cross_feature_attention_plain(*given).detach(), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_both_forms_are_equal(shape):
    given = inputs(*shape)
    cotangent = torch.randn_like(given[2])
    fast = torch.autograd.grad(cross_feature_attention(*given), given, cotangent)
    plain = torch.autograd.grad(cross_feature_attention_plain(*given), given, cotangent)
    torch.testing.assert_close(fast, plain)


def test_a_batch_is_its_singles_and_the_order_of_tokens_is_no_matter():
    q, k, v, temperature = inputs(3, 4, 11, 4, 8)
    y = cross_feature_attention(q, k, v, temperature)
    singles = [cross_feature_attention(*(x[i : i + 1] for x in (q, k, v)), temperature) for i in range(3)]
    torch.testing.assert_close(y, torch.cat(singles))
    order = torch.randperm(11)
    shuffled = cross_feature_attention(q[:, :, order], k[:, :, order], v[:, :, order], temperature)
    torch.testing.assert_close(shuffled, y[:, :, order])
