"""Licences are what metadata, cards and data sets state, and nothing else."""

import json
from email.message import Message
from types import SimpleNamespace

import pytest

import featherbone
from featherbone.cli import main
from featherbone.errors import BadRun
from featherbone.licensing import data_statements, packages_of, stated_licence
from scenes import write_classification


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "other")], ("MIT OR Apache-2.0", True)),
        ([("License", "BSD-3"), ("Classifier", "License :: OSI Approved :: MIT License")], ("BSD-3", False)),
        ([("License", "Copyright\ntext"), ("Classifier", "License :: Public Domain")], ("Public Domain", False)),
        ([("License", "UNKNOWN"), ("Classifier", "Topic :: Software")], ("not stated", False)),
        ([], ("not stated", False)),
    ],
)  # fmt: skip
def test_a_licence_is_the_most_exact_statement(fields, expected):
    metadata = Message()
    for name, value in fields:
        metadata[name] = value
    assert stated_licence(SimpleNamespace(metadata=metadata)) == expected


def test_packages_are_those_that_are_needed():
    found = {one.name: one for one in packages_of(["featherbone"])}
    assert {"featherbone", "torch", "timm", "numpy", "jinja2", "markupsafe"} <= found.keys()
    assert not {"pytest", "ruff", "featherbone-onnx"} & found.keys()
    assert found["featherbone"].licence == "Apache-2.0" and "torch" in found["featherbone"].requires
    assert "markupsafe" in found["jinja2"].requires and found["jinja2"].licence != "not stated"
    (absent,) = packages_of(["no-such-package"])
    assert (absent.version, absent.licence) == ("not installed", "not stated")


def test_a_run_and_its_file_state_weights_data_and_code(train, short, drawn, tmp_path, capsys):
    run = train(**short)
    result = featherbone.licences(run)
    assert result.weights_licence == "yours: trained from scratch" and result.data == ()
    assert "data     not stated" in str(result) and result.packages.keys() == {"inference"}
    pytest.importorskip("onnxruntime")
    exported = featherbone.export(run, count=2)
    assert main(["licences", str(exported.path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    inference, training = ({one["name"] for one in values["packages"][use]} for use in ("inference", "training"))
    assert {"onnxruntime", "numpy"} <= inference and "torch" not in inference
    assert {"torch", "featherbone"} <= training and not inference & training


def test_data_states_what_its_files_state(tmp_path):
    write_classification(tmp_path, 6, 6, (32, 32))
    assert data_statements(tmp_path) == ()
    (tmp_path / "LICENSE.txt").write_text("\nCC BY 4.0\nmore")
    (tmp_path / "annotations").mkdir()
    licences = [
        {"id": 1, "name": "Attribution", "url": "http://x"},
        {"id": 2, "name": "Attribution", "url": "http://x"},
    ]
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps({"licenses": licences, "images": []}))
    (tmp_path / "annotations" / "other.json").write_text("[1]")
    stated = ("LICENSE.txt: CC BY 4.0", "instances_val.json: Attribution http://x")
    assert data_statements(tmp_path) == stated


def test_published_weights_keep_their_licence():
    assert featherbone.licences("lit_tiny.retinanet_coco").weights == "lit_tiny.retinanet_coco"
    found = featherbone.licences("resnet18.a1_in1k")
    assert (found.weights, found.weights_licence) == ("resnet18.a1_in1k", "apache-2.0")
    with pytest.raises(BadRun, match="not a run folder or exported file"):
        featherbone.licences("no_such_model")


def test_the_sbom_is_valid(tmp_path):
    path = tmp_path / "sbom.json"
    featherbone.licences("resnet18.a1_in1k", sbom=path)
    bom = json.loads(path.read_text())
    names = {component["name"] for component in bom["components"]}
    assert bom["metadata"]["component"]["name"] == "featherbone" and {"torch", "timm"} <= names
    references = {component["bom-ref"] for component in (*bom["components"], bom["metadata"]["component"])}
    assert {row["ref"] for row in bom["dependencies"]} == references
    assert all(set(row["dependsOn"]) <= references for row in bom["dependencies"])
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text()) is None
