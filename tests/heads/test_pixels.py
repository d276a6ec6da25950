"""Losses of every pixel, against plain forms."""

import pytest
import torch
from torch.nn import functional as F

from featherbone.heads.pixels import HARD, PixelLoss, dice_loss

K = 4


def drawn(shape=(2, 6, 8), ignored=0.2):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(shape[0], K, *shape[1:], generator=generator)
    labels = torch.randint(K, shape, generator=generator)
    return logits.requires_grad_(), labels.where(torch.rand(shape, generator=generator) >= ignored, 255)


def test_plain_cross_entropy_is_torchs():
    logits, labels = drawn()
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    assert PixelLoss()(logits, list(labels))["pixel"].item() == pytest.approx(expected.item())
    assert PixelLoss()(logits, labels)["pixel"].item() == pytest.approx(expected.item())


def test_logits_are_brought_to_the_labels():
    logits, labels = drawn((2, 12, 16))
    small = logits[..., ::4, ::4]
    expected = F.cross_entropy(F.interpolate(small, size=(12, 16), mode="bilinear"), labels, ignore_index=255)
    assert PixelLoss()(small, labels)["pixel"].item() == pytest.approx(expected.item())


def test_class_weights_are_torchs():
    logits, labels = drawn()
    weights = (1.0, 2.0, 0.5, 0.0)
    expected = F.cross_entropy(logits, labels, torch.tensor(weights), ignore_index=255)
    assert PixelLoss(weights)(logits, labels)["pixel"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", [PixelLoss(), PixelLoss((1.0,) * K), PixelLoss(hard_share=0.1), PixelLoss(dice=1.0)])
def test_where_nothing_is_known_nothing_is_learned(loss):
    logits, labels = drawn(ignored=2)
    terms = loss(logits, labels)
    total = sum(terms.values())
    total.backward()
    assert total.item() == 0 and (logits.grad == 0).all()


def test_hard_pixels_alone_are_taught():
    """All with less than 0.7 for their class, and at least the share that is asked for."""
    logits, labels = drawn()
    plain = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    known = plain[labels != 255]
    assert 0.05 < (known > HARD).float().mean() < 0.95
    few = PixelLoss(hard_share=0.01)(logits, labels)["pixel"]
    assert few.item() == pytest.approx(known[known >= HARD].mean().item(), rel=1e-5)
    sure = 10 * F.one_hot(labels.where(labels != 255, 0), K).movedim(-1, 1).float() + logits
    easy = F.cross_entropy(sure, labels, ignore_index=255, reduction="none")[labels != 255]
    count = round(0.25 * len(easy))
    share = PixelLoss(hard_share=0.25)(sure, labels)["pixel"]
    assert share.item() == pytest.approx(easy.topk(count).values.mean().item(), rel=1e-5)


def test_dice_is_the_plain_form():
    logits, labels = drawn()
    known = labels != 255
    expected = []
    for k in labels[known].unique():
        p, g = logits.softmax(1)[:, k][known], (labels[known] == k).float()
        expected.append(1 - 2 * (p * g).sum() / (p.sum() + g.sum()))
    assert dice_loss(logits, labels).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    right = 30 * F.one_hot(labels.where(known, 0), K).movedim(-1, 1).float()
    assert dice_loss(right, labels).item() == pytest.approx(0, abs=1e-6)


def test_terms_add_up_as_asked():
    logits, labels = drawn()
    terms = PixelLoss(dice=0.5)(logits, labels)
    assert terms.keys() == {"pixel", "dice"}
    assert terms["dice"].item() == pytest.approx(0.5 * dice_loss(logits, labels).item())
