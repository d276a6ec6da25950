"""What an exported file says of itself is checked before anything of it runs."""

import hashlib
import json
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from featherbone import load
from featherbone.benchmarking.speed import source_of
from featherbone.benchmarking.worker import Plan
from featherbone.data.transforms import Preprocessing
from featherbone.engine.train import evaluate_run
from featherbone.errors import BadOption, BadRun
from featherbone.exporters.exported import open_task
from featherbone.exporters.manifest import MANIFEST, Manifest, read_manifest
from featherbone.exporters.targets import TARGETS, open_file
from featherbone.tasks.card import Card

CARD = Card("classification", "test_resnet", ("a", "b"), Preprocessing(32, 32))


def pool_model(path, num_classes=2):
    """Logits of an image are means of its first channels; that is enough for a file."""
    nodes = [
        helper.make_node("ReduceMean", ["images", "sides"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "chosen"], ["logits"], axis=1),
    ]
    constants = [
        helper.make_tensor("sides", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("chosen", TensorProto.INT64, [num_classes], list(range(num_classes))),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, num_classes])
    graph = helper.make_graph(nodes, "means", [images], [logits], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture
def folder(tmp_path):
    pool_model(tmp_path / "model.onnx")
    Manifest(CARD, "onnx", "model.onnx", ("logits",), {"kind": "softmax", "top": 5}).write(tmp_path)
    return tmp_path


def change(folder, renew=True, **values):
    """Other entries of featherbone.json, with the digests that belong to them."""
    content = json.loads((folder / MANIFEST).read_text()) | values
    if renew:
        files = [path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST]
        content["sha256"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / MANIFEST).write_text(json.dumps(content))


def test_a_file_is_opened_as_it_was_described(folder):
    card, task = open_task(folder)
    assert card == CARD
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(task(images), images.mean((2, 3))[:, :2])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"format": 0}, "format 0, this version reads 1"),
        ({"format": None}, "format None"),
        ({"target": 1}, r"expected str, got int at \$\.target"),
        ({"target": "tvm"}, "made for 'tvm'; this version runs files for onnx"),
        ({"file": "../model.onnx"}, "is not a plain name"),
        ({"file": ""}, "no digest of "),
        ({"outputs": "logits"}, r"expected array, got str at \$\.outputs"),
        ({"outputs": []}, "are not distinct names"),
        ({"outputs": ["logits", "logits"]}, "are not distinct names"),
        ({"outputs": ["other"]}, "no output 'logits'"),
        ({"outputs": ["logits", "more"]}, "outputs more of another model"),
        ({"decode": None}, r"at \$\.decode"),
        ({"dynamic": "all"}, r"invalid enum value 'all' at \$\.dynamic"),
        ({"with_pre": "no"}, r"at \$\.with_pre"),
        ({"card": None}, r"at \$\.card"),
        ({"card": {}}, r"featherbone\.json, card: object missing required field task"),
    ],
)
def test_a_description_that_is_none_is_refused(folder, values, told):
    change(folder, **values)
    with pytest.raises(BadRun, match=told) as refusal:
        open_task(folder)
    assert "target" in values or "export the run again" in str(refusal.value)


def test_a_description_of_a_newer_version_names_that_version(folder):
    change(folder, format=2, versions={"featherbone": "9.1"})
    with pytest.raises(BadRun, match=r"format 2, written by a newer Featherbone 9\.1; .* use that version or"):
        open_task(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"format": 1, "format": 1}', b"\xff"])
def test_a_file_that_is_no_description_is_refused(folder, content):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BadRun, match="export the run again"):
        read_manifest(folder)


@pytest.mark.parametrize("digests", [None, {}, {"model.onnx": 1}, {"model.onnx": "0"}, {"../model.onnx": "0"}])
def test_digests_are_demanded(folder, digests):
    change(folder, renew=False, sha256=digests)
    with pytest.raises(BadRun, match="export the run again"):
        read_manifest(folder)


def test_the_weights_beside_an_openvino_graph_are_part_of_it(folder):
    """OpenVINO reads model.bin unasked: without a digest it could be any file."""
    (folder / "model.onnx").rename(folder / "model.xml")
    change(folder, file="model.xml", target="openvino")
    for there in (False, True):
        if there:
            (folder / "model.bin").write_bytes(b"of another model")
        with pytest.raises(BadRun, match=r"no digest of model\.bin; export the run again"):
            read_manifest(folder)
    change(folder)
    assert read_manifest(folder)[0] == folder / "model.xml"


def suffix_of(target):
    return "".join(Path(TARGETS[target].file).suffixes)


def package(path):
    """The beginning of a package of torch's compiler."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/aotinductor/model/model.so", b"\x7fELF")


@pytest.fixture
def never_loaded(monkeypatch):
    def load_package(path):
        raise AssertionError("machine code is loaded")

    monkeypatch.setattr("torch._inductor.aoti_load_package", load_package)


@pytest.mark.parametrize(("target", "name"), [("torch", "model.onnx"), ("torch", "model.pt2")])
def test_machine_code_needs_trust_by_every_way(folder, target, name, never_loaded):
    package(folder / name)
    change(folder, target=target, file=name)
    for run in (
        lambda: load(folder),
        lambda: load(folder / name),
        lambda: open_task(folder),
        lambda: evaluate_run(folder, folder, None, "cpu", 0),
        lambda: source_of(str(folder), Plan((str(folder),))),
        lambda: open_file(folder / name, target),
    ):
        with pytest.raises(BadOption, match=r"machine code.*--trust \(in Python trust=True\)"):
            run()


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "torch"])
@pytest.mark.parametrize("trust", [False, True])
def test_a_package_of_machine_code_by_another_name_is_not_opened(tmp_path, target, trust, never_loaded):
    for name in (f"model{suffix_of(target)}", "model.pt2"):
        package(tmp_path / name)
        if (target, name) == ("coreml", "model.mlpackage.zip"):
            continue  # both are ZIP archives; CoreML finds no package inside
        with pytest.raises(BadRun, match=rf"not a {suffix_of(target)} file as {target} needs it"):
            open_file(tmp_path / name, target, trust=trust)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_takes_files_of_its_own_type_only(tmp_path, target):
    for content in (b"", b"text", b"\x7fELF" * 8):
        path = tmp_path / f"model{suffix_of(target)}"
        path.write_bytes(content)
        with pytest.raises(BadRun, match="export the run again"):
            open_file(path, target, trust=True)
    with pytest.raises(BadRun, match="cannot be read"):
        open_file(tmp_path / "none", target, trust=True)


@pytest.mark.parametrize("place", ["{outside}", "../outside.bin", "a/../../outside.bin"])
def test_weights_outside_of_the_folder_are_not_read(tmp_path, place):
    """An ONNX file may name the files of its weights; one that leads out of the folder is refused."""
    (tmp_path / "outside.bin").write_bytes(bytes(24))
    inside = tmp_path / "inside"
    inside.mkdir()
    weights = TensorProto(name="more", data_type=TensorProto.FLOAT, dims=[1, 2], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=place.format(outside=tmp_path / "outside.bin"))
    pool_model(inside / "model.onnx")
    model = onnx.load(inside / "model.onnx")
    model.graph.node[1].output[0] = "few"
    model.graph.node.append(helper.make_node("Add", ["few", "more"], ["logits"]))
    model.graph.initializer.append(weights)
    (inside / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadRun, match="export the run again"):
        open_file(inside / "model.onnx", "onnx")
