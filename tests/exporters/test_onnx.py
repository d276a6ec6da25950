import json

import numpy as np
import onnx
import pytest
import torch

from featherbone.data.scenes import draw_portrait
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadImage
from featherbone.exporters import onnx as export
from featherbone.exporters.onnx import ExportDiffers, export_onnx, open_session
from featherbone.exporters.parity import compare
from featherbone.tasks.card import Card
from featherbone.tasks.classification import build_classifier

CLASSES = ("cat", "dog", "<b>bird</b>")


def a_card(backbone, side=64):
    return Card("classification", backbone, CLASSES, Preprocessing(side, side + 32), settings={})


def pictures(count=3):
    return [draw_portrait(0, i, (50 + 7 * i, 80), i % 6).image for i in range(count)]


@pytest.mark.parametrize("backbone", ["lvt", "lvt_cls", "xformer_small", "mobilenetv3_small_050"])
def test_a_written_file_says_what_the_model_says(backbone, tmp_path):
    torch.manual_seed(0)
    card, task = a_card(backbone), build_classifier(backbone, CLASSES)
    path = tmp_path / "model.onnx"
    parity = export_onnx(card, task, path, pictures())
    assert parity.holds and parity.images == 3
    about = json.loads((tmp_path / "featherbone.json").read_text())
    assert about["classes"] == list(CLASSES) and about["input"]["width"] == 96
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata["featherbone"]) == about
    assert json.loads((tmp_path / "parity.json").read_text())["holds"]
    batch = torch.randn(5, 3, 64, 96)  # another batch size than it was exported with
    (logits,) = open_session(path).run(None, {"images": batch.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, task.eval()(batch).numpy(), atol=1e-4)


def test_a_file_that_differs_is_not_left_behind(tmp_path, monkeypatch):
    """The proof is real: weights that change between writing and proving are caught."""
    torch.manual_seed(0)
    card, task = a_card("mobilenetv3_small_050"), build_classifier("mobilenetv3_small_050", CLASSES)
    write = export._write

    def write_then_change(task, *arguments):
        write(task, *arguments)
        with torch.no_grad():
            task.backbone.classifier.bias[0] += 1

    monkeypatch.setattr(export, "_write", write_then_change)
    with pytest.raises(ExportDiffers, match=r"model.onnx was not written: on 3 images") as caught:
        export_onnx(card, task, tmp_path / "model.onnx", pictures())
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_no_image_no_proof(tmp_path):
    with pytest.raises(BadImage, match="--images"):
        export_onnx(a_card("lvt"), build_classifier("mobilenetv3_small_050", CLASSES), tmp_path / "m.onnx", [])


def test_parity_sees_scores_classes_and_raw_values():
    task = build_classifier("mobilenetv3_small_050", CLASSES)
    raw = torch.tensor([[0.0, 1, 2], [3, 0, 0]])
    decoded = task.decode(raw, top=3)
    assert compare(decoded, decoded, raw, raw).holds
    for wrong in (raw + torch.tensor([0, 0, 0.1]), raw.flip(1)):
        assert not compare(decoded, task.decode(wrong, top=3), raw, wrong).holds
    shifted = raw + 5  # the same scores, other logits
    parity = compare(decoded, task.decode(shifted, top=3), raw, shifted)
    assert parity.same_class == 2 and parity.worst_score < 1e-6 and not parity.holds
