import numpy as np
import pytest
import torch

from featherbone.metrics.classification import ClassificationMetrics
from featherbone.tasks.classification import ClassDecoder


def measure(logits, labels, metrics=None):
    decoder = ClassDecoder(tuple(map(str, range(logits.shape[1]))))
    metrics = metrics or ClassificationMetrics(logits.shape[1])
    own = [
        metrics.update(i, label, record)
        for i, (label, record) in enumerate(zip(labels.tolist(), decoder(logits), strict=True))
    ]
    return metrics, own


def test_counts_by_hand():
    logits = torch.tensor([[3.0, 1, 0], [0, 3, 1], [2, 1, 0], [0, 1, 2]])
    metrics, own = measure(logits, torch.tensor([0, 1, 1, 1]))
    result = metrics.compute()
    assert result["top1"] == 0.5 and result["top5"] == 1.0 and result["images"] == 4
    assert result["confusion"] == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert result["per_class"] == [1.0, pytest.approx(1 / 3), None]
    assert result["mean_per_class"] == pytest.approx(2 / 3)
    scores = logits.softmax(1).max(1).values
    assert own == [1, 1, pytest.approx(1 - scores[2].item()), pytest.approx(1 - scores[3].item())]


def test_top_five_of_many_and_sums_of_parts():
    torch.manual_seed(0)
    logits, labels = torch.randn(64, 20), torch.randint(20, (64,))
    whole = measure(logits, labels)[0].compute()
    parts = [measure(logits[rows], labels[rows])[0] for rows in (slice(0, 30), slice(30, 64))]
    parts[0].synchronise(lambda mine: [*mine, parts[1]])
    assert parts[0].compute() == whole
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert whole["top5"] == (ranks < 5).double().mean().item()
    assert np.sum(whole["confusion"]) == 64


def test_nothing_yet():
    assert ClassificationMetrics(2).compute()["top1"] == 0
