"""A file that is written says what its model says; one that does not is not kept, and the layer is named."""

import json
import os
from copy import deepcopy
from importlib.util import find_spec

import onnx
import pytest
import torch
from torch import nn

from exporting import CLASSES, HEADS, a_model, pictures
from featherbone.errors import BadImage, BadOption, BadRun, FeatherboneError
from featherbone.exporters.artifact import Form, choose_form
from featherbone.exporters.contract import ExportDiffers, export_task, own_files
from featherbone.exporters.exported import open_task
from featherbone.exporters.forms import flatten
from featherbone.exporters.manifest import MANIFEST
from featherbone.exporters.targets import find_target
from featherbone.exporters.targets.onnx import ONNX


def export(card, task, folder, target="onnx", dynamic="none", **form):
    return export_task(card, task, Form(find_target(target), dynamic, **form), folder, pictures())


@pytest.mark.parametrize("head", HEADS)
def test_a_written_file_says_what_the_model_says(head, tmp_path):
    card, task = a_model(head)
    parity = export(card, task, tmp_path / "out")
    assert parity.holds and parity.images == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("model.onnx", "featherbone.json", "parity.json", "parity.html")
    }
    about = json.loads((tmp_path / "out" / "featherbone.json").read_text())
    assert about["classes"] == list(CLASSES) and about["input"]["width"] == 96 and "secret" not in json.dumps(about)
    inside = {entry.key: entry.value for entry in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    inside = json.loads(inside["featherbone"])
    assert {key: about[key] for key in inside} == inside and inside["decode"]["kind"]
    told = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert told["holds"] and told["worst"]["objects"] == parity.worst.objects
    page = (tmp_path / "out" / "parity.html").read_text()
    assert "Same results" in page and page.count("data:image/jpeg") == 6
    if head not in ("mask_rcnn", "panoptic_fpn_light"):
        kinds = {node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
        assert "NonMaxSuppression" not in kinds and "Conv" in kinds
    if HEADS[head] in ("detection", "instance"):
        assert parity.worst.objects > 0, "the comparison was of something"
    found, exported = open_task(tmp_path / "out")
    assert (found.task, found.classes) == (card.task, CLASSES) and "path" not in found.data
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 96)
        mine, theirs = task(images), exported(images)  # two images, by a file that takes one
    assert type(mine) is type(theirs)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("lvt", None),
        ("test_resnet", "segformer"),
        ("test_resnet", "nms_free_panoptic"),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in ("lightvit_tiny", "lit_tiny", "xformer_small")),
        *(pytest.param("lvt", head, marks=pytest.mark.slow) for head in ("retinanet", "semantic_fpn")),
    ],
)
def test_batch_and_size_may_vary_where_it_is_asked_for(backbone, head, tmp_path):
    card, task = a_model(head, backbone, model_args={"recursion": 1} if backbone == "lvt" else None)
    assert export(card, task, tmp_path / "out", dynamic="size").holds
    _, exported = open_task(tmp_path / "out")
    images = torch.randn(3, 3, 160, 128)
    with torch.inference_mode():
        mine, theirs = flatten(task(images)), flatten(exported(images))
    for name, value in mine.items():  # logits of nms_free are hundreds where a cell is far below its neighbours
        rounding = max(1e-4, 1e-5 * value.abs().max().item())
        torch.testing.assert_close(theirs[name], value, atol=rounding, rtol=1e-4)


@pytest.mark.parametrize("head", [None, "yolov3"])
def test_bytes_in_and_objects_out(head, tmp_path):
    card, task = a_model(head)
    nms = head is not None
    parity = export(card, task, tmp_path / "out", with_pre=True, with_nms=nms)
    assert parity.holds
    about = json.loads((tmp_path / "out" / "featherbone.json").read_text())
    assert about["input"]["dtype"] == "uint8" and about["input"]["layout"] == "NHWC"
    assert about["input"]["channels"] == ("RGBA" if nms else "RGB")
    if nms:
        assert about["decode"]["kind"] == "found" and about["outputs"] == ["boxes", "scores", "labels"]
        kinds = {node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
        assert "NonMaxSuppression" in kinds and parity.worst.objects > 0


@pytest.mark.parametrize("layer", ["backbone.conv1.3"])
def test_a_file_that_differs_is_not_kept_and_its_first_wrong_layer_named(layer, tmp_path, monkeypatch):
    """The proof is real: a layer that is computed otherwise in the file is caught, and found by bisection."""
    card, task = a_model()
    write = ONNX.write

    def write_wrong(self, net, *arguments):
        net = deepcopy(net)
        (module,) = (module for name, module in net.named_modules() if name.endswith(layer))
        with torch.no_grad():
            module.weight *= 1.5
        write(self, net, *arguments)

    monkeypatch.setattr(ONNX, "write", write_wrong)
    with pytest.raises(ExportDiffers, match=f"first layer that differs is {layer}") as caught:
        export(card, task, tmp_path / "out")
    assert caught.value.exit_code == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"parity.json", "parity.html"}
    assert not json.loads((tmp_path / "out" / "parity.json").read_text())["holds"]
    monkeypatch.setattr(ONNX, "write", write)
    assert export(card, task, tmp_path / "out").holds, "what remains of a failure is replaced"


