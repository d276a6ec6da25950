import json
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
from runs import SHORT, options, rows
from scenes import WRITE, write_classification

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SEVERAL = """
import json, runpy, sys

for arguments in json.loads(sys.argv[2]):
    sys.argv = ["featherbone", *arguments]
    try:
        runpy.run_module("featherbone", run_name="__main__")
    except SystemExit as done:
        assert not done.code, arguments
"""
"""Several commands, each as `python -m featherbone`: starting two processes costs more than a short run."""
LONGER = dict(epochs=3)
PARTS = dict(drop_path=0.3, dropout=0.2, repeat_factor=0.5)
SCENES = dict(image_size=64, batch_size=4, epochs=2, device="cpu", workers=0)
OBJECTS = SCENES | dict(head_args="dim=16,num_convs=1", scale=(0.5, 1.5), mosaic=0.5, expand=1.5, iou_crop=0.3, ema=0.9)
MAPS = {
    "semantic": SCENES | dict(lr=1e-3, head_args="dim=16", repeat_factor=0.9),
    "panoptic": SCENES | dict(lr=1e-3, head_args="dim=16,fc_dim=16,branch_dim=8,proposals=12"),
}
LIGHT = "mobilenetv3_small_050"


def norms(ema, accumulate):
    """Settings of a network with batch norms.

    The optimiser is SGD: AdamW makes whole steps of the rounding in gradients that are 0, as before a batch norm.
    """
    settings = SHORT | dict(image_size=64, batch_size=8 * accumulate, epochs=3, accumulate=accumulate)
    return settings | dict(optimizer="sgd", lr=0.01, ema=ema)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """8 training and 5 validation scenes of 64 pixels for each task."""
    root = tmp_path_factory.mktemp("scenes")
    for task in ("detection", "semantic", "panoptic"):
        WRITE[task](root / task, 8, 5, (64, 64))
    return root


@pytest.fixture(scope="module")
def damaged(drawn, tmp_path_factory):
    """The same pictures, three of which cannot be read."""
    data = shutil.copytree(drawn, tmp_path_factory.mktemp("damaged") / "data")
    for path in [*sorted((data / "train").glob("*/*.jpg"))[3:10:6], sorted((data / "val").glob("*/*.jpg"))[2]]:
        path.write_bytes(b"")
    return data


@pytest.fixture(scope="module")
def two(drawn, damaged, scenes, launch, tmp_path_factory):
    """The folder of the runs of two processes, all of one launch."""
    folder = tmp_path_factory.mktemp("two")
    runs = {
        "plain": ("classification", "lvt", SHORT),
        "parts": ("classification", "lvt", SHORT | PARTS),
        "damaged": ("classification", "lvt", SHORT | LONGER),
        "norms-1": ("classification", LIGHT, norms(None, 1)),
        "norms-2": ("classification", LIGHT, norms(0.9, 2)),
        "detection": ("detection", "lvt", OBJECTS),
        **{task: (task, "lvt", settings) for task, settings in MAPS.items()},
    }
    commands = []
    for name, (task, model, settings) in runs.items():
        pictures = damaged if name == "damaged" else drawn
        data = pictures if task == "classification" else scenes / task
        where = ("--data", str(data), "--model", model, "--no-pretrained", "--task", task, "--out", str(folder / name))
        commands.append(["train", *where, *options(settings)])
    (folder / "several.py").write_text(SEVERAL)
    process = launch(json.dumps(commands), launcher=(*TORCHRUN, folder / "several.py"))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return folder


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


def test_two_processes_are_one(two, train):
    """Same global batch, same losses and metrics; mixing pairs and validation shares do not depend on the processes."""
    close(rows(two / "plain"), rows(train("one", "lvt", **SHORT)), 1e-4)


def test_two_processes_skip_the_same_images(two, damaged, tmp_path):
    """Each names what it has met; replacements do not depend on the process."""
    one = start_run(damaged, "lvt", None, tmp_path / "one", complete(**SHORT | LONGER))
    close(rows(two / "damaged"), rows(one), 1e-4)
    bad = {path.relative_to(damaged).as_posix() for path in damaged.rglob("*.jpg") if not path.stat().st_size}
    for run in (one, two / "damaged"):
        card = Card.read(run)
        assert {*card.data["skipped"]} == bad and card.metrics["images"] == 11


def test_a_process_is_a_part_of_the_batch(two, train):
    """N processes draw what one process draws that computes its batch in N parts, dropped paths included."""
    one = train("one", "lvt", **SHORT | PARTS, accumulate=2)
    close(rows(two / "parts"), rows(one), 1e-5)
    first, second = load_file(two / "parts/weights.safetensors"), load_file(one / "weights.safetensors")
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-5


@pytest.mark.parametrize(("ema", "accumulate"), [(None, 1), (0.9, 2)])
def test_two_processes_keep_one_set_of_running_statistics(two, train, ema, accumulate):
    """Running statistics and their average are those of one process that computes its batch in as many parts."""
    one = train("one", LIGHT, **norms(ema, accumulate) | dict(accumulate=2 * accumulate))
    two = two / f"norms-{accumulate}"
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


def test_two_processes_find_what_one_finds(two, scenes, tmp_path):
    """Objects are divided over all processes, and what each finds counts once."""
    settings = complete(task="detection", **OBJECTS, accumulate=2)
    one = start_run(scenes / "detection", "lvt", "detection", tmp_path / "one", settings)
    close(rows(two / "detection"), rows(one), 1e-3)


@pytest.mark.parametrize("task", MAPS)
def test_two_processes_measure_maps_as_one_does(two, scenes, tmp_path, task):
    """What each process counts of its share adds up, and the training losses are those of a batch in two parts."""
    run = two / task
    measured, card = evaluate_run(run, None, None, "cpu", 0)[0], Card.read(run)
    assert measured["images"] == 5
    for name in ("mIoU", "boundary_mIoU", "pixel_accuracy", "loss", "PQ", "SQ", "RQ"):
        assert measured.get(name) == pytest.approx(card.metrics.get(name), abs=2e-3)
    if task == "semantic":  # Mask R-CNN draws other samples in other processes
        settings = complete(task=task, **MAPS[task], accumulate=2)
        one = start_run(scenes / task, "lvt", task, tmp_path / "one", settings)
        assert [r["train"]["loss"] for r in rows(run)] == pytest.approx(
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
    process = launch("train", *where, *options(short), launcher=(*TORCHRUN, tmp_path / "failing.py"))
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    reported = [line for line in errors.splitlines() if line.startswith("error ")]
    assert len(reported) == 1 and message in reported[0]
    assert "featherbone/engine" not in errors, "a traceback"


def test_a_mistake_in_an_option_is_reported_once(launch, drawn, tmp_path):
    where = ("--data", drawn, "--model", "lvt", "--out", tmp_path / "run")
    process = launch("train", *where, "--lr", "-1", launcher=(*TORCHRUN, "-m"))
    _, errors = process.communicate(timeout=300)
    assert [line for line in errors.splitlines() if line.startswith("error ")] == ["error lr -1.0 is outside 0 to 1000"]


def test_batch_statistics_are_shared_on_cards_only(train, short, tmp_path):
    with pytest.raises(BadOption, match="omit it: running statistics are those of all processes"):
        train(**short, sync_batchnorm=True)
    assert not (tmp_path / "run").exists()
