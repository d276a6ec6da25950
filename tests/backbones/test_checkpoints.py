"""Published checkpoints load by timm's own way, run no code, and report what does not fit."""

import argparse
import json
import re
import runpy
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

from featherbone.backbones.published import CLASSIFIERS, Checkpoint
from featherbone.errors import BadCheckpoint
from featherbone.tasks.backbone import build_backbone
from registered import NAMES, SMALLEST, each, each_but_only_smallest_is_fast, image, net

GOLDENS = Path(__file__).parents[1] / "goldens"
REFERENCES = json.loads((GOLDENS / "parameters.json").read_text())
goldens = SimpleNamespace(**runpy.run_path(str(GOLDENS / "weights.py")))
PUBLISHED = {  # our names, and those of the references: lit_ti is the beginning of lit_tiny
    name: max((key for key in REFERENCES if name.startswith(key)), key=len)
    for name in NAMES
    if name.startswith(tuple(REFERENCES))
}


def of_a_training_run(weights):
    """What training scripts write beside the weights."""
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    return {
        "optimizer": optimiser.state_dict(),
        "epoch": 299,
        "args": argparse.Namespace(lr=1e-3, data="in1k"),
        **weights,
    }


WRAPPERS = {
    "bare": lambda weights: weights,
    "model": lambda weights: of_a_training_run({"model": weights}),
    "state_dict": lambda weights: of_a_training_run(
        {"state_dict": {f"module.{name}": value for name, value in weights.items()}}
    ),
    "state_dict_ema": lambda weights: of_a_training_run(
        {"state_dict": {name: value + 1 for name, value in weights.items()}, "state_dict_ema": weights}
    ),
}


def load(name, content, path, **kwargs):
    """The model with pretrained weights from a file of that content."""
    torch.save(content, path)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs).eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "published.pth"


def test_every_reference_has_a_model():
    assert set(PUBLISHED.values()) == set(REFERENCES)


@each(PUBLISHED)
def test_published_checkpoint_gives_the_published_logits(name, path):
    weights = WRAPPERS["state_dict"](goldens.state_dict(PUBLISHED[name]))
    with torch.no_grad():
        logits = load(name, weights, path)(goldens.image(2, 224, 224))
    assert goldens.compare(f"{PUBLISHED[name]}.logits@2x224x224/0", logits) < 1e-5


@each(SMALLEST, slow=lambda name: False)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_come_out_of_any_wrapper(name, wrapper, path):
    published = goldens.state_dict(PUBLISHED[name]) if name in PUBLISHED else net(name).state_dict()
    expected = load(name, published, path, num_classes=1000 if name in PUBLISHED else 7).state_dict()
    got = load(name, WRAPPERS[wrapper](published), path, num_classes=1000 if name in PUBLISHED else 7).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in got.items())


def carries(model, weights):
    """Whether every weight of the model, a wrapper's prefix aside, is one of these."""
    return all(torch.equal(value, weights[key.removeprefix("model.")]) for key, value in model.state_dict().items())


@each_but_only_smallest_is_fast()
def test_own_checkpoint_keeps_its_classifier_and_channels(name, path):
    own = net(name).state_dict()
    assert carries(load(name, own, path, num_classes=7), own)
    four = timm.create_model(name, num_classes=7, in_chans=4).state_dict()
    assert carries(load(name, four, path, num_classes=7, in_chans=4), four)


@each_but_only_smallest_is_fast()
@pytest.mark.parametrize("in_chans", [1, 4])
def test_first_convolution_adapts_to_other_channels(name, in_chans, path):
    model = load(name, net(name).state_dict(), path, num_classes=7, in_chans=in_chans)
    stem = f"{model.default_cfg['first_conv']}.weight"
    three, other = net(name).state_dict()[stem], model.state_dict()[stem]
    if in_chans == 1:
        torch.testing.assert_close(other, three.sum(1, keepdim=True))
    else:  # repeated, at the strength of three channels
        torch.testing.assert_close(other, torch.cat([three, three[:, :1]], dim=1) * 3 / 4)
    assert model(image(1, in_chans, 64, 64)).shape == (1, 7)
    rest = {key: value for key, value in net(name).state_dict().items() if key != stem}
    assert all(torch.equal(model.state_dict()[key], value) for key, value in rest.items())


@each_but_only_smallest_is_fast()
@pytest.mark.parametrize("asked", [5, 1000])
def test_classifier_for_other_classes_is_left_out_with_a_warning(name, asked, path):
    with pytest.warns(UserWarning, match=f"{name}: the checkpoint has 7 classes and the model {asked}") as caught:
        model = load(name, net(name).state_dict(), path, num_classes=asked)
    classifier = timm.get_pretrained_cfg_value(name, "classifier")
    left_out = [
        f"{layer}.{part}"
        for layer in ([classifier] if isinstance(classifier, str) else classifier)
        for part in ("weight", "bias")
    ]
    assert len(caught) == 1 and all(key in str(caught[0].message) for key in left_out)
    for key, value in net(name).state_dict().items():
        assert torch.equal(model.state_dict()[key], value) == (key not in left_out), key


@each_but_only_smallest_is_fast()
def test_no_classifier_and_features_only_need_none_and_do_not_warn(name, path):
    own = net(name).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert carries(load(name, own, path, num_classes=0), own)
        assert load(name, own, path, num_classes=0, global_pool="")(image(1, 3, 64, 64)).ndim > 2
        assert carries(load(name, own, path, num_classes=7, features_only=True), own)


