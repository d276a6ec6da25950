import math
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from featherbone.engine.run import load_state
from featherbone.engine.settings import complete
from featherbone.engine.train import evaluate_run, start_run
from featherbone.errors import BadOption
from featherbone.tasks.card import Card
from runs import options, rows
from scenes import write_classification, write_coco, write_masks, write_panoptic

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def launch_two(launch, data, run, settings, task="classification"):
    where = ("--data", data, "--model", "lvt", "--out", run, "--task", task)
    process = launch("train", *where, *options(settings), launcher=TORCHRUN)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return run


def close(one, other, tolerance):
    """Every number of two lists of rows agrees."""
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        for split in ("train", "val"):
            assert mine[split].keys() == theirs[split].keys()
            for name, value in mine[split].items():
                assert math.isclose(value, theirs[split][name], rel_tol=tolerance, abs_tol=tolerance), (
                    name,
                    mine,
                    theirs,
                )


def test_two_processes_are_one(drawn, train, launch, short, tmp_path):
    """Same global batch, same losses and metrics; mixing pairs and validation shares do not depend on the processes."""
    two = launch_two(launch, drawn, tmp_path / "two", short)
    close(rows(two), rows(train("one", **short)), 1e-4)


def test_two_processes_skip_the_same_images(drawn, launch, short, tmp_path):
    """Each names what it has met; replacements do not depend on the process."""
    data = shutil.copytree(drawn, tmp_path / "data")
    bad = [*sorted((data / "train").glob("*/*.jpg"))[3:10:6], sorted((data / "val").glob("*/*.jpg"))[2]]
    for path in bad:
        path.write_bytes(b"")
    short |= dict(epochs=3)
    two = launch_two(launch, data, tmp_path / "two", short)
    one = start_run(data, "lvt", None, tmp_path / "one", complete(**short))
    close(rows(two), rows(one), 1e-4)
    for run in (one, two):
        card = Card.read(run)
        assert {*card.data["skipped"]} == {path.relative_to(data).as_posix() for path in bad}
        assert card.metrics["images"] == 11


def test_a_process_is_a_part_of_the_batch(drawn, train, launch, short, tmp_path):
    """N processes draw what one process draws that computes its batch in N parts, dropped paths included."""
    short |= dict(drop_path=0.3, dropout=0.2)
    two = launch_two(launch, drawn, tmp_path / "two", short)
    one = train("one", **short, accumulate=2)
    close(rows(two), rows(one), 1e-5)
    first, second = load_file(two / "weights.safetensors"), load_file(one / "weights.safetensors")
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-5


def launch_norms(launch, data, run, settings):
    """Two processes train a network with batch norms."""
    where = ("--data", data, "--model", "mobilenetv3_small_050", "--no-pretrained", "--out", run)
    process = launch("train", *where, *options(settings), launcher=TORCHRUN)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


@pytest.mark.parametrize(("ema", "accumulate"), [(None, 1), (0.9, 2)])
def test_two_processes_keep_one_set_of_running_statistics(drawn, train, launch, short, tmp_path, ema, accumulate):
    """Running statistics and their average are those of one process that computes its batch in as many parts.

    The optimiser is SGD: AdamW makes whole steps of the rounding in gradients that are 0, as before a batch norm.
    """
    settings = short | dict(image_size=64, batch_size=8 * accumulate, epochs=3, accumulate=accumulate)
    settings |= dict(optimizer="sgd", lr=0.01)
    del settings["ema"]
    settings |= {"ema": ema} if ema else {}
    launch_norms(launch, drawn, tmp_path / "two", settings)
    one = train("one", "mobilenetv3_small_050", **settings | dict(accumulate=2 * accumulate))
    two = tmp_path / "two"
    close(rows(two), rows(one), 1e-5)
    first, second = load_state(two), load_state(one)
    for part in ("task", "ema") if ema else ("task",):
        for name, value in second[part].items():
            assert torch.allclose(first[part][name], value, rtol=1e-5, atol=1e-5), (part, name)
    assert any(name.endswith("running_var") for name in first["task"])
    measured = evaluate_run(two, None, None, "cpu", 0)[0]
    card = Card.read(two)
    assert measured["loss"] == pytest.approx(card.metrics["loss"], rel=1e-6)
    assert measured["confusion"] == card.metrics["confusion"]


