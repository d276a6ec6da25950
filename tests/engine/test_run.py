"""What training keeps in a run folder is read as what it is, or refused with the way out."""

import json

import pytest
import torch

from featherbone.engine.run import METRICS, STATE, fit_optimiser, load_state, read_metrics, save_state, write_metrics
from featherbone.errors import BadRun

ROW = {"epoch": 1, "step": 3, "lr": 0.1, "train": {"loss": 1.5}, "val": {"top1": 0.5}, "seconds": 1.0}


def a_state():
    """The network, its optimiser, and their state after a step."""
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 3)
    optimiser = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    state = {"step": 1, "best": 0.5, "sums": {"loss": 1.0}, "seconds": 2.0, "task": net.state_dict(), "ema": None}
    return net, optimiser, state | {"optimiser": optimiser.state_dict(), "scaler": None}


def test_a_state_is_read_as_it_was_saved(tmp_path):
    _, optimiser, state = a_state()
    save_state(tmp_path, state)
    found = load_state(tmp_path)
    assert found.keys() == state.keys() and torch.equal(found["task"]["bias"], state["task"]["bias"])
    fit_optimiser(optimiser, found["optimiser"], tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"step": "1"}, r"expected int, got str at \$\.step"),
        ({"step": -1}, r"at \$\.step"),
        ({"best": None}, r"at \$\.best"),
        ({"sums": {"loss": "high"}}, r"at \$\.sums"),
        ({"task": None}, r"at \$\.task"),
        ({"task": {"bias": 1}}, "task bias is not a tensor"),
        ({"ema": {"bias": "x"}}, "ema bias is not a tensor"),
        ({"optimiser": []}, r"at \$\.optimiser"),
    ],
)
def test_a_state_of_other_values_is_refused(changes, told, tmp_path):
    save_state(tmp_path, a_state()[2] | changes)
    with pytest.raises(BadRun, match=f"{told}.*; restore the file, or train again"):
        load_state(tmp_path)


@pytest.mark.parametrize("missing", a_state()[2])
def test_a_state_that_lacks_something_is_refused(missing, tmp_path):
    save_state(tmp_path, {name: value for name, value in a_state()[2].items() if name != missing})
    with pytest.raises(BadRun, match=f"missing required field {missing}.*; restore the file"):
        load_state(tmp_path)


@pytest.mark.parametrize("state", [None, [], 1, "text"])
def test_a_state_that_is_none_is_refused(state, tmp_path):
    save_state(tmp_path, state)
    with pytest.raises(BadRun, match="restore the file, or train again"):
        load_state(tmp_path)
    (tmp_path / STATE).write_bytes(b"junk")
    with pytest.raises(BadRun, match="restore the file, or train again"):
        load_state(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.clear(),
        lambda state: state["param_groups"].clear(),
        lambda state: state["param_groups"][0].update(params=[0]),
        lambda state: state["param_groups"][0].update(params=[0, "b"]),
        lambda state: state.update(state=[]),
        lambda state: state["state"][0].update(exp_avg=torch.zeros(7)),
        lambda state: state["state"][1].update(exp_avg_sq=None),
    ],
)
def test_the_state_of_another_optimiser_is_refused(spoil, tmp_path):
    _, optimiser, state = a_state()
    spoil(state["optimiser"])
    with pytest.raises(BadRun, match=r"optimiser.*; restore the file, or train again"):
        fit_optimiser(optimiser, state["optimiser"], tmp_path)


def test_metrics_are_read_as_they_were_written_and_a_cut_line_is_left_out(tmp_path):
    assert read_metrics(tmp_path) == []
    write_metrics(tmp_path, [ROW, ROW | {"epoch": 2, "val": {"top1": float("nan")}}])
    expected = [ROW, ROW | {"epoch": 2, "val": {"top1": None}}]
    assert read_metrics(tmp_path) == expected
    with open(tmp_path / METRICS, "a") as file:
        file.write(json.dumps(ROW)[:20])
    assert read_metrics(tmp_path) == expected


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"epoch": 1', "line 1: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        ("[]", "line 1: expected object, got array"),
        (json.dumps(ROW | {"epoch": "1"}), r"line 1: expected int, got str at \$\.epoch"),
        (json.dumps(ROW | {"val": None}), r"line 1: .* at \$\.val"),
        (json.dumps({"epoch": 1}), "line 1: object missing required field"),
    ],
)
def test_a_line_that_is_no_row_is_refused(line, told, tmp_path):
    (tmp_path / METRICS).write_text(f"{line}\n{json.dumps(ROW)}\n")
    with pytest.raises(BadRun, match=f"{told}.*; remove the line"):
        read_metrics(tmp_path)
