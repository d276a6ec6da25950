"""Published models by their names, from a server on this machine: every command, faults, licences and refusals."""

import io
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

import featherbone
from featherbone.backbones import published
from featherbone.backbones.published import CLASSIFIERS, Checkpoint
from featherbone.benchmarking.speed import source_of
from featherbone.benchmarking.worker import Job, Plan
from featherbone.cli import main
from featherbone.engine.settings import FINE_TUNING, complete
from featherbone.errors import BadCheckpoint, BadLicence, BadOption, BadRun
from featherbone.recipes import find_recipe
from featherbone.tasks.backbone import needs_acceptance
from featherbone.tasks.published import COCO, PUBLISHED, classifier_card, imagenet_classes
from scenes import write_classification, write_coco
from web import serving

sys.path.insert(0, str(Path(__file__).parents[1] / "goldens" / "dense"))
import weights_dense

GOLDENS = Path(__file__).parents[1] / "goldens"
LIT, RETINA = "lit_tiny", "lit_tiny.retinanet_coco"


def content(state):
    """A checkpoint's bytes."""
    file = io.BytesIO()
    torch.save({"meta": {"CLASSES": COCO.classes}, "state_dict": state}, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def files():
    """Synthetic weights in the published formats."""
    classifier = runpy.run_path(str(GOLDENS / "weights.py"))["state_dict"]("lit_ti")
    counts = {
        name: torch.zeros(shape, dtype=torch.int64)
        for name, shape in weights_dense.shapes("retinanet_lit_ti").items()
        if name.endswith(weights_dense.INTEGER)
    }
    detector = {**counts, **weights_dense.state_dict("retinanet_lit_ti")}
    return {"lit_ti.pth": content(classifier), "retina_lit_ti.pth": content(detector)}


@pytest.fixture
def site(files, tmp_path, monkeypatch):
    """A server of the files in place of the published addresses, an empty cache, and the current folder `work`."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with serving() as site:
        site.files.update(files)
        monkeypatch.setitem(CLASSIFIERS, LIT, Checkpoint(f"{site.address}/lit_ti.pth"))
        model = replace(PUBLISHED[RETINA], checkpoint=Checkpoint(f"{site.address}/retina_lit_ti.pth"))
        monkeypatch.setitem(PUBLISHED, RETINA, replace(model, data=replace(COCO, image_size=(64, 96))))
        yield site


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((96, 64), 80).convert("RGB").save(tmp_path / "photo.jpg")
    return str(tmp_path / "photo.jpg")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Four training and two validation pictures, whose classes are some of COCO's."""
    folder = tmp_path_factory.mktemp("coco") / "data"
    write_coco(folder, 4, 2, (64, 96))
    for path in (folder / "annotations").iterdir():
        found = json.loads(path.read_text())
        for category, name in zip(found["categories"], COCO.classes, strict=False):
            category["name"] = name
        path.write_text(json.dumps(found))
    return folder


def run(capsys, *words):
    code = main([*map(str, words), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), " ".join(printed.err.split())


def test_a_classifier_predicts_by_name(site, photo, capsys):
    code, found, _ = run(capsys, "predict", LIT, photo, "--device", "cpu")
    assert code == 0 and Path(f"{LIT}-predictions/photo.jpg").is_file()
    card = classifier_card(LIT)
    assert found["predictions"][0]["classes"][0]["name"] in card.classes and card.starting_weights == "lit_tiny.in1k"
    assert len(card.classes) == 1000 and card.classes[:2] == ("tench", "goldfish")
    run(capsys, "predict", LIT, photo, "--device", "cpu")
    assert len(site.requests) == 1
    model = timm.create_model(LIT, pretrained=True)  # the same file
    assert len(site.requests) == 1
    ours = featherbone.load(LIT, device="cpu").task.backbone.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


def test_a_detector_predicts_and_is_evaluated_by_name(site, coco, photo, capsys):
    code, found, err = run(capsys, "predict", RETINA, photo, "--score", 0.05, "--device", "cpu")
    assert code == 0, err
    assert {thing["name"] for thing in found["predictions"][0]["objects"]} < {*COCO.classes}
    code, found, _ = run(capsys, "evaluate", RETINA, "--data", coco, "--device", "cpu", "--workers", 0)
    assert code == 0 and found["metrics"]["images"] == 2 and "AP" in found["metrics"]
    assert len(site.requests) == 1 and {entry.name for entry in Path().iterdir()} == {f"{RETINA}-predictions"}
    assert run(capsys, "evaluate", RETINA)[0] == 2


def test_a_folder_of_that_name_comes_first(site, tmp_path):
    Path(LIT).mkdir()
    with pytest.raises(BadRun, match="not a run folder"):
        featherbone.load(LIT)


def test_imagenet_is_measured_by_its_folders(site, tmp_path, capsys):
    """Class folders have the numbers of WordNet, and need not be all of them."""
    write_classification(tmp_path / "data", 6, 6, (32, 32))
    numbers = ImageNetInfo("imagenet-1k").label_names()[:6]
    for split in ("train", "val"):
        for folder, number in zip(sorted((tmp_path / "data" / split).iterdir()), numbers, strict=True):
            folder.rename(folder.with_name(number))
    code, found, _ = run(capsys, "evaluate", LIT, "--data", tmp_path / "data", "--device", "cpu", "--workers", 0)
    assert code == 0 and found["metrics"]["images"] == 6 and found["classes"][0] == "tench"


def test_explain_and_export_take_names(site, photo, capsys, tmp_path):
    code, found, _ = run(capsys, "explain", LIT, photo, "--device", "cpu")
    assert code == 0 and found["record"]["classes"] and "lit_tiny.in1k" in Path(found["page"]).read_text()
    (tmp_path / "photos").mkdir()
    Image.open(photo).save(tmp_path / "photos" / "a.png")
    code, found, err = run(capsys, "export", LIT)
    assert code == 2 and "--images" in err
    code, found, _ = run(capsys, "export", LIT, "--images", tmp_path / "photos", "--dynamic", "none")
    assert code == 0 and Path("lit_tiny-exports/onnx/featherbone.json").is_file()
    assert json.loads(Path("lit_tiny-exports/onnx/featherbone.json").read_text())["weights_licence"].startswith("not s")
    assert run(capsys, "predict", "lit_tiny-exports/onnx", photo)[0] == 0
    code, _, err = run(capsys, "export", RETINA, "--images", tmp_path / "photos")
    assert code == 2 and "--fixed" in err
    code, found, err = run(capsys, "explain", RETINA, photo, "--device", "cpu")
    assert code == 0 and found["record"]["task"] == "detection", err


def test_a_classifier_is_converted(site, files, photo, tmp_path, capsys):
    (tmp_path / "mine.pth").write_bytes(files["lit_ti.pth"])
    code, found, _ = run(capsys, "convert", tmp_path / "mine.pth", LIT, "--out", "run")
    assert code == 0 and found["task"] == "classification" and "mine.pth" in found["licence"] and not site.requests
    assert (
        featherbone.load("run", device="cpu")(photo).to_json() == featherbone.load(LIT, device="cpu")(photo).to_json()
    )


@pytest.mark.parametrize("name", [LIT, RETINA])
def test_what_cannot_be_downloaded_names_the_ways_out(site, name, photo, capsys, monkeypatch):
    site.files.clear()
    code, found, err = run(capsys, "predict", name, photo)
    assert code == 2 and found["kind"] == "BadCheckpoint" and "answers 404" in err
    for way in (
        "--checkpoint FILE",
        "--no-pretrained",
        f"featherbone convert FILE {name} --out RUN",
        "hub/checkpoints",
    ):
        assert way in err, way
    monkeypatch.setitem(CLASSIFIERS, LIT, Checkpoint("http://127.0.0.1:9/lit_ti.pth"))
    with pytest.raises(BadCheckpoint, match=r"cannot be reached .*--no-pretrained"):
        timm.create_model(LIT, pretrained=True)
    assert not list(Path().glob("*predictions"))


def test_another_file_is_refused_and_an_interrupted_one_continued(site, files, monkeypatch):
    site.cut = 1000
    with pytest.raises(BadCheckpoint, match="interrupted"):
        featherbone.load(LIT)
    assert featherbone.load(LIT, device="cpu") and site.requests[-1] == ("lit_ti.pth", "bytes=1000-")
    checkpoint = replace(PUBLISHED[RETINA].checkpoint, sha256="0" * 64)
    monkeypatch.setitem(PUBLISHED, RETINA, replace(PUBLISHED[RETINA], checkpoint=checkpoint))
    with pytest.raises(BadCheckpoint, match=r"another file than expected .*--no-pretrained"):
        featherbone.load(RETINA)


def test_files_that_only_a_person_can_download(site, files, photo, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"in a browser, from https://drive.*/view; save them as .*\.pth"):
        featherbone.load("lightvit_small.mask_rcnn_coco")
    with pytest.raises(BadCheckpoint, match=r"browser, from https://github.com/hunto/LightViT"):
        featherbone.load("lightvit_base")
    state = runpy.run_path(str(GOLDENS / "weights.py"))["state_dict"]("lightvit_tiny")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "lightvit_tiny.pth").write_bytes(content(state))
    assert featherbone.load("lightvit_tiny", device="cpu")(photo).name


@pytest.mark.parametrize(
    "name,message",
    [
        ("lvt", "non-commercial licence and are not offered"),
        ("lvt_cls", "non-commercial licence and are not offered"),
        ("xformer_small", "no weights were published"),
        ("lit_tinny", "did you mean lit_tiny"),
        ("lit_tiny.retinanet", "did you mean lit_tiny.retinanet_coco"),
        ("lit_tiny.mask_rcnn_cocoo", "did you mean lit_tiny.mask_rcnn_coco"),
        ("runs/mine", "not a run folder"),
        ("vit_tiny_patch16_224.none", "did you mean vit_tiny_patch16_224"),
        ("vit_base_patch14_dinov2", "not those of an ImageNet classifier"),
    ],
)
def test_names_without_a_model(site, photo, name, message):
    with pytest.raises((BadRun, BadCheckpoint, featherbone.errors.UnknownModel), match=message):
        featherbone.load(name)


def test_class_names_are_unique():
    for subset in ("imagenet-1k", "imagenet-12k", "imagenet-22k"):
        info = ImageNetInfo(subset)
        names = imagenet_classes(info)
        assert len(set(names)) == info.num_classes()
    names = imagenet_classes(ImageNetInfo("imagenet-1k"))
    assert names[517].startswith("crane: lifts") and names[1] == "goldfish"


def test_the_table_covers_the_families():
    assert set(CLASSIFIERS) == set(featherbone.benchmarking.models.published())
    for name, checkpoint in CLASSIFIERS.items():
        assert bool(checkpoint.address) != bool(checkpoint.unusable)
        if name.startswith("lit"):
            assert timm.get_pretrained_cfg(name).url == checkpoint.address
    assert published.LICENCE.startswith("not stated")


@pytest.mark.parametrize(
    "licence,gated",
    [
        *((name, False) for name in ("apache-2.0", "mit", None, published.LICENCE)),
        *((name, True) for name in ("cc-by-nc-4.0", "apple-amlr", "fair-noncommercial-research-license", "unknown")),
    ],
)
def test_licences_that_must_be_accepted(licence, gated):
    assert needs_acceptance(licence) is gated


def test_a_licence_is_refused_until_it_is_accepted(site, photo, capsys):
    name = "convnextv2_atto.fcmae_ft_in1k"
    code, found, err = run(capsys, "predict", name, photo)
    assert code == 2 and found["kind"] == "BadLicence" and "--accept-licence cc-by-nc-4.0" in err
    with pytest.raises(BadLicence, match="'mit' is accepted, but"):
        featherbone.explain(name, photo, accept_licence="mit")


def test_explain_can_do_without_weights(site, photo, tmp_path):
    found = featherbone.explain("lvt", photo, out=tmp_path / "a", device="cpu")
    assert "no weights of lvt to use" in " ".join(found.page.read_text().split())
    assert featherbone.explain(LIT, photo, out=tmp_path / "b", device="cpu", pretrained=False).record is None
    assert not site.requests
    (tmp_path / "run").mkdir()
    with pytest.raises(BadOption, match="omit --no-pretrained"):
        featherbone.explain(tmp_path / "run", photo, out=tmp_path / "c", pretrained=False)


STILL = ("--image-size", 64, "--epochs", 1, "--batch-size", 2, "--lr", 0, "--min-lr", 0, "--warmup-lr", 0)
STILL = (*STILL, "--workers", 0, "--device", "cpu", "--out", "run")
"""A training in which no parameter moves."""


def same_parameters(model, start):
    """Names of the parameters of one model that have the values of another."""
    own, other = dict(model.named_parameters()), dict(start.named_parameters())
    return {name for name, x in own.items() if name in other and torch.equal(x.cpu(), other[name])}


def test_training_starts_from_a_published_detector(site, coco, capsys):
    code, _, err = run(capsys, "train", "--data", coco, "--model", RETINA, *STILL)
    assert code == 0, err
    assert f"starts from the weights {RETINA}; their licence: not stated" in err
    trained = featherbone.load("run", device="cpu")
    assert (trained.card.backbone, trained.card.head, trained.card.starting_weights) == (LIT, "retinanet", RETINA)
    assert trained.card.preprocessing.rule == "fit" and len(trained.card.classes) < 80
    names = {name for name, _ in trained.task.named_parameters()}
    same = same_parameters(trained.task, featherbone.load(RETINA, device="cpu").task)
    assert names - same == {"head.classes.8.weight", "head.classes.8.bias"}
    assert RETINA in Path("run/report.html").read_text()


def test_training_starts_from_the_file_of_a_published_detector(site, files, coco, tmp_path, capsys):
    (tmp_path / "mine.pth").write_bytes(files["retina_lit_ti.pth"])
    words = ("--checkpoint", tmp_path / "mine.pth", *STILL)
    code, _, err = run(capsys, "train", "--data", coco, "--model", RETINA, *words)
    assert code == 0 and not site.requests, err
    own = featherbone.load("run", device="cpu").task
    assert len(same_parameters(own, featherbone.load(RETINA, device="cpu").task)) == len(list(own.parameters())) - 2


def test_speed_is_measured_by_name(site):
    """Of a detector the network of the published weights, on its largest input."""
    source = source_of(RETINA, Plan((RETINA,)))
    assert (source.kind, source.sizes) == ("run", ((64, 96),)) and source.cost((64, 96))[0] > 20e6
    assert Job(Plan((RETINA,)), "cpu", RETINA, source.kind).load_model((64, 96)).head.classes is not None


def test_published_models_are_listed(capsys):
    code, found, _ = run(capsys, "models", "lightvit_tiny*")
    assert code == 0 and [row["name"] for row in found["models"]] == ["lightvit_tiny"]
    first, longer = found["dense_models"]
    assert (first["name"], longer["name"]) == ("lightvit_tiny.mask_rcnn_coco", "lightvit_tiny.mask_rcnn_coco_3x")
    assert first["task"] == "instance" and first["figures"] == {"AP": 37.8, "mask_AP": 35.9}
    assert main(["models", "lit_tiny.*"]) == 0
    assert "lit_tiny.semantic_fpn_ade20k  semantic   mIoU 41.3" in capsys.readouterr().out
    assert main(["models", "lit_tiny.maskrcnn_coco"]) == 2
    assert "lit_tiny.mask_rcnn_coco" in capsys.readouterr().err


def test_training_starts_from_published_weights_by_default(site, tmp_path, capsys):
    write_classification(tmp_path / "data", 6, 6, (32, 32))
    command = ["train", "--data", tmp_path / "data", "--model", LIT, *STILL]
    code, _, err = run(capsys, *command)
    assert code == 0 and "starts from the weights lit_tiny.in1k" in err, err
    trained = featherbone.load("run", device="cpu")
    same = same_parameters(trained.task, featherbone.load(LIT, device="cpu").task)
    assert {name for name, _ in trained.task.named_parameters()} - same == {
        "backbone.head.weight",
        "backbone.head.bias",
    }
    code, _, err = run(capsys, *command[:-1], "scratch", "--no-pretrained")
    assert code == 0 and "starts from random weights" in err
    assert featherbone.load("scratch", device="cpu").card.starting_weights == ""


def test_what_cannot_be_downloaded_starts_no_training(site, coco, tmp_path, capsys):
    site.files.clear()
    write_classification(tmp_path / "data", 6, 6, (32, 32))
    for data, model in ((tmp_path / "data", LIT), (coco, RETINA)):
        code, found, err = run(capsys, "train", "--data", data, "--model", model, *STILL)
        assert code == 2 and found["kind"] == "BadCheckpoint"
        assert "answers 404" in err and "--model lit_tiny --no-pretrained" in err and "--checkpoint FILE" in err
        assert not Path("run").exists()


def test_licences_of_starting_weights_are_accepted_first(site, tmp_path, capsys):
    write_classification(tmp_path / "data", 6, 6, (32, 32))
    command = ("train", "--data", tmp_path / "data", "--model", "convnextv2_atto.fcmae_ft_in1k", *STILL)
    code, found, err = run(capsys, *command)
    assert code == 2 and found["kind"] == "BadLicence" and "--accept-licence cc-by-nc-4.0" in err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "given,pretrained,tuned",
    [
        ({"model": LIT}, True, True),
        ({"model": "resnet18"}, True, True),
        ({"model": "lvt"}, False, False),
        ({"model": "resnet18", "pretrained": False}, False, False),
        ({"model": "resnet18", "checkpoint": "file.pth"}, False, True),
        ({"model": "lvt", "backbone_from": "run", "task": "detection"}, False, True),
        ({"model": LIT, "recipe": find_recipe("lit_imagenet")}, False, False),
        ({"model": LIT, "recipe": find_recipe("lit_retinanet"), "task": "detection"}, True, False),
        ({}, False, False),
    ],
)
def test_defaults_of_fine_tuning(given, pretrained, tuned):
    settings = complete(**given)
    assert settings.pretrained is pretrained
    assert all(getattr(settings, name) == value for name, value in FINE_TUNING.items()) is tuned
    assert complete(**{**given, "recipe": None}, lr=1e-2, preset="small-data").lr == 1e-2


@pytest.mark.parametrize(
    "words,message",
    [
        (("--task", "instance"), "lit_tiny.retinanet_coco has detection"),
        (("--head", "yolov3"), "lit_tiny.retinanet_coco has retinanet"),
        (("--no-pretrained",), "pass --model lit_tiny"),
        (("--checkpoint", "a.pth"), "there is no such checkpoint file"),
        (("--backbone-from", "a"), "has its own weights"),
    ],
)
def test_a_published_detector_is_trained_as_it_is(site, coco, capsys, words, message):
    code, _, err = run(capsys, "train", "--data", coco, "--model", RETINA, *STILL, *words)
    assert code == 2 and message in err and not site.requests
