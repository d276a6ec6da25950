import pytest
import torch

from featherbone.metrics.classification import ClassificationMetrics


def test_counts_by_hand():
    metrics = ClassificationMetrics(3)
    logits = torch.tensor([[3.0, 1, 0], [0, 3, 1], [2, 1, 0], [0, 1, 2]])
    metrics.update(logits, torch.tensor([0, 1, 1, 1]))
    result = metrics.compute()
    assert result["top1"] == 0.5 and result["top5"] == 1.0 and result["images"] == 4
    assert result["confusion"] == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert result["per_class"] == [1.0, pytest.approx(1 / 3), None]
    assert result["mean_per_class"] == pytest.approx(2 / 3)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 1])).item()
    assert result["loss"] == pytest.approx(expected)


def test_top_five_of_many_and_sums_of_parts():
    torch.manual_seed(0)
    logits, labels = torch.randn(64, 20), torch.randint(20, (64,))
    whole, parts = ClassificationMetrics(20), [ClassificationMetrics(20) for _ in range(2)]
    whole.update(logits, labels)
    for part, rows in zip(parts, (slice(0, 30), slice(30, 64)), strict=True):
        part.update(logits[rows], labels[rows])
    parts[0].counts = {name: value + parts[1].counts[name] for name, value in parts[0].counts.items()}
    for name, value in whole.compute().items():
        assert parts[0].compute()[name] == (pytest.approx(value) if name == "loss" else value)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert whole.compute()["top5"] == (ranks < 5).double().mean().item()


def test_nothing_yet():
    assert ClassificationMetrics(2).compute()["top1"] == 0
