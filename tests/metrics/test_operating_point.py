import numpy as np
import pytest

from featherbone.errors import BadOption
from featherbone.metrics.operating_point import Answers, choose_point, describe_point, parse_target

HAND = Answers(np.array([0.5, 0.9, 0.7, 0.8, 0.6]), np.array([False, True, True, False, True]), 4)
"""By descending score: right, wrong, right, right, wrong; of four objects one is not found."""


@pytest.mark.parametrize(
    ("target", "score", "precision", "recall"),
    [
        ("precision=0.75", 0.55, 3 / 4, 3 / 4),
        ("precision=.9", 0.85, 1, 1 / 4),
        ("precision=0.1", 0.55, 3 / 4, 3 / 4),
        ("recall=0.5", 0.55, 3 / 4, 3 / 4),
        ("recall=0.25", 0.85, 1, 1 / 4),
        ("f1", 0.55, 3 / 4, 3 / 4),
    ],
)
def test_points_by_hand(target, score, precision, recall):
    point = choose_point(HAND, target, 9)
    assert point == pytest.approx(
        {**dict(target=target, score=score, precision=precision, recall=recall, images=9), "f1": point["f1"]}
    )
    assert point["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert f"{score:.3f}" in describe_point(point) and "9 validation images, so it is optimistic" in describe_point(
        point
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", ["precision=0.6", "recall=0.3", "f1"])
def test_no_other_threshold_is_better(seed, target):
    """Scores have two decimals, so that many are equal; all thresholds between them are tried."""
    draw = np.random.default_rng(seed)
    scores = draw.random(80).round(2)
    answers = Answers(scores, draw.random(80) < scores, 60)
    point = choose_point(answers, target, 1)
    metric, minimum = parse_target(target)
    tried = []
    for threshold in np.arange(0.005, 1, 0.01):
        above = scores > threshold
        hits = (answers.right & above).sum()
        precision, recall = hits / max(above.sum(), 1), hits / 60
        values = {"precision": precision, "recall": recall, "f1": 2 * hits / (above.sum() + 60)}
        if values[metric] >= minimum:
            tried.append(values["f1" if metric == "f1" else "recall" if metric == "precision" else "precision"])
    assert point["f1" if metric == "f1" else "recall" if metric == "precision" else "precision"] == max(tried)
    above = scores > point["score"]
    assert point["precision"] == (answers.right & above).sum() / above.sum() and point[metric] >= minimum


def test_a_target_out_of_reach_states_the_best_value():
    with pytest.raises(
        BadOption, match=r"recall=0.8 cannot be reached on 9 images: the highest recall is 0.750, at score 0.550"
    ):
        choose_point(HAND, "recall=0.8", 9)
    wrong = HAND._replace(right=np.zeros(5, bool))
    with pytest.raises(BadOption, match="nothing that the model predicts on 9 images is right"):
        choose_point(wrong, "f1", 9)
    with pytest.raises(BadOption, match="nothing"):
        choose_point(Answers(np.zeros(0), np.zeros(0, bool), 4), "precision=0.5", 9)


@pytest.mark.parametrize("text", ["", "precision", "precision=0", "recall=1.2", "recall=-1", "f1=0.5", "accuracy=0.9"])
def test_other_targets_are_refused(text):
    with pytest.raises(BadOption, match=r"write precision=0.9, recall=0.8 or f1"):
        parse_target(text)
    assert parse_target("recall=1.0") == ("recall", 1) and parse_target("f1") == ("f1", 0)
