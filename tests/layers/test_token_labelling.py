import pytest
import torch

from featherbone.layers.token_labelling import Box, TokenLabels, draw_box, swap_box, token_label_losses


@pytest.mark.parametrize(("height", "width"), [(7, 7), (1, 1), (3, 20), (14, 9)])
def test_boxes_stay_on_the_grid(height, width):
    torch.manual_seed(0)
    for box in (draw_box(height, width) for _ in range(300)):
        assert 0 <= box.top <= box.bottom <= height
        assert 0 <= box.left <= box.right <= width


def test_boxes_have_the_share_that_a_uniform_lam_and_centre_give():
    """At side s = sqrt(u), u = 1 - lam uniform, clipping leaves s - s^2 / 4 of an axis on average; squared, over u."""
    torch.manual_seed(0)
    boxes = torch.tensor([draw_box(1000, 1000) for _ in range(20_000)], dtype=torch.float64) / 1000
    top, left, bottom, right = boxes.unbind(1)
    share = (bottom - top) * (right - left)
    assert share.mean().item() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.006)
    whole = (top > 0) & (left > 0) & (bottom < 1) & (right < 1)
    torch.testing.assert_close((bottom - top)[whole], (right - left)[whole])  # one lam for both sides


def test_a_seed_fixes_the_box():
    def draw():
        torch.manual_seed(5)
        return draw_box(14, 14)

    assert draw() == draw()


@pytest.mark.parametrize("cell", [1, 4])
@pytest.mark.parametrize("batch", [1, 4, 5])
def test_swap_pastes_the_reversed_batch_and_undoes_itself(cell, batch):
    maps = torch.randn(batch, 6 * cell - 1, 5 * cell, 3)  # the last row of cells is cut, as by an odd picture
    box = Box(1, 2, 6, 4)
    mixed = swap_box(maps, box, cell)
    for i in range(batch):
        for row in range(maps.shape[1]):
            for column in range(maps.shape[2]):
                inside = 1 <= row // cell < 6 and 2 <= column // cell < 4
                assert torch.equal(mixed[i, row, column], maps[batch - 1 - i if inside else i, row, column])
    assert torch.equal(swap_box(mixed, box, cell), maps)


def test_losses_by_hand():
    """Two images, two classes, a 2x2 grid whose one mixed cell makes lam 3/4."""
    logits = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    aux_logits = torch.zeros(2, 2, 2, 2)
    aux_logits[0, 0, 0] = torch.tensor([2.0, 0.0])
    out = TokenLabels(logits, aux_logits, Box(0, 0, 1, 1))
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    log = torch.log(torch.tensor(2.0))  # of two equal logits
    softplus = torch.nn.functional.softplus
    # image 0: equal logits; image 1: 3/4 for class 1, behind by 2, and 1/4 for class 0, ahead by 2
    by_class = (log + 0.75 * softplus(torch.tensor(2.0)) + 0.25 * softplus(torch.tensor(-2.0))) / 2
    # eight positions, one of them sure of its own image's class by 2
    by_position = (7 * log + softplus(torch.tensor(-2.0))) / 8
    losses = token_label_losses(out, targets)
    torch.testing.assert_close(losses, {"class": by_class, "aux": 0.5 * by_position})


@pytest.mark.parametrize(("box", "seen"), [(Box(0, 0, 0, 0), [0, 1]), (Box(0, 0, 2, 3), [1, 0])])
def test_an_empty_box_keeps_the_labels_and_a_full_one_reverses_them(box, seen):
    out = TokenLabels(torch.randn(2, 4), torch.randn(2, 2, 3, 4), box)
    targets = torch.eye(4)[[2, 0]]
    expected = -(targets[seen] * out.logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(token_label_losses(out, targets)["class"], expected)


def test_smoothing_mixes_in_the_uniform_distribution():
    out = TokenLabels(torch.randn(2, 4), torch.randn(2, 2, 3, 4), Box(0, 1, 1, 2))
    targets = torch.eye(4)[[2, 0]]
    torch.testing.assert_close(
        token_label_losses(out, targets, smoothing=0.1), token_label_losses(out, 0.9 * targets + 0.1 / 4)
    )