def test_nothing_is_written_half_or_over_what_is_not_ours(tmp_path, monkeypatch):
    card, task = a_model()
    with pytest.raises(BadImage, match="--images"):
        export_task(card, task, Form(find_target("onnx")), tmp_path / "out", [])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    for taken in (tmp_path / "mine", tmp_path / "mine" / "photo.jpg"):
        with pytest.raises(BadOption, match="empty or new folder with --out"):
            own_files(taken)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ONNX, "write", full)
    with pytest.raises(FeatherboneError, match="No space left"):
        export(card, task, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_openvino_and_torch_packages_keep_the_contract(tmp_path):
    for head in ("retinanet", "nms_free_masks"):
        card, task = a_model(head)
        parity = export(card, task, tmp_path / head, "openvino")
        assert parity.holds and parity.worst.objects > 0
    assert {"model.xml", "model.bin"} <= {path.name for path in (tmp_path / "retinanet").iterdir()}
    card, task = a_model()
    assert export(card, task, tmp_path / "torch", "torch", "batch").holds
    _, exported = open_task(tmp_path / "torch" / "model.pt2", trust=True)
    images = torch.randn(3, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), task(images), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(find_spec("executorch") is None, reason="executorch is not installed")
def test_things_and_stuff_go_to_executorch(tmp_path):
    """The network holds those of detection and instance segmentation; nothing in it is what phones lack."""
    card, task = a_model("nms_free_panoptic")
    for norm in task.head.things.classes.convolutions[0].norms:  # as after training, those of a shared layer differ
        nn.init.uniform_(norm.running_var, 0.5, 2)
    form = choose_form(find_target("executorch"), card.task, card.head)
    assert export_task(card, task, form, tmp_path / "out", pictures()).holds


def test_exporting_again_replaces_the_export_only(tmp_path, monkeypatch):
    """Foreign files stay; a file of the older export that the new one lacks goes; interrupted, the rest is refused."""
    card, task = a_model()
    out = tmp_path / "out"
    export(card, task, out)
    (out / ".git").mkdir()
    for name in (".git/HEAD", "CNAME", "int8.json"):
        (out / name).write_text("precious")
    (out / "page.js").write_text("old")
    about = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps({**about, "sha256": {**about["sha256"], "page.js": "0" * 64}}))
    export(card, task, out)
    names = {"model.onnx", "featherbone.json", "parity.json", "parity.html", ".git", "CNAME"}
    assert {path.name for path in out.iterdir()} == names, "int8.json told of the older export"
    assert (out / "CNAME").read_text() == (out / ".git/HEAD").read_text() == "precious"
    assert open_task(out)[0].classes == CLASSES

    def stop(new, old):
        if old == out / "parity.html":
            raise OSError(28, "No space left on device")
        replace(new, old)

    replace = os.replace
    monkeypatch.setattr("featherbone.files.os.replace", stop)
    with torch.no_grad():
        task.backbone.fc.bias += 1  # another file
    with pytest.raises(FeatherboneError, match="No space left"):
        export(card, task, out)
    monkeypatch.undo()
    with pytest.raises(BadRun, match="export the run again"):
        open_task(out)
    export(card, task, out)
    assert open_task(out)[0].classes == CLASSES and (out / "CNAME").is_file()


def test_what_may_be_replaced(tmp_path):
    """Only the files of an export and of its reports; damaged descriptions and paths out of the folder name none."""
    assert own_files(tmp_path / "new") >= {MANIFEST, "parity.json", "model.onnx"}
    (tmp_path / ".git").mkdir()
    (tmp_path / "Thumbs.db").touch()
    assert MANIFEST in own_files(tmp_path), "a folder with files of systems only counts as empty"
    (tmp_path / "CNAME").touch()
    with pytest.raises(BadOption, match="holds no export"):
        own_files(tmp_path)
    for text in ("", "[]", '{"sha256": 3}', '{"sha256": {"../x": "0", "a/b": "0"}}'):
        (tmp_path / MANIFEST).write_text(text)
        own = own_files(tmp_path)
        assert "CNAME" not in own and not {"../x", "a/b"} & own and MANIFEST in own
