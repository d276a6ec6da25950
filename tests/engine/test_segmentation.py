"""Runs whose result is a map, on drawn scenes."""

import json
import shutil

import numpy as np
import pytest
import torch

from featherbone.data.images import read_image
from featherbone.engine.job import Job
from featherbone.engine.optimiser import build_optimiser, build_schedule
from featherbone.engine.settings import complete
from featherbone.engine.train import evaluate_run, resume_run, start_run
from featherbone.errors import BadOption, FeatherboneError
from featherbone.metrics.metrics import Metrics
from featherbone.metrics.outcome import Outcome
from featherbone.tasks.card import Card
from featherbone.tasks.inference import Inference
from featherbone.tasks.run import load_task
from featherbone.tasks.semantic import class_weights
from featherbone.tasks.task import KINDS
from runs import Interrupted, rows, same_run, stop_after
from scenes import write_masks, write_panoptic

LIGHT = "mobilenetv3_small_050"
SMALL = {
    "segformer": "dim=32",
    "semantic_fpn": "dim=32,branch_dim=32",
    "panoptic_fpn_light": "dim=32,fc_dim=64,proposals=200",
    "panoptic_fpn": "dim=32,fc_dim=64,branch_dim=32,proposals=200",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """8 training and 4 validation scenes, 64 pixels wide, as masks and as segments."""
    folder = tmp_path_factory.mktemp("scenes")
    write_masks(folder / "semantic", 8, 4, (64, 64))
    write_panoptic(folder / "panoptic", 8, 4, (64, 64))
    return folder


SETTINGS = dict(
    image_size=64, batch_size=4, epochs=2, warmup_epochs=1, device="cpu", workers=0, scale=(0.5, 1.5), photometric=0.5,
    expand=1.5, ema=0.9,
)  # fmt: skip


@pytest.fixture
def segment(scenes, tmp_path):
    """Train in this process; the run folder."""

    def run(name="run", model=LIGHT, task="semantic", data=None, **settings):
        settings.setdefault("head_args", SMALL.get(settings.get("head") or next(iter(KINDS[task].heads)), ""))
        return start_run(data or scenes / task, model, task, tmp_path / name, complete(task=task, **settings))

    return run


def four(folder, write, maps, images):
    """Four scenes to train on, and the same four to validate on."""
    write(folder, 4, 4, (96, 96), seed=3)
    for place in (maps, images):
        shutil.rmtree(folder / place.format("val"))
        shutil.copytree(folder / place.format("train"), folder / place.format("val"))
    if write is write_panoptic:
        shutil.copy(folder / "annotations/panoptic_train.json", folder / "annotations/panoptic_val.json")
    return folder


MEMORISE = dict(
    image_size=96, batch_size=4, device="cpu", workers=0, scale=(1.0, 1.0), photometric=0.0, flip=0.0, eval_every=1000
)


@pytest.mark.parametrize(("head", "more"), [("segformer", dict(head_args="dim=64")), ("semantic_fpn", dict(dice=1.0))])
def test_four_maps_are_learned_by_heart(segment, tmp_path, head, more):
    """Shown at twice their size, for logits have a quarter of the input's sides and the shapes are thin."""
    data = four(tmp_path / "four", write_masks, "masks/{}", "images/{}")
    settings = MEMORISE | dict(image_size=192, lr=5e-3, epochs=160, class_share=1.0) | more
    run = segment(data=data, head=head, **settings)
    card = Card.read(run)
    assert card.metrics["mIoU"] > 0.9 and card.metrics["images"] == 4
    losses = [row["train"]["loss"] for row in rows(run)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("head", ["panoptic_fpn_light", pytest.param("panoptic_fpn", marks=pytest.mark.slow)])
def test_four_panoptic_maps_are_learned_by_heart(segment, tmp_path, head):
    data = four(tmp_path / "four", write_panoptic, "panoptic_{}", "{}")
    run = segment(task="panoptic", data=data, head=head, lr=2e-3, epochs=150, **MEMORISE)
    metrics = Card.read(run).metrics
    assert metrics["PQ"] > 0.7 and metrics["PQ_things"] > 0.7 and metrics["PQ_stuff"] > 0.7


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_a_run_tells_what_it_is(segment, task):
    run = segment(task=task, **SETTINGS)
    card = Card.read(run)
    assert (card.task, card.head, card.preprocessing.rule) == (task, next(iter(KINDS[task].heads)), "fit")
    assert card.metrics["images"] == 4 and card.data["train"] == 8
    assert card.things == ((0, 1, 2, 3, 4, 5) if task == "panoptic" else ())
    for picture in ("first_batch.jpg", "predictions.jpg"):
        assert read_image(run / picture).width > 300
    page = (run / "report.html").read_text()
    assert all(name in page for name in (*card.classes, "lowest scores", card.backbone))
    again, evaluated = evaluate_run(run, None, None, "cpu", 0)
    key = "mIoU" if task == "semantic" else "PQ"
    assert again[key] == pytest.approx(card.metrics[key]) and evaluated.classes == card.classes


@pytest.mark.parametrize(("task", "head"), [(task, h) for task in ("semantic", "panoptic") for h in KINDS[task].heads])
def test_an_interrupted_run_ends_in_the_same_bits(segment, monkeypatch, task, head):
    settings = SETTINGS | dict(head=head, save_seconds=0, accumulate=2)
    whole = segment("whole", task=task, **settings)
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(Interrupted):
            segment("parts", task=task, **settings)
    same_run(whole, resume_run(whole.parent / "parts", {}))


def test_workers_change_nothing(segment):
    same_run(segment("none", **SETTINGS), segment("two", **SETTINGS | dict(workers=2)))


def test_losses_are_as_asked(segment, scenes):
    run = segment(**SETTINGS, dice=0.5, class_weights="balanced", hard_share=0.3)
    assert rows(run)[0]["train"].keys() == {"loss", "pixel", "dice"}
    job = Job("semantic", scenes / "semantic", complete(task="semantic"))
    counts = np.zeros(9)
    for i in range(len(job.train)):
        counts += np.bincount(job.train.truth(i).ravel(), minlength=256)[:9]
    expected = np.where(counts > 0, (np.median(counts[counts > 0]) / np.maximum(counts, 1)).clip(0.1, 10), 1)
    assert class_weights("balanced", job.train) == pytest.approx(tuple(expected))


def test_a_panoptic_set_serves_every_dense_task(segment, scenes):
    """Objects, masks and classes come from the same maps."""
    data = scenes / "panoptic"
    more = dict(data=data, **SETTINGS | dict(epochs=1))
    assert Card.read(segment("semantic", **more)).classes[-1] == "brick"
    boxes = segment("boxes", task="detection", head_args="dim=16,num_convs=1", **more)
    masks = segment("masks", task="instance", head_args="dim=16,fc_dim=16", **more)
    assert Card.read(boxes).metrics["objects"] == Card.read(masks).metrics["objects"] > 0
    assert len(Card.read(masks).classes) == 6


def test_other_ways_to_look_are_measured(segment):
    run = segment(**SETTINGS)
    plain = evaluate_run(run, None, None, "cpu", 0)[0]
    other = evaluate_run(run, None, None, "cpu", 0, Inference(slide=True, scales=(0.75, 1.0), mirror=True))[0]
    assert "loss" in plain and "loss" not in other and 0 <= other["mIoU"] <= 1 and other["images"] == 4
    panoptic = segment("panoptic", task="panoptic", **SETTINGS | dict(epochs=1))
    with pytest.raises(BadOption, match="mirror has no effect for panoptic"):
        evaluate_run(panoptic, None, None, "cpu", 0, Inference(mirror=True))


def test_the_rate_falls_by_a_power():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2, 2))], lr=1.0)
    settings = complete(task="semantic", epochs=4, warmup_epochs=0, lr=1.0, min_lr=0.1, power=0.9)
    schedule = build_schedule(optimiser, settings, steps_per_epoch=5)
    rates = []
    for step in range(20):
        schedule.step_update(step)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1 + 0.9 * (1 - step / 20) ** 0.9 for step in range(20)])


