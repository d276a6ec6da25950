from pathlib import Path

import pytest
import torch

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption, BadRun
from featherbone.exporters.exported import beside
from featherbone.tasks.card import Card
from featherbone.tasks.published import load_model
from featherbone.tasks.run import build_task, load_task, save_weights, vary
from featherbone.tasks.variant import parse_keywords, split_variant, suffix_of, variant_path
from registered import image

CARD = Card(
    "classification",
    "lvt",
    ("cat", "dog"),
    Preprocessing(32, 32),
    model_args={"recursion": "random"},
    metrics={"top1": 0.5, "best_score": 0.3, "images": 7},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of an LVT that was trained with random depths."""
    folder = tmp_path_factory.mktemp("variants") / "run"
    folder.mkdir()
    torch.manual_seed(0)
    save_weights(folder, build_task(CARD))
    CARD.write(folder)
    return folder


def test_keywords():
    assert parse_keywords("a=1,b=True,c='x',d=word,e=(1, 2)") == dict(a=1, b=True, c="x", d="word", e=(1, 2))
    with pytest.raises(BadOption):
        parse_keywords("a=__import__('os').system('true')")


@pytest.mark.parametrize(
    ("run", "name", "arguments"),
    [
        ("lvt", "lvt", {}),
        ("lvt@recursion=3", "lvt", {"recursion": 3}),
        ("runs/x/@recursion=1,mix_token=True", "runs/x/", {"recursion": 1, "mix_token": True}),
        ("me@home/x@recursion=random", "me@home/x", {"recursion": "random"}),
        ("runs/a=b@c=d/x", "runs/a=b@c=d/x", {}),
        ("hf-hub:user/name@main", "hf-hub:user/name@main", {}),
        ("hf-hub:user/name@main@recursion=1", "hf-hub:user/name@main", {"recursion": 1}),
    ],
)
def test_a_suffix_is_keyword_arguments(run, name, arguments):
    assert split_variant(run) == (name, arguments) and suffix_of(run) == run.removeprefix(name)


def test_what_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x@recursion=1").mkdir()
    assert split_variant("x@recursion=1") == ("x@recursion=1", {}) and suffix_of("x@recursion=1") == ""
    assert beside(Path("x@recursion=1"), "report.html") == Path("x@recursion=1/report.html")


@pytest.mark.parametrize("suffix", ["recursion=", "recursion=1,3", "recursion=f()"])
def test_a_suffix_that_cannot_be_read_is_refused(suffix):
    with pytest.raises(BadOption, match=r"lvt with .*write keyword arguments"):
        split_variant(f"lvt@{suffix}")


def test_what_is_made_from_a_variant_has_its_suffix(tmp_path):
    run = Path(f"{tmp_path}@recursion=1,drop_rate=0.5")
    assert beside(run, "report.html") == tmp_path / "report@recursion=1,drop_rate=0.5.html"
    assert beside(run, "exports/onnx") == tmp_path / "exports/onnx@recursion=1,drop_rate=0.5"
    assert beside(Path("lvt.tag@a='b: c'"), "predictions") == Path("lvt.tag-predictions@a=-b--c-")
    assert beside(Path("hf-hub:user/name@main"), "predictions") == Path("name-main-predictions")
    assert variant_path("report.html", "lvt") == "report.html"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_variant_is_the_model_with_that_depth(run, depth):
    card, task = load_model(f"{run}@recursion={depth}")
    assert card.model_args == {"recursion": depth} and card.metrics == {"best_score": 0.3}
    fixed = build_task(card)
    fixed.load_state_dict(load_task(run)[1].state_dict())
    with torch.no_grad():
        x = image(2, 3, 32, 32)
        assert torch.equal(task(x), fixed.eval()(x))
        assert torch.equal(task(x), load_task(run)[1](x)) == (depth == 2)


def test_arguments_that_do_not_fit_the_weights_are_refused(run):
    for suffix, reason in (
        ("in_chans=1", "changes weights of lvt, such as backbone.stages.0.embed.proj.weight"),
        ("class_attention=True", "so trained ones do not fit"),
        ("depth=3", "lvt does not take these arguments"),
        ("recursion=0", "whole number from 1 up"),
        ("num_classes=3", "pass arguments of the architecture only"),
    ):
        with pytest.raises(BadOption, match=reason):
            load_model(f"{run}@{suffix}")
    with pytest.raises(BadRun, match="typo: not a run folder"):
        load_model(f"{run}/typo@recursion=1")


def test_a_dense_task_has_variants():
    card = Card("detection", "lightvit_tiny", ("cat",), Preprocessing(64, 64), head="retinanet")
    assert vary(card, {"drop_rate": 0.5}).model_args == {"drop_rate": 0.5} and vary(card, {}) is card
    with pytest.raises(BadOption, match=r"such as pyramid\.backbone"):
        vary(card, {"num_global_tokens": 4})
