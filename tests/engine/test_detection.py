"""Runs that find objects, on drawn scenes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from featherbone.data.images import read_image
from featherbone.engine.optimiser import build_schedule
from featherbone.engine.settings import OPTIONS, complete
from featherbone.engine.train import evaluate_run, resume_run, start_run
from featherbone.errors import BadOption, BadRun, FeatherboneError
from featherbone.tasks.card import Card
from featherbone.tasks.run import load_task
from runs import Interrupted, rows, same_run, stop_after
from scenes import write_coco

LIGHT = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """8 training and 4 validation scenes, 64 pixels wide, in COCO's layout."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_coco(folder, 8, 4, (64, 64))
    return folder


@pytest.fixture
def objects():
    """Settings of a run of seconds on `scenes`, with everything on that draws at random."""
    return dict(
        image_size=64,
        batch_size=4,
        epochs=2,
        warmup_epochs=1,
        device="cpu",
        workers=0,
        head="retinanet",
        head_args="dim=16,num_convs=1",
        scale=(0.5, 1.5),
        photometric=0.5,
        expand=1.5,
        iou_crop=0.3,
        mosaic=0.5,
        ema=0.9,
    )


@pytest.fixture
def find(scenes, tmp_path):
    """Train a detector in this process; the run folder."""

    def run(name="run", model=LIGHT, task="detection", data=scenes, **settings):
        return start_run(data, model, task, tmp_path / name, complete(task=task, **settings))

    return run


def four(folder):
    """Four scenes to train on, and the same four to validate on: three with objects, one without."""
    write_coco(folder, 8, 8, (96, 96), seed=3)
    marked = json.loads((folder / "annotations/instances_train.json").read_text())
    kept = {0, 1, 2, 7}
    marked["images"] = [image for image in marked["images"] if image["id"] in kept]
    marked["annotations"] = [a for a in marked["annotations"] if a["image_id"] in kept]
    shutil.rmtree(folder / "val")
    (folder / "train").rename(folder / "all")
    for split in ("train", "val"):
        others = lambda _, names: {name for name in names if int(name[:5]) not in kept}  # noqa: E731
        shutil.copytree(folder / "all", folder / split, ignore=others)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(marked))
    shutil.rmtree(folder / "all")
    return folder


MEMORISE = dict(
    image_size=96, batch_size=4, device="cpu", workers=0, scale=(1.0, 1.0), photometric=0.0, flip=0.0, eval_every=1000
)


@pytest.mark.parametrize(
    ("model", "head", "more"),
    [
        ("lvt", "retinanet", dict(head_args="dim=64,num_convs=2", lr=1e-3, epochs=100)),
        ("xformer_small", "yolov3", dict(lr=1e-3, epochs=120)),
    ],
)
def test_four_images_are_learned_by_heart(find, tmp_path, model, head, more):
    run = find(model=model, data=four(tmp_path / "four"), head=head, **MEMORISE, **more)
    card = Card.read(run)
    assert card.metrics["AP50"] > 0.9 and card.metrics["images"] == 4
    losses = [row["train"]["loss"] for row in rows(run)]
    assert losses[-1] < 0.2 * losses[0]


def test_masks_are_learned_by_heart(find, tmp_path):
    run = find(
        model=LIGHT, task="instance", data=four(tmp_path / "four"), head="mask_rcnn",
        head_args="dim=32,fc_dim=64,proposals=200", lr=2e-3, epochs=120, **MEMORISE,
    )  # fmt: skip
    metrics = Card.read(run).metrics
    assert metrics["AP50"] > 0.9 and metrics["mask_AP50"] > 0.9


def test_a_run_tells_what_it_is(find, objects, scenes):
    run = find(**objects)
    card = Card.read(run)
    assert (card.task, card.head, card.head_args) == ("detection", "retinanet", {"dim": 16, "num_convs": 1})
    assert card.preprocessing.rule == "fit" and card.preprocessing.width == 64
    assert set(card.settings) == set(OPTIONS) and card.data["train"] == 8
    assert card.metrics["images"] == 4 and 0 <= card.metrics["AP"] <= 1 and card.metrics["loss"] > 0
    for picture in ("first_batch.jpg", "predictions.jpg"):
        assert read_image(run / picture).width > 300
    page = (run / "report.html").read_text()
    assert all(name in page for name in (*card.classes, "Precision and recall", "faster-coco-eval"))
    assert isinstance(json.loads((run / "detections.json").read_text()), list)
    assert evaluate_run(run, None, None, "cpu", 0)[0]["AP"] == pytest.approx(card.metrics["AP"])


