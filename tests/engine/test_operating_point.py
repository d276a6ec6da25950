"""The threshold of a run: chosen on its validation images, kept in its card, used by whatever predicts."""

import json
import shutil

import pytest

import featherbone
from featherbone.cli import main
from featherbone.engine.settings import complete
from featherbone.engine.train import start_run
from featherbone.errors import BadOption
from featherbone.exporters.artifact import Form
from featherbone.exporters.manifest import describe
from featherbone.exporters.targets import TARGETS
from featherbone.metrics.operating_point import OperatingPoint
from featherbone.tasks.card import Card
from featherbone.tasks.run import load_task, vary
from featherbone.tasks.task import KINDS, kind_of
from runs import SHORT

POINT = OperatingPoint(target="f1", score=0.65, precision=0.5, recall=0.5, f1=0.5, images=3)


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    settings = complete(**SHORT | dict(epochs=3), operating_point="recall=0.01")
    return start_run(drawn, "test_resnet", None, tmp_path_factory.mktemp("trained") / "run", settings)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def evaluate(run, target, *more):
    return main(["evaluate", str(run), "--operating-point", target, "--workers", "0", "--device", "cpu", *more])


def test_training_chooses_one_at_its_end(run):
    point = Card.read(run).metrics["operating_point"]
    assert point["target"] == "recall=0.01" and 0 < point["score"] < 1 and point["images"] == 12
    assert f"Score threshold for recall=0.01: {point['score']:.3f}" in (run / "report.html").read_text()


def test_training_that_does_not_reach_it_ends_all_the_same(train, short, capsys):
    run = train(**short, operating_point="recall=1")
    assert "operating_point" not in Card.read(run).metrics and (run / "report.html").is_file()
    assert "recall=1 cannot be reached on 12 images" in capsys.readouterr().err


def test_a_classifier_abstains_below_the_threshold_of_its_card(run, drawn, capsys, tmp_path):
    assert evaluate(run, "f1", "--json") == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    point = metrics["operating_point"]
    assert Card.read(run).metrics["operating_point"] == point and "top1" in Card.read(run).metrics
    assert f"F1 {point['f1']:.3f}); chosen on these 12 validation images" in (run / "report.html").read_text()
    predictor = featherbone.load(run, "cpu")
    assert predictor.score == point["score"]
    pictures = sorted((drawn / "val").glob("*/*"))
    records = {picture: predictor(picture) for picture in pictures}
    answered = {picture: record for picture, record in records.items() if not record.abstained}
    right = sum(record.name == picture.parent.name for picture, record in answered.items())
    assert right / len(answered) == pytest.approx(point["precision"]) and right / 12 == pytest.approx(point["recall"])
    for picture, record in records.items():
        assert (
            record.abstained == (record.score <= point["score"]) and record.to_json()["abstained"] == record.abstained
        )
        assert featherbone.load(run, "cpu", score=1.0)(picture).abstained
    result = featherbone.predict(run, pictures, out=tmp_path / "out", score=1.0, device="cpu")
    assert str(result).count("not certain: ") == 12


def test_a_target_out_of_reach_leaves_the_card_as_it_was(run, capsys):
    before = (run / "card.json").read_bytes()
    assert evaluate(run, "recall=1") == 2
    assert "the highest recall is" in capsys.readouterr().err and (run / "card.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--split", "train"), "chosen on the validation images"),
        (("--operating-point", "accuracy=1"), "write precision=0.9"),
    ],
)
def test_mistakes_are_refused(run, capsys, more, message):
    before = (run / "card.json").read_bytes()
    assert evaluate(run, "f1", *more) == 2
    assert message in capsys.readouterr().err and (run / "card.json").read_bytes() == before


def test_tasks_and_models_without_a_threshold_are_refused(run, capsys):
    with pytest.raises(BadOption, match="operating_point has no effect for semantic"):
        complete(task="semantic", operating_point="f1")
    card = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps({**card, "task": "semantic", "head": "segformer"}))
    assert evaluate(run, "f1") == 2
    assert "only classification, detection, instance have such a threshold" in capsys.readouterr().err
    assert evaluate("lit_tiny.mask_rcnn_coco", "f1") == 2
    assert "not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if "operating_point" in kind.options])
def test_the_threshold_of_the_card_comes_first(trained, name):
    card = Card.read(trained)
    card = Card(name, card.backbone, card.classes, card.preprocessing, metrics={"best_score": 0.4})
    assert kind_of(card).shown_score(card) == (None if name == "classification" else 0.4)
    card.metrics["operating_point"] = POINT
    assert kind_of(card).shown_score(card) == 0.65 == kind_of(card).shown_score(card.public())
    assert vary(card, {}).metrics["operating_point"] == POINT
    assert Card.parse({**vars(card), "preprocessing": vars(card.preprocessing)}, "card", "").metrics == card.metrics
    card.metrics["operating_point"] = {**POINT, "score": 1.5}
    assert card.fault() == "operating point 1.5 is outside 0 to 1"


def test_an_exported_file_states_it(trained):
    card, task = load_task(trained)
    manifest = describe(card, task, Form(TARGETS["onnx"]), ("logits",))
    assert manifest.decode["abstain_below"] == card.metrics["operating_point"]["score"]
