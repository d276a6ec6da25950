import json
import re
from typing import get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import featherbone
from featherbone.data.images import read_image
from featherbone.engine.optimiser import build_optimiser, build_schedule, freeze_parts, set_training
from featherbone.engine.settings import OPTIONS, Settings, command_options, complete
from featherbone.errors import BadOption, FeatherboneError
from featherbone.metrics.classification import ClassCounts
from featherbone.metrics.intervals import interval_of
from featherbone.recipes import RECIPES, find_recipe
from featherbone.tasks.backbone import build_backbone
from featherbone.tasks.card import Card
from featherbone.tasks.task import KINDS
from runs import rows, same_run


def test_a_run_tells_what_it_is(train, short):
    run = train(**short)
    card = json.loads((run / "card.json").read_text())
    assert card["task"] == "classification" and card["backbone"] == "test_resnet" and card["data"]["train"] == 24
    assert card["classes"] == ["circle", "cross", "ring", "square", "star", "triangle"]
    assert card["settings"]["mixup"] == 0.2 and set(card["settings"]) == set(OPTIONS)
    assert card["weights_licence"].startswith("yours")
    best = max(json.loads(line)["val"]["top1"] for line in (run / "metrics.jsonl").read_text().splitlines())
    assert card["metrics"]["top1"] == best
    page = (run / "report.html").read_text()
    assert all(name in page for name in card["classes"])
    low, high = card["metrics"]["interval"]["top1"]
    assert low < best < high and f"{low:.3f} to {high:.3f}" in page and "over images, for this seed" in page
    read = ClassCounts.read(run / "report.npz", card["data"]["val_fingerprint"])
    assert interval_of(read) == (low, high) and read.correct.mean() == best
    assert read_image(run / "first_batch.jpg").width > 100


def test_epochs_and_minutes_exclude_each_other():
    with pytest.raises(BadOption, match="epochs and minutes both state how long to train; omit one"):
        complete(epochs=3, minutes=2)


def test_a_model_made_for_one_size_is_trained_for_another(train, short, drawn):
    run = train(model="test_vit", **{**short, "image_size": 64, "epochs": 1})
    assert Card.read(run).model_args == {"img_size": [64, 64]}
    assert featherbone.evaluate(run, device="cpu", workers=0).metrics["top1"] == Card.read(run).metrics["top1"]


def test_a_time_determines_the_epochs(train, short, capsys):
    run = train("timed", **{name: value for name, value in short.items() if name != "epochs"}, minutes=0.01)
    epochs = Card.read(run).settings["epochs"]
    assert epochs >= 1 and f"0.01 minutes are enough for {epochs} epoch" in capsys.readouterr().err
    same_run(run, train("counted", **{**short, "epochs": epochs}))


def test_training_stops_when_the_metric_no_longer_improves(train, short, drawn, capsys):
    settings = {**short, "lr": 0.0, "warmup_lr": 0.0, "min_lr": 0.0, "epochs": 9, "patience": 2, "eval_every": 1}
    run = train(**settings)
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3] and (run / "report.html").is_file()
    assert "stopped after epoch 3: none was better than epoch 1" in capsys.readouterr().err
    featherbone.train(resume=run)
    assert len(rows(run)) == 3