def test_the_head_may_learn_faster(segment):
    _, task = load_task(segment(**SETTINGS | dict(epochs=1)))
    settings = complete(task="semantic", epochs=2, lr=1.0, head_lr=10.0, warmup_epochs=0, layer_decay=0.5)
    optimiser = build_optimiser(task, task.backbone, settings)
    build_schedule(optimiser, settings, steps_per_epoch=5).step_update(0)
    inside = {id(p) for p in task.backbone.parameters()}
    for group in optimiser.param_groups:
        for p in group["params"]:
            assert group["lr"] <= 1.0 if id(p) in inside else group["lr"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("task", "wrong", "message"),
    [
        ("semantic", dict(head="segformr"), "did you mean segformer"),
        ("semantic", dict(mosaic=0.5), "has no effect for semantic"),
        ("panoptic", dict(mosaic=0.5), "has no effect for panoptic"),
        ("panoptic", dict(dice=0.5), "has no effect for panoptic"),
        ("semantic", dict(class_weights="1,2"), "9 numbers"),
        ("semantic", dict(class_weights="heavy"), "9 numbers"),
        ("semantic", dict(head_args="depth=3"), "does not take"),
        ("panoptic", dict(head_args="branch_dim=5"), "not a multiple of 4"),
        ("semantic", dict(hard_share=0.0), "outside"),
    ],
)
def test_training_refuses(segment, task, wrong, message):
    with pytest.raises(FeatherboneError, match=message):
        segment(task=task, **SETTINGS | wrong)


class Given(Metrics):
    """Metrics whose annotations are the scores of the images."""

    def update(self, index, truth, record):
        return truth

    def merge(self, other):
        pass

    def compute(self):
        return {}


def test_only_what_is_shown_is_kept():
    outcome = Outcome(1000, Given(), is_map=True)
    for index in range(1000):
        outcome.add(index, 0.5 if index == 777 else 1 - index / 1e6, f"record {index}")
    outcome.finish()
    assert outcome.worst[0] == 777 and len(outcome.worst) == 16 and len(outcome.spread) == 12
    assert set(outcome.records) == {*outcome.spread, *outcome.worst} and len(outcome.records) <= 28
    assert len(outcome.scores) == 1000


@pytest.mark.parametrize("backbone", ["lightvit_tiny", "xformer_small", "lit_tiny", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_other_backbones_train(segment, backbone, task):
    more = dict(epochs=1, precision="bf16", image_size=96, layer_decay=0.8, recompute=True)  # bf16: no map of one pixel
    run = segment(model=backbone, task=task, **SETTINGS | more)
    assert rows(run)[0]["train"]["loss"] > 0 and json.loads((run / "card.json").read_text())["head"]
