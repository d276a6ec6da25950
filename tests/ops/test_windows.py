import pytest
import torch

from featherbone.ops.windows import (
    pad_to_windows,
    position_bias,
    row_by_row,
    window_attention,
    window_attention_plain,
    window_by_window,
)


@pytest.mark.parametrize(("batch", "windows", "size"), [(2, 1, 49), (1, 6, 9), (3, 4, 1)])
@pytest.mark.parametrize("exported", [False, True])
def test_attention_equals_its_plain_form(batch, windows, size, exported):
    q, k, v = torch.randn(3, batch, 2, windows * size, 4, dtype=torch.float64)
    bias = torch.randn(2, size, size, dtype=torch.float64)
    form = window_attention
    if exported:
        form = torch.export.export(Form(), (q, k, v, bias), strict=False).module()
    torch.testing.assert_close(form(q, k, v, bias), window_attention_plain(q, k, v, bias))


def test_a_batch_may_stay_open():
    q, k, v = torch.randn(3, 2, 2, 4 * 9, 4, dtype=torch.float64)
    bias, free = torch.randn(2, 9, 9, dtype=torch.float64), {0: torch.export.Dim("batch")}
    program = torch.export.export(Form(), (q, k, v, bias), dynamic_shapes={"given": (free, free, free, None)})
    more = [torch.cat([x, x + 1]) for x in (q, k, v)]
    torch.testing.assert_close(program.module()(*more, bias), window_attention_plain(*more, bias))


class Form(torch.nn.Module):
    def forward(self, *given):
        return window_attention(*given)


def test_windows_are_cut_row_by_row_and_joined_again():
    maps = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(2, 4, 6, 1)
    tokens = window_by_window(maps, 2)
    assert torch.equal(tokens[0, 4:8], maps[0, 0:2, 2:4].flatten(0, 1))  # the second window of the first row
    assert torch.equal(tokens[1, :4], maps[1, 0:2, 0:2].flatten(0, 1))  # the first window of the second map
    assert torch.equal(row_by_row(tokens, 4, 6, 2), maps)
    column = maps.reshape(2, 12, 2, 1)
    assert torch.equal(window_by_window(column, 2), column.flatten(1, 2))  # windows lie together already
    assert torch.equal(row_by_row(column.flatten(1, 2), 12, 2, 2), column)


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