@each(SMALLEST, slow=lambda name: False)
@pytest.mark.parametrize("num_classes", [7, 5, 0])
def test_every_key_that_does_not_fit_is_named(name, num_classes, path):
    weights = dict(net(name).state_dict())
    keys = [key for key in weights if key.startswith("stages.") and not key.endswith("tracked")]
    gone, turned = keys[::7], keys[1::7]
    for key in gone:
        del weights[key]
    for key in turned:
        weights[key] = weights[key][None]
    weights |= {f"extra.{i}": torch.zeros(1) for i in range(60)}
    with pytest.raises(BadCheckpoint, match=f"does not fit {name}") as caught:
        load(name, weights, path, num_classes=num_classes)
    named = set(re.split(r"[,;:]? ", str(caught.value)))
    assert {*gone, *turned, *(f"extra.{i}" for i in range(60))} <= {part.rstrip(",;") for part in named}
    for kind, keys in (("missing", gone), ("of another shape", turned), ("unexpected", range(60))):
        assert f"{len(keys)} {kind}" in str(caught.value)


def test_weights_of_another_model_are_refused(path):
    for name in SMALLEST:
        other = next(n for n in SMALLEST if n != name)
        with pytest.raises(BadCheckpoint, match=f"does not fit {name}"):
            load(name, net(other).state_dict(), path, num_classes=7)
    with pytest.raises(BadCheckpoint, match="unexpected: epoch"):
        load(name, {"epoch": 3}, path)


@each()
def test_pretrained_without_a_file_says_how_to_give_one(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    if name.startswith("lit_"):  # without a network
        monkeypatch.setitem(CLASSIFIERS, name, Checkpoint("http://127.0.0.1:9/weights.pth"))
    with pytest.raises(BadCheckpoint, match="--checkpoint FILE"):
        timm.create_model(name, pretrained=True)
    missing = str(tmp_path / "nowhere.pth")
    with pytest.raises(BadCheckpoint, match="there is no such file"):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=missing))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@each(SMALLEST, slow=lambda name: False)
@pytest.mark.parametrize("place", ["beside", "within", "in the arguments"])
def test_code_in_a_checkpoint_does_not_run(name, place, path, tmp_path):
    bomb, fuse = Bomb(tmp_path / "ran"), net(name).state_dict()
    content = {
        "beside": {"model": fuse, "extra": bomb},
        "within": {"model": {**fuse, "extra": bomb}},
        "in the arguments": {"model": fuse, "args": argparse.Namespace(bomb=bomb)},
    }[place]
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load(name, content, path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)  # it would have run
    assert (tmp_path / "ran").exists()


TIMM = "mobilenetv3_small_050"


def timm_weights():
    return timm.create_model(TIMM).state_dict()


@pytest.mark.parametrize("num_classes", [3, 1000])
def test_a_complete_checkpoint_of_timm_is_taken_with_or_without_a_classifier(num_classes, path):
    weights = timm_weights()
    for given in (weights, {name: x for name, x in weights.items() if not name.startswith("classifier")}):
        torch.save(given, path)
        if num_classes == 1000 and given is not weights:
            with pytest.raises(BadCheckpoint, match=r"classifier\.weight"):
                build_backbone(TIMM, True, str(path), num_classes=num_classes)
            continue
        built = build_backbone(TIMM, True, str(path), num_classes=num_classes).state_dict()
        kept = [name for name in weights if num_classes == 1000 or "classifier" not in name]
        assert all(torch.equal(built[name], weights[name]) for name in kept)


@pytest.mark.parametrize("num_classes", [3, 1000])
@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (lambda weights: {name: x for i, (name, x) in enumerate(weights.items()) if i % 2}, r"conv_stem\.weight"),
        (lambda weights: {"a": torch.zeros(1)}, "conv_stem"),
        (lambda weights: {}, "conv_stem"),
        (lambda weights: weights | {"conv_stem.weight": torch.zeros(1, 3, 3, 3)}, "conv_stem|size mismatch"),
        (lambda weights: weights | {"conv_stem.weight": weights["conv_stem.weight"] * float("nan")}, "not finite"),
        (lambda weights: weights | {"conv_stem.weight": "text"}, "mobilenetv3"),
        (lambda weights: [1, 2], "mobilenetv3"),
        (lambda weights: "text", "mobilenetv3"),
    ],
)
def test_an_incomplete_checkpoint_of_timm_is_refused(spoilt, told, num_classes, path):
    torch.save(spoilt(timm_weights()), path)
    with pytest.raises(BadCheckpoint, match=told) as refusal:
        build_backbone(TIMM, True, str(path), num_classes=num_classes)
    assert re.search("give|pass", str(refusal.value)) and str(path) in str(refusal.value)


def test_weights_that_the_model_has_no_use_for_are_named(path):
    torch.save(timm_weights() | {"teacher.weight": torch.zeros(1)}, path)
    with pytest.warns(UserWarning, match=r"1 weights are not of this model: teacher\.weight"):
        build_backbone(TIMM, True, str(path), num_classes=3)
    with pytest.raises(BadCheckpoint, match=r"teacher\.weight"):
        build_backbone(TIMM, True, str(path), num_classes=1000)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02c__builtin__\neval\n."])
def test_a_file_that_is_no_checkpoint_is_refused(content, path):
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match="checkpoint of this model, or omit --checkpoint"):
        build_backbone(TIMM, True, str(path), num_classes=3)
