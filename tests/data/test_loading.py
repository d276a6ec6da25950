"""Batches follow from the seed alone: not from ranks, parts, workers, or where an epoch was taken up."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from featherbone.data.formats import open_split
from featherbone.data.loading import Batches, Samples, eval_loader, seeded, train_loader
from featherbone.data.split import Split

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for label, name in enumerate(("a", "b")):
        (root / "train" / name).mkdir(parents=True)
        for i in range(7):
            Image.new("RGB", (4, 4), (100 * label + i, 0, 0)).save(root / "train" / name / f"{i}.png")
    return open_split(root, "classification", "train").images


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def noisy(image: Image.Image) -> torch.Tensor:
    """The grey value and three random numbers."""
    return torch.tensor([image.getpixel((0, 0))[0], *draw()])


def test_seeded_draws_follow_the_keys_and_leave_no_trace():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    draws = []
    for keys in ((0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        with seeded(*keys):
            draws.append(draw())
    with pytest.raises(KeyError), seeded(5):
        draw()
        raise KeyError
    with seeded(0, 0, 0):  # one within another
        with seeded(5):
            draw()
        assert draw() == draws[0]
    assert draws[0] == draws[1] and len({one for drawn in draws[1:] for one in drawn}) == 12
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


class Images(list):
    """As many images as entries, in the order of any split."""

    order, blocks = Split.order, Split.blocks


FACTORS = np.array([1.0, 1.3, 2.6] * 9)


def global_batches(world: int, parts: int, epoch: int = 2, start: int = 0, factors=None) -> list[list[tuple[int, ...]]]:
    """What all ranks together see in each step, in the order of the parts."""
    ranks = []
    for rank in range(world):
        batches = Batches(Images(range(27)), 8, parts, rank, world, 5, factors)
        batches.begin(epoch, start)
        ranks.append(list(batches))
        assert len(batches) == len(ranks[-1])
    order = [part for turn in zip(*ranks, strict=True) for part in turn]
    return [[key for part in order[at : at + parts] for key in part] for at in range(0, len(order), parts)]


@pytest.mark.parametrize(("world", "parts"), [(1, 2), (1, 8), (2, 2), (2, 4), (4, 4), (4, 8)])
@pytest.mark.parametrize("factors", [None, FACTORS])
def test_global_batches_are_the_same_for_any_ranks_and_parts(world, parts, factors):
    assert global_batches(world, parts, factors=factors) == global_batches(1, 1, factors=factors)
    assert global_batches(world, parts, start=2, factors=factors) == global_batches(1, 1, factors=factors)[2:]


def test_an_epoch_of_repeated_images_has_a_fixed_length_and_numbers_the_copies():
    for epoch in range(5):
        batches = global_batches(1, 1, epoch, factors=FACTORS)
        keys = [key for batch in batches for key in batch]
        assert len(batches) == int(FACTORS.sum()) // 8 and len({*keys}) == len(keys)
        assert {len(key) for key in keys} == {2, 3} and all(key[2:] in ((), (1,), (2,)) for key in keys)
        assert all(key[:2] in keys[: keys.index(key)] for key in keys if len(key) == 3)


def test_copies_of_an_image_have_draws_of_their_own(images):
    samples = Samples(images, noisy, seed=9)
    first, second, third = (samples[key][0] for key in ((0, 3), (0, 3, 1), (0, 3, 2)))
    assert first[0] == second[0] == third[0] and len({*map(float, (first[1], second[1], third[1]))}) == 3


def test_an_epoch_is_a_permutation_and_each_is_another():
    epochs = [[key for batch in global_batches(1, 1, epoch) for key in batch] for epoch in range(3)]
    for epoch, keys in enumerate(epochs):
        assert {key[0] for key in keys} == {epoch}
        assert len({key[1] for key in keys}) == 24 and {key[1] for key in keys} <= set(range(27))
    orders = {tuple(index for _, index in keys) for keys in epochs}
    assert len(orders) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_the_same_for_any_number_of_workers(images, workers):
    def read(count: int) -> list[torch.Tensor]:
        batches = Batches(images, 4, 2, 0, 1, seed=1)
        loader = train_loader(Samples(images, noisy, seed=9), batches, count, CPU)
        seen = []
        for epoch in range(2):
            batches.begin(epoch, epoch)
            seen += [torch.cat([values, labels[:, None]], dim=1) for _, (values, labels), _ in loader]
        return seen

    plain = read(0)
    assert [len(batch) for batch in plain] == [2] * 10
    assert all((batch[:, 4] == batch[:, 0] // 100).all() for batch in plain)  # each keeps its label
    assert len(torch.cat(plain)[:, 1].unique()) == 20  # each image of each epoch has its own draw
    for expected, given in zip(plain, read(workers), strict=True):
        assert torch.equal(expected, given)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_image_once(images, world):
    samples = Samples(images, noisy)
    loaders = [eval_loader(samples, 4, 0, CPU, rank, world) for rank in range(world)]
    values = torch.cat([batch for loader in loaders for _, (batch, _), _ in loader])[:, 0]
    assert sorted(values.tolist()) == [*range(7), *range(100, 107)]
    labels = torch.cat([labels for _, (_, labels), _ in eval_loader(samples, 4, 0, CPU)])
    assert labels.tolist() == images.labels.tolist()
