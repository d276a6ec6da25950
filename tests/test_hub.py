import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors.torch import save_file

import featherbone
from featherbone import cli, publishing
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadRun, FeatherboneError, HubError, UnknownModel
from featherbone.tasks.card import Card
from featherbone.tasks.run import build_task, save_weights
from hub_server import serving

NAME = "ada/flowers"
RUN = f"hf-hub:{NAME}"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # in huggingface_hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub that huggingface_hub takes for the real one, with a token that may write and an empty cache."""
    with serving() as hub:
        use(monkeypatch, hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        monkeypatch.chdir(tmp_path)
        yield hub


def use(monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(scope="session")
def classifier(drawn, tmp_path_factory):
    """A trained classifier; its weights are of a backbone that only featherbone has."""
    out = tmp_path_factory.mktemp("hub") / "run"
    return featherbone.train(drawn, "lvt", out=out, image_size=32, epochs=1, device="cpu", workers=0).run


@pytest.fixture(scope="session")
def picture(drawn):
    return next((drawn / "val").glob("*/*"))


def values(record):
    return record.to_json()


def test_a_classifier_comes_back_as_it_was_pushed(hub, classifier, picture):
    result = featherbone.push(classifier, NAME)
    assert result.address == f"{hub.endpoint}/{NAME}"
    assert hub.repositories[NAME].keys() == {"README.md", "card.json", "config.json", "model.safetensors"}
    assert values(featherbone.load(RUN)(picture)) == values(featherbone.load(classifier)(picture))
    net = timm.create_model(RUN, pretrained=True).eval()
    task = featherbone.load(classifier).task
    state = task.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    cfg = timm.data.resolve_data_config(model=net)
    image = Card.read(classifier).preprocessing
    assert cfg["input_size"] == (3, image.height, image.width) and cfg["crop_pct"] == image.crop


def test_commands_take_the_name_and_write_into_the_current_folder(hub, classifier, drawn, picture, tmp_path, capsys):
    featherbone.push(classifier, NAME)
    found = featherbone.predict(Path(RUN), (picture,))
    assert found.out == Path("flowers-predictions") and (tmp_path / found.out / "predictions.json").is_file()
    with pytest.raises(BadRun, match="does not state where its images are; give the images' folder with --data"):
        featherbone.evaluate(Path(RUN))
    metrics = featherbone.evaluate(Path(RUN), data=drawn, workers=0, device="cpu").metrics
    assert metrics["top1"] == Card.read(classifier).metrics["top1"]
    assert (tmp_path / "flowers-report.html").is_file()
    assert cli.main(["push", str(classifier), NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"address": f"{hub.endpoint}/{NAME}", "run": RUN}
    assert {path.name for path in tmp_path.iterdir() if path.name != "cache"} == {
        "flowers-predictions",
        "flowers-report.html",
        "flowers-report.npz",
    }


def test_a_repository_is_exported_into_the_current_folder(hub, tmp_path, drawn):
    timm_repository(hub, tmp_path)
    exported = featherbone.export(Path(RUN), images=drawn / "val", count=2)
    assert exported.out == Path("flowers-exports/onnx") and (tmp_path / exported.path).is_file()


def test_a_detector_comes_back_as_it_was_pushed(hub, tmp_path, picture):
    run = tmp_path / "detector"
    run.mkdir()
    size = Preprocessing(64, 64, rule="fit", crop=1.0)
    card = Card("detection", "resnet10t", ("cat", "dog"), size, head="retinanet", head_args={"dim": 8, "num_convs": 1})
    card.write(run)
    save_weights(run, build_task(card))
    featherbone.push(run, NAME)
    assert hub.repositories[NAME].keys() == {"README.md", "card.json", "weights.safetensors"}
    expected = values(featherbone.load(run, score=0.0)(picture))
    assert expected["objects"] and values(featherbone.load(RUN, score=0.0)(picture)) == expected


def test_nothing_of_the_machine_is_uploaded(hub, classifier, drawn):
    featherbone.push(classifier, NAME, private=True)
    assert NAME in hub.private
    for content in hub.repositories[NAME].values():
        for folder in (drawn, classifier, Path.home(), Path.cwd()):
            assert str(folder).encode() not in content
    card = json.loads(hub.repositories[NAME]["card.json"])
    assert "path" not in card["data"] and card["data"]["fingerprint"] and "workers" not in card["settings"]


def test_the_model_card_states_what_is_known(hub, classifier):
    featherbone.push(classifier, NAME)
    card, run = ModelCard(hub.repositories[NAME]["README.md"].decode()), Card.read(classifier)
    data = card.data
    assert data.pipeline_tag == "image-classification" and data.library_name == "featherbone"
    assert data.license is None and data.base_model is None  # from scratch: the publisher chooses
    assert data.metrics[0] == "accuracy" and data.eval_results[0].metric_value == run.metrics["top1"]
    low, high = run.metrics["interval"]["top1"]
    assert f"(95% interval {low:.3f} to {high:.3f})" in card.text and "Measured on 12 images of val." in card.text
    assert run.data["fingerprint"] in card.text and RUN in card.text and "import featherbone" in card.text
    assert "none, they were trained from scratch" in card.text and not re.search("{[{%]", card.text)


@pytest.mark.parametrize(
    ("started", "given", "licence", "name"),
    [
        ("apache-2.0", None, "apache-2.0", None),
        ("cc-by-nc-4.0", None, "cc-by-nc-4.0", None),
        ("not stated by timm; look it up", None, "other", "not-stated"),
        ("yours: trained from scratch", "mit", "mit", None),
    ],
)
def test_the_licence_is_that_of_the_starting_weights(classifier, started, given, licence, name):
    run = Card.read(classifier)
    card = replace(
        run, backbone="resnet18", weights_licence=started, settings={**run.settings, "pretrained": True}, metrics={}
    )
    found = publishing.model_card(card, NAME, given)
    assert (found.data.license, found.data.get("license_name")) == (licence, name)
    assert found.data.base_model == "timm/resnet18.a1_in1k" and found.data.library_name == "timm"
    assert "Not evaluated." in found.text and found.data.eval_results is None


def timm_repository(hub, tmp_path, **config):
    """A classifier in timm's format, as others push it."""
    net = timm.create_model("resnet10t", num_classes=3).eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "license": "mit"}
    values = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": cfg, **config}
    files = {"config.json": json.dumps(values).encode()}
    hub.repositories[NAME] = files | {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}
    return net


def test_a_repository_of_timm_is_a_classifier(hub, tmp_path):
    net = timm_repository(hub, tmp_path, label_names=["cat", "dog", "dog"])
    predictor = featherbone.load(RUN)
    assert predictor.card.classes == ("cat", "dog (1)", "dog (2)") and predictor.card.weights_licence == "mit"
    assert (predictor.card.preprocessing.height, predictor.card.preprocessing.mean) == (64, (0.5, 0.5, 0.5))
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = net(predictor.transform(Image.fromarray(pixels))[None])
    assert predictor(pixels).scores == tuple(logits.softmax(1)[0].sort(descending=True).values.tolist())
    timm_repository(hub, tmp_path, label_names={"1": "dog"})
    assert featherbone.load(RUN).card.classes == ("0", "dog", "2")


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        ({"architecture": "resnet10x"}, UnknownModel, "did you mean"),
        ({"architecture": "local-dir:/etc"}, UnknownModel, "no backbone"),
        ({"num_classes": 10**12}, BadRun, "num_classes"),
        ({"num_classes": 4}, BadRun, "of another model"),
        ({"label_names": ["a"] * 9}, BadRun, "9 label_names of 3 classes"),
        ({"label_names": {"x": "a"}}, BadRun, "label_names"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, FeatherboneError, "checkpoint_path"),
        ({"pretrained_cfg": {"input_size": [1, 64, 64]}}, BadRun, "1 channels"),
        ({"pretrained_cfg": {"crop_mode": "squash"}}, BadRun, "squash"),
    ],
)
def test_a_bad_configuration_is_one_message(hub, tmp_path, config, error, match):
    timm_repository(hub, tmp_path, **config)
    with pytest.raises(error, match=match):
        featherbone.load(RUN)


