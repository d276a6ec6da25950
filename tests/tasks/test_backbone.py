"""What may be said of a backbone by a card or an option: its architecture, not where its weights come from."""

import builtins

import pytest
import timm
import torch

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption, BadRun, UnknownModel
from featherbone.tasks.backbone import weights_licence
from featherbone.tasks.card import Card
from featherbone.tasks.run import build_task, load_task, save_weights

NAME = "mobilenetv3_small_050"


def card_of(backbone=NAME, task="classification", head=None, head_args=None, **model_args):
    return Card(task, backbone, ("a", "b"), Preprocessing(64, 64), model_args, head, head_args or {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_path", "{file}"),
        ("pretrained", True),
        ("pretrained_cfg", {"file": "{file}"}),
        ("pretrained_cfg_overlay", {"file": "{file}"}),
        ("pretrained_strict", False),
        ("cache_dir", "{file}"),
        ("num_classes", 3),
        ("features_only", True),
        ("scriptable", True),
    ],
)
@pytest.mark.parametrize("task", ["classification", "semantic"])
def test_a_card_cannot_have_a_file_opened(name, value, task, tmp_path, monkeypatch):
    path = tmp_path / "evil.pth"
    torch.save(timm.create_model(NAME).state_dict(), path)
    value = {"file": str(path)} if isinstance(value, dict) else value.format(file=path) if value == "{file}" else value
    opened = []
    own = builtins.open
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: (opened.append(str(file)), own(file, *a, **k))[1])
    with pytest.raises(BadOption, match=f"model_args {name}: .*--checkpoint FILE"):
        build_task(card_of(task=task, **{name: value}))
    assert str(path) not in opened


@pytest.mark.parametrize("name", ["hf-hub:a/b", "local-dir:/tmp", "hf-hub:timm/resnet18", "../resnet18", "", "\0"])
def test_a_backbone_is_a_name_of_timm(name):
    with pytest.raises(UnknownModel):
        build_task(card_of(name))


@pytest.mark.parametrize("value", [10**9, 1e300, {"a": 1}, "x" * 1000, [0] * 10_000, [[[[1]]]]])
@pytest.mark.parametrize("task", ["classification", "semantic"])
def test_values_are_plain_and_of_sane_size(value, task):
    with pytest.raises(BadOption, match=r"model_args drop_rate: .*; give a number"):
        build_task(card_of(task=task, drop_rate=value))
    with pytest.raises(BadOption, match=r"head_args dim: .*; give a number"):
        build_task(card_of(task="semantic", head_args={"dim": value}))


@pytest.mark.parametrize("given", [{"dim": "text"}, {"dim": -1}, {"dim": 0}, {"dim": 1.5}, {"dim": None}, {"no": 1}])
@pytest.mark.parametrize("head", ["segformer", "semantic_fpn"])
def test_arguments_that_build_nothing_are_one_message(head, given):
    with pytest.raises(BadOption, match="mobilenetv3_small_050"):
        build_task(card_of(task="semantic", head=head, head_args=given))


@pytest.mark.parametrize("given", [{"act_layer": "none_such"}, {"no_such": 1}, {"in_chans": "text"}, {"in_chans": -3}])
def test_arguments_that_timm_does_not_take_are_one_message(given):
    with pytest.raises(BadOption, match=r"mobilenetv3_small_050 (does not take|cannot be built)"):
        build_task(card_of(**given))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    card = card_of()
    task = build_task(card)
    card.write(tmp_path)
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            task.backbone.classifier.bias[0] = value
        save_weights(tmp_path, task)
        with pytest.raises(BadRun, match=r"1 weights are not finite, such as backbone\.classifier\.bias; .*lower --lr"):
            load_task(tmp_path)


def test_a_licence_is_stated_for_the_weights_it_is_of():
    assert weights_licence(NAME, pretrained=True, checkpoint=None) == "apache-2.0"
    assert weights_licence(NAME, pretrained=False, checkpoint=None).startswith("yours")
    assert weights_licence(NAME, pretrained=False, checkpoint="a/mine.pth").startswith(
        "not stated: the weights are those of mine.pth"
    )
