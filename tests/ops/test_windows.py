import pytest
import torch

from featherbone.ops.windows import (
    OpenWindows,
    Windows,
    position_bias,
    window_attention,
    window_attention_by_head,
    window_attention_plain,
)

BOTH = pytest.mark.parametrize("windows", [Windows, OpenWindows])


@pytest.mark.parametrize(("batch", "windows", "size"), [(2, 1, 49), (1, 6, 9), (3, 4, 1)])
@pytest.mark.parametrize("form", [window_attention, window_attention_by_head])
def test_attention_equals_its_plain_form(batch, windows, size, form):
    q, k, v = torch.randn(3, batch, 2, windows * size, 4, dtype=torch.float64)
    bias = torch.randn(2, size, size, dtype=torch.float64)
    torch.testing.assert_close(form(q, k, v, bias), window_attention_plain(q, k, v, bias))


@BOTH
def test_windows_are_cut_row_by_row_and_joined_again(windows):
    maps = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(2, 4, 6, 1)
    tokens = windows.cut(maps, 2)
    assert torch.equal(tokens[0, 4:8], maps[0, 0:2, 2:4].flatten(0, 1))  # the second window of the first row
    assert torch.equal(tokens[1, :4], maps[1, 0:2, 0:2].flatten(0, 1))  # the first window of the second map
    assert torch.equal(windows.join(tokens, 4, 6, 2), maps)
    column = maps.reshape(2, 12, 2, 1)
    assert torch.equal(windows.cut(column, 2), column.flatten(1, 2))  # the tokens of a window are together already
    assert torch.equal(windows.join(column.flatten(1, 2), 12, 2, 2), column)


@BOTH
@pytest.mark.parametrize(("height", "width"), [(7, 14), (1, 1), (8, 13), (15, 3)])
def test_padding_appends_the_fewest_zeros_and_cropping_removes_them(height, width, windows):
    maps = torch.randn(1, height, width, 2)
    padded = windows.pad(maps, 7)
    assert padded.shape == (1, 7 * -(-height // 7), 7 * -(-width // 7), 2)
    assert torch.equal(windows.crop(padded, height, width), maps)
    assert padded.count_nonzero() == maps.count_nonzero()


def test_bias_reads_the_row_of_the_offset():
    height, width, heads = 2, 3, 2
    table = torch.randn(3 * 5, heads)
    bias = position_bias(table, height, width).reshape(heads, height, width, height, width)
    for y, x in torch.cartesian_prod(torch.arange(height), torch.arange(width)):
        for v, u in torch.cartesian_prod(torch.arange(height), torch.arange(width)):
            row = (y - v + height - 1) * (2 * width - 1) + x - u + width - 1
            assert torch.equal(bias[:, y, x, v, u], table[row])