def test_two_processes_find_what_one_finds(launch, tmp_path):
    """Objects are divided over all processes, and what each finds counts once."""
    write_coco(tmp_path / "scenes", 8, 5, (64, 64))
    fixed = dict(image_size=64, batch_size=4, epochs=2, device="cpu", workers=0, head_args="dim=16,num_convs=1")
    settings = fixed | dict(scale=(0.5, 1.5), mosaic=0.5, expand=1.5, iou_crop=0.3, ema=0.9)
    two = launch_two(launch, tmp_path / "scenes", tmp_path / "two", settings, "detection")
    settings = complete(task="detection", **settings, accumulate=2)
    one = start_run(tmp_path / "scenes", "lvt", "detection", tmp_path / "one", settings)
    close(rows(two), rows(one), 1e-3)


@pytest.mark.parametrize(
    ("task", "head_args"), [("semantic", "dim=16"), ("panoptic", "dim=16,fc_dim=16,branch_dim=8,proposals=50")]
)
def test_two_processes_measure_maps_as_one_does(launch, tmp_path, task, head_args):
    """What each process counts of its share adds up, and the training losses are those of a batch in two parts."""
    (write_masks if task == "semantic" else write_panoptic)(tmp_path / "scenes", 8, 5, (64, 64))
    settings = dict(image_size=64, batch_size=4, epochs=2, device="cpu", workers=0, head_args=head_args, lr=1e-3)
    two = launch_two(launch, tmp_path / "scenes", tmp_path / "two", settings, task)
    measured, card = evaluate_run(two, None, None, "cpu", 0)[0], Card.read(two)
    assert measured["images"] == 5
    for name in ("mIoU", "boundary_mIoU", "pixel_accuracy", "loss", "PQ", "SQ", "RQ"):
        assert measured.get(name) == pytest.approx(card.metrics.get(name), abs=2e-3)
    if task == "semantic":  # Mask R-CNN draws other samples in other processes
        settings = complete(task=task, **settings, accumulate=2)
        one = start_run(tmp_path / "scenes", "lvt", task, tmp_path / "one", settings)
        assert [r["train"]["loss"] for r in rows(two)] == pytest.approx(
            [r["train"]["loss"] for r in rows(one)], rel=1e-4
        )


FAILING = """
import os, sys
from pathlib import Path
from featherbone.cli import main
from featherbone.engine.loop import Loop
from featherbone.errors import FeatherboneError

kind, micro_step = os.environ["FAULT"], Loop.micro_step

def fail(self, batch, part):
    if self.progress.step == 1 and kind == "error":
        raise FeatherboneError("the second process failed")
    if self.progress.step == 1:
        for path in Path(sys.argv[sys.argv.index("--data") + 1]).rglob("*.jpg"):
            path.write_bytes(b"")
    return micro_step(self, batch, part)

if os.environ["RANK"] == "1":
    Loop.micro_step = fail
sys.exit(main(sys.argv[2:]))
"""
"""A run whose second process fails in the second step, or damages the data then."""


@pytest.mark.parametrize(
    ("fault", "message"), [("error", "the second process failed"), ("damage", "an empty file; replace or remove it")]
)
def test_a_failing_process_ends_the_others_with_one_message(launch, short, tmp_path, monkeypatch, fault, message):
    write_classification(tmp_path / "data", 24, 12, (32, 32))
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.setenv("FAULT", fault)
    where = ("--data", tmp_path / "data", "--model", "lvt", "--out", tmp_path / "run")
    process = launch("train", *where, *options(short), launcher=(*TORCHRUN[:-1], tmp_path / "failing.py"))
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    reported = [line for line in errors.splitlines() if line.startswith("error ")]
    assert len(reported) == 1 and message in reported[0]
    assert "featherbone/engine" not in errors, "a traceback"


def test_a_mistake_in_an_option_is_reported_once(launch, drawn, tmp_path):
    process = launch(
        "train", "--data", drawn, "--model", "lvt", "--out", tmp_path / "run", "--lr", "-1", launcher=TORCHRUN
    )
    _, errors = process.communicate(timeout=300)
    assert [line for line in errors.splitlines() if line.startswith("error ")] == ["error lr -1.0 is outside 0 to 1000"]


def test_batch_statistics_are_shared_on_cards_only(train, short, tmp_path):
    with pytest.raises(BadOption, match="omit it: running statistics are those of all processes"):
        train(**short, sync_batchnorm=True)
    assert not (tmp_path / "run").exists()
