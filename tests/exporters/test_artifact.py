"""The comparison of raw tensors."""

import pytest
import torch

from featherbone.exporters.artifact import MAX_ERROR, raw_difference


def test_raw_values_are_compared_relative_to_their_size():
    raw = {"logits_0": torch.full((4,), 2.0), "logits_1": torch.zeros(1), "boxes": torch.zeros(2)}
    got = {**raw, "logits_1": torch.full((1,), 0.01), "boxes": torch.ones(2)}
    found = raw_difference(raw, got)
    power = 16 / 5
    assert found.largest == pytest.approx(0.01 / power**0.5), "rows of objects are compared as records"
    assert found.error == pytest.approx((0.01**2 / 5 / power) ** 0.5)
    assert raw_difference(raw, {**raw, "logits_1": torch.zeros(2)}).largest == float("inf")
    broken = raw_difference(raw, {**raw, "logits_1": torch.tensor([float("nan")])})
    assert broken.largest == float("inf") and broken.error == MAX_ERROR


def test_rows_of_objects_have_an_error_only_by_themselves():
    raw = {"boxes": torch.ones(2), "scores": torch.ones(2), "labels": torch.ones(2, dtype=torch.int64)}
    found = raw_difference(raw, {**raw, "boxes": torch.tensor([1.0, 2.0])})
    assert found.largest == 0 and found.error == pytest.approx(0.5)
