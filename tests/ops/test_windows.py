import pytest
import torch

from featherbone.ops.windows import (
    join_windows,
    pad_to_windows,
    position_bias,
    split_windows,
    window_attention,
    window_attention_plain,
)


@pytest.mark.parametrize(("height", "width", "size"), [(7, 7, 7), (6, 9, 3), (4, 2, 1)])
def test_attention_equals_its_plain_form(height, width, size):
    qkv = torch.randn(2, height, width, 3 * 8, dtype=torch.float64)
    bias = torch.randn(2, size * size, size * size, dtype=torch.float64)
    torch.testing.assert_close(window_attention(qkv, bias, size), window_attention_plain(qkv, bias, size))


def test_windows_are_cut_row_by_row_and_joined_again():
    maps = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(2, 4, 6, 1)
    windows = split_windows(maps, 2)
    assert windows.shape == (12, 4, 1)
    assert torch.equal(windows[1].flatten(), maps[0, 0:2, 2:4].flatten())  # the second of the first row
    assert torch.equal(windows[6].flatten(), maps[1, 0:2, 0:2].flatten())  # the first of the second map
    assert torch.equal(join_windows(windows, 2, 4, 6), maps)


@pytest.mark.parametrize(("height", "width"), [(7, 14), (1, 1), (8, 13), (15, 3)])
def test_padding_appends_the_fewest_zeros(height, width):
    maps = torch.randn(1, height, width, 2)
    padded = pad_to_windows(maps, 7)
    assert padded.shape == (1, 7 * -(-height // 7), 7 * -(-width // 7), 2)
    assert torch.equal(padded[:, :height, :width], maps)
    assert padded.count_nonzero() == maps.count_nonzero()


def test_bias_reads_the_row_of_the_offset():
    height, width, heads = 2, 3, 2
    table = torch.randn(3 * 5, heads)
    bias = position_bias(table, height, width).reshape(heads, height, width, height, width)
    for y, x in torch.cartesian_prod(torch.arange(height), torch.arange(width)):
        for v, u in torch.cartesian_prod(torch.arange(height), torch.arange(width)):
            row = (y - v + height - 1) * (2 * width - 1) + x - u + width - 1
            assert torch.equal(bias[:, y, x, v, u], table[row])