def test_training_is_repeatable_and_the_seed_matters(train, short):
    first, second, third = train("a", **short), train("b", **short), train("c", **short, seed=1)
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    assert (first / "weights.safetensors").read_bytes() != (third / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("model", ["mobilenetv3_small_050", "lvt_cls"])
@pytest.mark.parametrize("more", [dict(precision="bf16", recompute=True, layer_decay=0.7, tracker=("tensorboard",))])
def test_other_models_and_means(train, short, model, more):
    if model == "mobilenetv3_small_050":
        more = {**more, "freeze": 2}
    else:
        more = {**more, "model_args": "mix_token=True,recursion=1"}
    run = train(model=model, **short, **more)
    losses = [json.loads(line)["train"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert ("aux" in losses[0]) == (model == "lvt_cls")
    assert list((run / "trackers/tensorboard").glob("events*"))


def test_learning_from_a_teacher(train, short):
    teacher = train("teacher", **short)
    for kind in ("soft", "hard"):
        run = train(kind, model="mobilenetv3_small_050", **short, teacher=str(teacher), distillation=kind)
        assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["train"]["teacher"] > 0
    with pytest.raises(FeatherboneError, match="teach"):
        train("other", **short, teacher="no_such_teacher")


def test_frozen_parts_do_not_move(train, short):
    short |= dict(ema=None, weight_decay=0.1)
    run = train(model="mobilenetv3_small_050", **short, freeze=-1)
    start = build_backbone("mobilenetv3_small_050", num_classes=6)
    torch.manual_seed(0)
    start = build_backbone("mobilenetv3_small_050", num_classes=6).state_dict()
    trained = load_file(run / "weights.safetensors")
    moved = {name for name, value in start.items() if not torch.equal(trained[f"backbone.{name}"], value)}
    assert moved == {"classifier.weight", "classifier.bias"}  # running statistics stay, too


def test_too_many_frozen_parts():
    with pytest.raises(BadOption, match="parts"):
        freeze_parts(build_backbone("lvt"), 100)


def test_frozen_parts_are_the_first():
    net = build_backbone("lvt")
    names = freeze_parts(net, 2)
    assert names and all(name.startswith(("stages.0", "stages.1")) for name in names)
    assert not any(parameter.requires_grad for parameter in net.stages[0].parameters())
    set_training(net)
    assert not net.stages[0].training and net.stages[3].training


def test_rates_fall_with_depth_and_decay_spares_vectors():
    net = build_backbone("lvt")
    optimiser = build_optimiser(net, net, complete(layer_decay=0.5))
    scale = {id(p): group["lr_scale"] for group in optimiser.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    named = dict(net.named_parameters())
    assert len(scale) == len(named)
    first, last = named["stages.0.embed.proj.weight"], named["stages.3.blocks.1.mlp.fc2.weight"]
    assert scale[id(first)] < scale[id(last)] < scale[id(named["head.fc.weight"])] == 1
    assert all((decay[id(p)] == 0) == (p.ndim <= 1) for p in named.values())


def test_a_model_may_slow_some_of_its_parameters():
    net = build_backbone("lvt")
    net.lr_scales = lambda: {r"\.atrous$": 0.01}
    optimiser = build_optimiser(net, net, complete())
    slow = {id(p): group.get("lr_scale", 1) for group in optimiser.param_groups for p in group["params"]}
    assert len(slow) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        assert slow[id(parameter)] == (0.01 if name.endswith(".atrous") else 1)


def test_the_rate_warms_up_and_falls_to_its_end():
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimiser = torch.optim.AdamW([parameter], lr=1e-3)
    schedule = build_schedule(optimiser, complete(epochs=10, warmup_epochs=2, lr=1e-3, min_lr=1e-5), steps_per_epoch=10)
    rates = []
    for step in range(120):
        schedule.step_update(step)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-6) and max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[20:100] == sorted(rates[20:100], reverse=True) and rates[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    "wrong,message",
    [
        (dict(epoch=3), "did you mean epochs"),
        (dict(epochs=0), "outside 1"),
        (dict(lr=float("nan")), "outside"),
        (dict(batch_size=True), "outside"),
        (dict(precision="fp8"), "not one of auto"),
        (dict(preset="tiny"), "small-data"),
        (dict(model_args="3"), "write keyword arguments"),
    ],
)
def test_settings_refuse(wrong, message):
    with pytest.raises(BadOption, match=message):
        complete(**wrong)


@pytest.mark.parametrize(
    "wrong,message",
    [
        (dict(batch_size=7, accumulate=2), "multiple of 2"),
        (dict(device="warp"), "not available"),
        (dict(precision="fp16", device="cpu"), "GPU"),
        (dict(model_args="depth=3"), "does not take"),
        (dict(checkpoint="no/such/file"), "no such checkpoint"),
        (dict(optimizer="adamm"), "optimi"),
        (dict(auto_augment="rnd-m9"), "augment"),
        (dict(model="lvt", lr=1e3, clip_grad=None, warmup_epochs=0, epochs=3), "the loss became"),
    ],
)
def test_training_refuses(train, short, wrong, message):
    with pytest.raises(FeatherboneError, match=message):
        train(**short | wrong)


def test_every_number_has_a_range():
    for name, value in Settings().to_dict().items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = OPTIONS[name].metadata["range"]
            assert low <= value <= high


def test_given_precedes_recipe_precedes_preset_precedes_task_precedes_default():
    assert complete(task="panoptic").clip_grad == 10 and complete().clip_grad is None
    assert complete().epochs == Settings().epochs
    assert complete("small-data").epochs == 100
    assert complete("small-data", {"epochs": 7}).epochs == 7
    assert complete("small-data", {"epochs": 7}, epochs=3).epochs == 3


@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_fills_what_a_recipe_leaves_open(name):
    recipe, task = find_recipe(name), re.search(r"--task (\w+)", RECIPES[name].__doc__)
    task = task[1] if task else "classification"
    both = complete("small-data", recipe, task)
    for option, value in KINDS[task].presets["small-data"].items():
        assert getattr(both, option) == recipe.get(option, value)
    assert both != complete(None, recipe, task)


def test_values_are_converted_to_the_types_of_their_fields(tmp_path):
    settings = complete(milestones=[8, 11], lr=np.float64(1e-3), image_size=[64, 96], checkpoint=tmp_path)
    assert settings.milestones == (8, 11) and settings.image_size == (64, 96) and settings.checkpoint == str(tmp_path)
    assert type(settings.lr) is float
    with pytest.raises(BadOption, match="tracker"):
        complete(tracker=["wandbe"])


def test_the_help_shows_the_defaults_of_each_task():
    hints = get_type_hints(command_options(), include_extras=True)
    texts = {name: hint.__metadata__[0].help_behavior_hint for name, hint in hints.items()}
    assert texts["batch_size"] == "(default: 32; for all tasks but classification and multilabel 8)"
    assert texts["clip_grad"] == "(default: none; for detection, instance, panoptic 10.0)"
