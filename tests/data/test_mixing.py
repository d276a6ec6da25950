"""Mixed images and targets agree, however the batch is cut."""

import pytest
import torch

from featherbone.data.mixing import mix

ALPHAS = [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, 3, 12, 10, generator=generator), torch.eye(5)[torch.arange(8) % 5]


def test_without_alphas_nothing_changes(batch):
    images, targets = mix(*batch, 0.0, 0.0, (0,))
    assert torch.equal(images, batch[0]) and torch.equal(targets, batch[1])


@pytest.mark.parametrize(("mixup", "cutmix"), ALPHAS)
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_even_size_mix_as_the_whole_batch(batch, mixup, cutmix, parts):
    for step in range(8):
        whole = mix(*batch, mixup, cutmix, (3, step))
        cut = [mix(*part, mixup, cutmix, (3, step)) for part in zip(*(x.chunk(parts) for x in batch), strict=True)]
        for expected, given in zip(whole, map(torch.cat, zip(*cut, strict=True)), strict=True):
            assert torch.equal(expected, given)


@pytest.mark.parametrize(("mixup", "cutmix"), ALPHAS)
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_targets_stay_distributions_and_follow_the_pixels(mixup, cutmix, count):
    targets = torch.eye(count)
    constant = torch.arange(1, count + 1).float()[:, None, None, None].expand(-1, 3, 12, 10)  # image i is all i + 1
    kept = set()
    for step in range(20):
        images, mixed = mix(constant, targets, mixup, cutmix, (step,))
        torch.testing.assert_close(mixed.sum(dim=1), torch.ones(count))
        torch.testing.assert_close(images.mean(dim=(1, 2, 3)), mixed @ torch.arange(1, count + 1).float())
        kept.add(round(float(mixed[0, 0]), 4))
        if count % 2:
            torch.testing.assert_close(images[-1], constant[-1])  # the last has no partner
            torch.testing.assert_close(mixed[-1], targets[-1])
    assert len(kept) > 5 or count == 1


def test_mixup_blends_everywhere_and_cutmix_pastes_one_rectangle(batch):
    images, targets = mix(*batch, 0.8, 0.0, (1,))
    lam = targets[0, 0]
    torch.testing.assert_close(images[0], lam * batch[0][0] + (1 - lam) * batch[0][1])
    for step in range(20):
        images, targets = mix(*batch, 0.0, 1.0, (step,))
        pasted = (images[0] != batch[0][0]).all(dim=0)
        rows, columns = pasted.any(dim=1), pasted.any(dim=0)
        assert torch.equal(pasted, rows[:, None] & columns)
        assert torch.equal(images[0][:, pasted], batch[0][1][:, pasted])
        torch.testing.assert_close(1 - pasted.float().mean(), targets[0, 0])