def test_pickles_are_not_downloaded(hub, tmp_path):
    timm_repository(hub, tmp_path)
    hub.repositories[NAME]["pytorch_model.bin"] = hub.repositories[NAME].pop("model.safetensors")
    with pytest.raises(HubError, match="pickled ones are not loaded"):
        featherbone.load(RUN)
    assert not any("pytorch_model" in request for request in hub.requests)


def test_an_interrupted_download_is_resumed(hub, tmp_path, monkeypatch):
    timm_repository(hub, tmp_path)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 20)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut = 1
    featherbone.load(RUN)
    [resumed] = [request for request in hub.requests if "bytes=" in request]
    half = len(hub.repositories[NAME]["model.safetensors"]) // 2
    assert half - (1 << 20) < int(re.search(r"bytes=(\d+)-", resumed)[1]) <= half


def test_what_the_cache_has_needs_no_network(hub, tmp_path, monkeypatch, picture):
    timm_repository(hub, tmp_path)
    expected = values(featherbone.load(RUN)(picture))
    hub.requests.clear()
    assert values(featherbone.load(RUN)(picture)) == expected
    assert not any("resolve" in request for request in hub.requests)
    use(monkeypatch, "http://127.0.0.1:9")
    assert values(featherbone.load(RUN)(picture)) == expected