@pytest.mark.parametrize(("task", "head"), [("detection", "yolov3"), ("instance", "mask_rcnn")])
def test_an_interrupted_run_ends_in_the_same_bits(find, objects, monkeypatch, task, head):
    objects |= dict(head=head, head_args="dim=16", save_seconds=0, accumulate=2)
    whole = find("whole", task=task, **objects)
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(Interrupted):
            find("parts", task=task, **objects)
    same_run(whole, resume_run(whole.parent / "parts", {}))


def test_workers_change_nothing(find, objects):
    same_run(find("none", **objects), find("two", **objects | dict(workers=2)))


def test_a_backbone_comes_from_a_run_of_another_task(find, objects, train, short):
    """Without an update, every weight of the backbone is that of the classifier."""
    classifier = train("classifier", model=LIGHT, **short)
    objects |= dict(epochs=1, ema=None, lr=0.0, min_lr=0.0, warmup_epochs=0, freeze_norm=True)
    run = find(backbone_from=str(classifier), **objects)
    source, target = load_file(classifier / "weights.safetensors"), load_file(run / "weights.safetensors")
    inside = {name: value for name, value in target.items() if name.startswith("pyramid.backbone.")}
    assert len(inside) > 50
    assert all(torch.equal(value, source[name.removeprefix("pyramid.")]) for name, value in inside.items())
    with pytest.raises(BadRun, match="not lvt"):
        find("other", model="lvt", backbone_from=str(classifier), **objects)


def test_frozen_norms_stay(find, objects):
    _, task = load_task(find(**objects, freeze_norm=True))
    torch.manual_seed(0)
    norms = [m for m in task.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all((m.running_mean == 0).all() and (m.weight == 1).all() for m in norms)


def test_evaluation_may_wait(find, objects):
    history = rows(find(**objects | dict(epochs=3, eval_every=2)))
    assert [bool(row["val"]) for row in history] == [False, True, True]


def test_the_rate_falls_in_steps():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2, 2))], lr=1.0)
    settings = complete(task="detection", epochs=4, schedule="step", milestones=(2, 3), warmup_epochs=0, lr=1.0)
    schedule = build_schedule(optimiser, settings, steps_per_epoch=10)
    rates = []
    for step in range(40):
        schedule.step_update(step)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0] * 20 + [0.1] * 10 + [0.01] * 10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(head="retinanett"), "did you mean retinanet"),
        (dict(head="mask_rcnn"), "for detection"),
        (dict(head_args="depth=3"), "does not take"),
        (dict(backbone_from="no/such/run"), "not a run folder"),
        (dict(mixup=0.2), "has no effect for detection"),
        (dict(scale=(1.5, 0.5)), "the minimum comes first"),
        (dict(schedule="step"), "milestones"),
        (dict(model_args="nonsense=1"), "does not take"),
    ],
)
def test_training_refuses(find, objects, wrong, message):
    with pytest.raises(FeatherboneError, match=message):
        find(**objects | wrong)


def test_classification_refuses_what_is_for_objects():
    with pytest.raises(BadOption, match="mosaic has no effect for classification"):
        complete(mosaic=1.0)


@pytest.mark.parametrize("backbone", ["lvt", "lightvit_tiny", "lit_tiny", "vit_tiny_patch16_224"])
def test_other_backbones_train(find, objects, backbone):
    """Three strides, a class token, or one stride and a fixed input: every backbone yields what the head asks for."""
    more = dict(epochs=1, precision="bf16", image_size=96, layer_decay=0.8, recompute=True)  # bf16: no map of one pixel
    run = find(model=backbone, **objects | more)
    assert rows(run)[0]["train"]["loss"] > 0
