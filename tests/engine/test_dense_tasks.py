"""Runs of detection, instance, semantic and panoptic segmentation on drawn scenes."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from featherbone.data.images import read_image
from featherbone.engine.job import Job
from featherbone.engine.optimiser import build_optimiser, build_schedule
from featherbone.engine.settings import OPTIONS, complete
from featherbone.engine.train import evaluate_run, resume_run, start_run
from featherbone.errors import BadOption, BadRun, FeatherboneError
from featherbone.metrics.metrics import Metrics
from featherbone.metrics.outcome import Outcome
from featherbone.tasks.card import Card
from featherbone.tasks.inference import Inference
from featherbone.tasks.run import load_task
from featherbone.tasks.semantic import class_weights
from featherbone.tasks.task import KINDS
from runs import Interrupted, rows, same_run, stop_after
from scenes import write_coco, write_masks, write_panoptic

NET = "test_resnet"
WRITE = {"detection": write_coco, "instance": write_coco, "semantic": write_masks, "panoptic": write_panoptic}
SMALL = {
    "retinanet": "dim=16,num_convs=1",
    "yolov3": "dim=16",
    "nms_free": "dim=16,num_convs=1",
    "nms_free_masks": "dim=16,num_convs=1,mask_dim=8",
    "nms_free_panoptic": "dim=16,num_convs=1,mask_dim=8",
    "mask_rcnn": "dim=16,fc_dim=16,proposals=12",
    "segformer": "dim=16",
    "semantic_fpn": "dim=16,branch_dim=16",
    "panoptic_fpn_light": "dim=16,fc_dim=16,branch_dim=16,proposals=12",
    "panoptic_fpn": "dim=16,fc_dim=16,branch_dim=16,proposals=12",
}
"""Narrow heads."""
HEADS = [(kind.name, head) for kind in KINDS.values() for head in kind.heads]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """8 training and 4 validation scenes of 64 pixels for each task, drawn once."""
    root = tmp_path_factory.mktemp("scenes")
    for write in dict.fromkeys(WRITE.values()):
        write(root / write.__name__, 8, 4, (64, 64))
    return lambda task: root / WRITE[task].__name__


RANDOM = dict(
    image_size=64, batch_size=4, epochs=2, warmup_epochs=1, device="cpu", workers=0, scale=(0.5, 1.5), photometric=0.5,
    expand=1.5, ema=0.9,
)  # fmt: skip
"""A run of seconds with augmentation that is random."""
OBJECTS = RANDOM | dict(iou_crop=0.3, mosaic=0.5)


@pytest.fixture
def dense(scenes, tmp_path):
    """Train in this process; the run folder."""

    def run(name="run", model=NET, task="detection", data=None, **settings):
        head = settings.get("head") or next(iter(KINDS[task].heads))
        settings.setdefault("head_args", SMALL.get(head, ""))
        return start_run(data or scenes(task), model, task, tmp_path / name, complete(task=task, **settings))

    return run


def some_of_coco(folder, kept):
    """Scenes to train on, and the same to validate on; the last of eight has no objects."""
    write_coco(folder, 8, 8, (96, 96), seed=3)
    content = json.loads((folder / "annotations/instances_train.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    shutil.rmtree(folder / "val")
    (folder / "train").rename(folder / "all")
    for split in ("train", "val"):
        others = lambda _, names: {name for name in names if int(name[:5]) not in kept}  # noqa: E731
        shutil.copytree(folder / "all", folder / split, ignore=others)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    shutil.rmtree(folder / "all")


def two_maps(folder, write):
    """Two scenes to train on, and the same two to validate on."""
    write(folder, 2, 2, (96, 96), seed=3)
    for place in ("masks/{}", "images/{}") if write is write_masks else ("panoptic_{}", "{}"):
        shutil.rmtree(folder / place.format("val"))
        shutil.copytree(folder / place.format("train"), folder / place.format("val"))
    if write is write_panoptic:
        shutil.copy(folder / "annotations/panoptic_train.json", folder / "annotations/panoptic_val.json")


MEMORISE = dict(
    image_size=96, batch_size=4, device="cpu", workers=0, scale=(1.0, 1.0), photometric=0.0, flip=0.0, eval_every=1000,
    warmup_epochs=5, lr=4e-3,
)  # fmt: skip
MASKS = dict(head_args="dim=32,fc_dim=64,proposals=60", batch_size=2, epochs=75, warmup_epochs=1)
PROTOTYPES = MASKS | dict(head_args="dim=32,num_convs=1,mask_dim=32")
LEARNED = {
    "retinanet": (dict(head_args="dim=32,num_convs=1", epochs=90), dict(AP50=0.9)),
    "yolov3": (dict(head_args="dim=24", epochs=60, warmup_epochs=1), dict(AP50=0.9)),
    "nms_free": (dict(head_args="dim=32,num_convs=1", epochs=60, warmup_epochs=1), dict(AP50=0.9)),
    "mask_rcnn": (MASKS, dict(AP50=0.9, mask_AP50=0.9)),
    "nms_free_masks": (PROTOTYPES, dict(AP50=0.9, mask_AP50=0.9)),
    # at twice the size, for logits have a quarter of the input's sides and the shapes are thin
    "segformer": (
        dict(head_args="dim=64", image_size=192, batch_size=2, lr=1e-2, epochs=70, warmup_epochs=1, class_share=1.0)
        | dict(class_weights="balanced"),
        dict(mIoU=0.9),
    ),
    "panoptic_fpn_light": (MASKS | dict(epochs=100), dict(PQ=0.7, PQ_things=0.7, PQ_stuff=0.7)),
    "nms_free_panoptic": (PROTOTYPES, dict(PQ=0.7, PQ_things=0.7, PQ_stuff=0.7)),
}
"""Settings of a run that memorises its scenes, and what its metrics exceed."""


@pytest.mark.parametrize(("task", "head"), [pair for pair in HEADS if pair[1] in LEARNED])
def test_some_scenes_are_memorised(dense, tmp_path, task, head):
    """Boxes of four scenes, one of which has none; masks and maps of two."""
    write, (settings, minimum) = WRITE[task], LEARNED[head]
    kept = {0, 1, 2, 7} if task == "detection" else {0, 1}
    if write is write_coco:
        some_of_coco(tmp_path / "some", kept)
    else:
        two_maps(tmp_path / "some", write)
    run = dense(task=task, head=head, data=tmp_path / "some", **MEMORISE | settings)
    metrics = Card.read(run).metrics
    assert metrics["images"] == len(kept)
    assert all(metrics[name] > value for name, value in minimum.items()), {name: metrics[name] for name in minimum}


@pytest.mark.parametrize("task", ["detection", "semantic", "panoptic"])
def test_a_run_states_what_it_is(dense, task):
    run = dense(task=task, **RANDOM)
    card = Card.read(run)
    assert (card.task, card.head, card.preprocessing.rule) == (task, next(iter(KINDS[task].heads)), "fit")
    assert card.preprocessing.width == 64 and set(card.settings) == set(OPTIONS)
    assert card.metrics["images"] == 4 and card.data["train"] == 8
    assert card.things == ((0, 1, 2, 3, 4, 5) if task == "panoptic" else ())
    for picture in ("first_batch.jpg", "predictions.jpg"):
        assert read_image(run / picture).width > 300
    page = (run / "report.html").read_text()
    assert all(name in page for name in (*card.classes, "lowest scores", card.backbone))
    again, evaluated = evaluate_run(run, None, None, "cpu", 0)
    key = KINDS[task].headline
    assert again[key] == pytest.approx(card.metrics[key]) and evaluated.classes == card.classes
    if task == "detection":
        assert "Precision and recall" in page and "faster-coco-eval" in page and card.metrics["loss"] > 0
        assert isinstance(json.loads((run / "detections.json").read_text()), list)


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_an_interrupted_run_ends_in_the_same_bits(dense, monkeypatch, task, head):
    random = OBJECTS if "mosaic" in KINDS[task].options else RANDOM
    settings = random | dict(head=head, save_seconds=0, accumulate=2)
    whole = dense("whole", task=task, **settings)
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(Interrupted):
            dense("parts", task=task, **settings)
    same_run(whole, resume_run(whole.parent / "parts", {}))


@pytest.mark.parametrize("task", ["detection", "semantic"])
def test_workers_have_no_effect_on_the_result(dense, task):
    random = OBJECTS if task == "detection" else RANDOM
    same_run(dense("none", task=task, **random), dense("two", task=task, **random | dict(workers=2)))


def test_a_backbone_comes_from_a_run_of_another_task(dense, train, short):
    """Without an update, every weight of the backbone is that of the classifier."""
    classifier = train("classifier", model=NET, **short)
    settings = OBJECTS | dict(epochs=1, ema=None, lr=0.0, min_lr=0.0, warmup_epochs=0, freeze_norm=True)
    run = dense(backbone_from=str(classifier), **settings)
    source, target = load_file(classifier / "weights.safetensors"), load_file(run / "weights.safetensors")
    inside = {name: value for name, value in target.items() if name.startswith("pyramid.backbone.")}
    assert len(inside) > 20
    assert all(torch.equal(value, source[name.removeprefix("pyramid.")]) for name, value in inside.items())
    with pytest.raises(BadRun, match="not lvt"):
        dense("other", model="lvt", backbone_from=str(classifier), **settings)


def test_frozen_norms_stay(dense):
    _, task = load_task(dense(model="mobilenetv3_small_050", **OBJECTS, freeze_norm=True))
    norms = [m for m in task.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all((m.running_mean == 0).all() and (m.weight == 1).all() for m in norms)


def test_evaluation_may_wait(dense):
    history = rows(dense(**OBJECTS | dict(epochs=3, eval_every=2)))
    assert [bool(row["val"]) for row in history] == [False, True, True]


def test_losses_follow_the_settings(dense, scenes):
    run = dense(task="semantic", **RANDOM, dice=0.5, class_weights="balanced", hard_share=0.3)
    assert rows(run)[0]["train"].keys() == {"loss", "pixel", "dice"}
    job = Job("semantic", scenes("semantic"), complete(task="semantic"))
    counts = np.zeros(9)
    for i in range(len(job.train)):
        counts += np.bincount(job.train.truth(i).ravel(), minlength=256)[:9]
    expected = np.where(counts > 0, (np.median(counts[counts > 0]) / np.maximum(counts, 1)).clip(0.1, 10), 1)
    assert class_weights("balanced", job.train) == pytest.approx(tuple(expected))


def test_a_panoptic_set_serves_every_dense_task(dense, scenes):
    """Objects, masks and classes come from the same maps."""
    more = dict(data=scenes("panoptic"), **RANDOM | dict(epochs=1))
    assert Card.read(dense("semantic", task="semantic", **more)).classes[-1] == "brick"
    boxes, masks = (Card.read(dense(task, task=task, **more)) for task in ("detection", "instance"))
    assert boxes.metrics["objects"] == masks.metrics["objects"] > 0 and len(masks.classes) == 6


def test_views_are_evaluated(dense):
    run = dense(task="semantic", **RANDOM)
    plain = evaluate_run(run, None, None, "cpu", 0)[0]
    other = evaluate_run(run, None, None, "cpu", 0, Inference(slide=True, scales=(0.75, 1.0), mirror=True))[0]
    assert "loss" in plain and "loss" not in other and 0 <= other["mIoU"] <= 1 and other["images"] == 4
    with pytest.raises(BadOption, match="tile has no effect for semantic"):
        evaluate_run(run, None, None, "cpu", 0, Inference(tile=32))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            dict(task="detection", epochs=4, schedule="step", milestones=(2, 3), warmup_epochs=0, lr=1.0),
            [1.0] * 20 + [0.1] * 10 + [0.01] * 10,
        ),
        (
            dict(task="semantic", epochs=8, warmup_epochs=0, lr=1.0, min_lr=0.1, power=0.9),
            [0.1 + 0.9 * (1 - step / 80) ** 0.9 for step in range(80)],
        ),
    ],
)
def test_the_learning_rate_falls(settings, expected):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2, 2))], lr=1.0)
    schedule = build_schedule(optimiser, complete(**settings), steps_per_epoch=10)
    rates = []
    for step in range(len(expected)):
        schedule.step_update(step)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx(expected)


def test_the_head_may_have_a_higher_rate(dense):
    _, task = load_task(dense(task="semantic", **RANDOM | dict(epochs=1)))
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
        ("detection", dict(head="retinanett"), "did you mean retinanet"),
        ("detection", dict(head="mask_rcnn"), "for detection"),
        ("detection", dict(head_args="depth=3"), "does not take"),
        ("detection", dict(backbone_from="no/such/run"), "not a run folder"),
        ("detection", dict(mixup=0.2), "has no effect for detection"),
        ("detection", dict(scale=(1.5, 0.5)), "the minimum comes first"),
        ("detection", dict(schedule="step"), "milestones"),
        ("detection", dict(model_args="nonsense=1"), "does not take"),
        ("semantic", dict(head="segformr"), "did you mean segformer"),
        ("semantic", dict(mosaic=0.5), "has no effect for semantic"),
        ("panoptic", dict(dice=0.5), "has no effect for panoptic"),
        ("semantic", dict(class_weights="1,2"), "9 numbers"),
        ("semantic", dict(class_weights="heavy"), "9 numbers"),
        ("semantic", dict(head_args="depth=3"), "does not take"),
        ("panoptic", dict(head_args="branch_dim=5"), "not a multiple of 4"),
        ("semantic", dict(hard_share=0.0), "outside"),
    ],
)
def test_training_refuses(dense, task, wrong, message):
    with pytest.raises(FeatherboneError, match=message):
        dense(task=task, **RANDOM | wrong)


def test_classification_refuses_what_is_for_objects():
    with pytest.raises(BadOption, match="mosaic has no effect for classification"):
        complete(mosaic=1.0)


class Given(Metrics):
    """Metrics whose annotations are the scores of the images."""

    def update(self, index, truth, record):
        return truth

    def merge(self, other):
        pass

    def compute(self):
        return {}


def test_only_the_maps_that_are_shown_are_kept():
    outcome = Outcome(1000, Given(), "mIoU", is_map=True)
    for index in range(1000):
        outcome.add(index, 0.5 if index == 777 else 1 - index / 1e6, f"record {index}")
    outcome.finish()
    assert outcome.worst[0] == 777 and len(outcome.worst) == 16 and len(outcome.spread) == 12
    assert set(outcome.records) == {*outcome.spread, *outcome.worst} and len(outcome.scores) == 1000


@pytest.mark.parametrize(
    ("backbone", "task"),
    [
        ("lvt", "detection"),
        ("lightvit_tiny", "detection"),
        ("lit_tiny", "panoptic"),
        ("xformer_small", "semantic"),
        ("vit_tiny_patch16_224", "detection"),
    ],
)
def test_other_backbones_train(dense, backbone, task):
    """Three strides, a class token, or one stride and a fixed input: every backbone yields what the head takes."""
    more = dict(epochs=1, precision="bf16", image_size=96, layer_decay=0.8, recompute=True)  # bf16: no map of one pixel
    run = dense(model=backbone, task=task, **RANDOM | more)
    assert rows(run)[0]["train"]["loss"] > 0 and Card.read(run).backbone == backbone