def test_a_damaged_download_is_refused_and_repeated(hub, tmp_path):
    timm_repository(hub, tmp_path)
    hub.damage = True
    with pytest.raises(HubError, match=r"model.safetensors arrived damaged.*try again"):
        featherbone.load(RUN)
    hub.damage = False
    featherbone.load(RUN)


def test_a_file_that_stays_incomplete_is_one_message(hub, tmp_path, monkeypatch):
    timm_repository(hub, tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut = 1000
    with pytest.raises(HubError, match="check the network"):
        featherbone.load(RUN)
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


READ = {
    "nobody/nothing": "status 404.*there is none, or it is private; check the name, or log in",
    "ada/flowers@other": "no such revision",
    "ada/gated": r"is gated: accept its terms at http://127.0.0.1:\d+/ada/gated, then log in",
    "a/b/c": "not the name of a repository",
}


@pytest.mark.parametrize(("name", "match"), READ.items())
def test_what_cannot_be_read_is_one_message(hub, tmp_path, name, match):
    timm_repository(hub, tmp_path)
    hub.gated.add("ada/gated")
    with pytest.raises(HubError, match=match):
        featherbone.load(f"hf-hub:{name}")


def test_an_invalid_token_is_named_for_reading(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(HubError, match=r"status 401.*token is missing or not valid, or the name is wrong"):
        featherbone.load(RUN)


@pytest.mark.parametrize(
    ("token", "name", "match"),
    [
        ("hf_reader", NAME, "status 403.*token may not write"),
        ("hf_old", NAME, r"status 401.*token is missing or not valid"),
        (None, NAME, "needs a token; log in with: hf auth login"),
        ("hf_writer", "flowers", "not the name of a repository; give user/name"),
    ],
)
def test_what_cannot_be_written_is_one_message(hub, classifier, monkeypatch, tmp_path, token, name, match):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=match):
        featherbone.push(classifier, name)
    assert not hub.repositories


def test_without_a_network_there_is_one_message(hub, classifier, monkeypatch, capsys):
    use(monkeypatch, "http://127.0.0.1:9")
    for command in (["predict", RUN, "photo.jpg"], ["push", str(classifier), NAME]):
        assert cli.main(command) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert "on http://127.0.0.1:9" in error and "check the network and HF_ENDPOINT" in error
        assert "Traceback" not in error


def test_the_environment_is_enough(hub, classifier, picture, tmp_path):
    """As a user: the address, the cache and the token are those of the environment."""
    featherbone.push(classifier, NAME)
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "featherbone", "predict", RUN, str(picture), "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)["predictions"]
    assert found["classes"] == values(featherbone.load(classifier)(picture))["classes"]
    assert "%|" not in done.stderr  # no bar where it is not a terminal
