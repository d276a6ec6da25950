import json
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import nms

from featherbone.errors import BadOption, BadRun, UnknownModel
from featherbone.exporters import target_check
from featherbone.exporters.concerns import concerns, highest_rank, operators
from featherbone.exporters.target_check import examine_target, untrained_card
from featherbone.exporters.targets import TARGETS
from featherbone.exporters.targets.aotinductor import AOTInductor
from featherbone.exporters.targets.target import Delegation, quiet

SMALL = "test_resnet"


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


class Pieces(nn.Module):
    """What stands between delegated parts unless it is made plainer; two outputs of different shapes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(4, 4)

    def forward(self, x):
        one, two, three = self.first(x).chunk(3, dim=2)  # (B, N, 4)
        y = (one @ two.transpose(1, 2)).softmax(-1) @ three
        return self.second(y)[:, None].squeeze(1), y.mean(1)


class Lacking(nn.Module):
    def forward(self, x):
        columns = F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2)
        small = F.adaptive_avg_pool2d(F.interpolate(columns, scale_factor=2.0, mode="bicubic"), 3)
        boxes = small.flatten(2)[0, :, :4]
        six = x.reshape(1, 3, 2, 4, 2, 4).transpose(3, 4)
        return small, nms(boxes, boxes[:, 0], 0.5), six.sum(), F.scaled_dot_product_attention(x, x, x)


class Five(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


def exported(net, *example):
    with quiet():
        return torch.export.export(net, example, strict=False)


def test_what_a_target_lacks_is_named_with_a_remedy():
    program = exported(Lacking(), torch.randn(1, 3, 8, 8))
    assert highest_rank(program) == 6
    told = {concern.operator: concern for concern in concerns(program, TARGETS["executorch"])}
    lacked = {name for name, concern in told.items() if concern.lacks}
    assert lacked == {"torchvision.nms", "aten.col2im", "tensors of rank 6"}
    assert {"aten.im2col", "aten.upsample_bicubic2d", "aten.scaled_dot_product_attention"} == told.keys() - lacked
    assert all(concern.remedy and concern.count == 1 for concern in told.values())
    assert [concern.operator for concern in concerns(program, TARGETS["onnx"])] == ["aten.adaptive_avg_pool2d"]
    pooled = exported(nn.AdaptiveAvgPool2d(1), torch.randn(1, 3, 8, 8))
    assert operators(pooled) == {"aten.adaptive_avg_pool2d.default": 1} and not concerns(pooled, TARGETS["onnx"])


def test_attention_of_five_dimensions_is_not_for_onnx():
    program = exported(Five(), torch.randn(1, 2, 3, 4, 5))
    (concern,) = concerns(program, TARGETS["onnx"])
    assert concern.lacks and concern.count == 1 and "4 dimensions" in concern.remedy


def test_names_that_are_none_are_the_callers_mistake():
    with pytest.raises(UnknownModel, match="did you mean lit_small"):
        examine_target("lit_smal", "torch")
    with pytest.raises(BadOption, match="no target 'onx'; did you mean onnx"):
        examine_target("lvt", "onx")
    with pytest.raises(BadOption, match="available: retinanet, yolov3"):
        examine_target("lvt", "torch", "detection", "segformer")
    with pytest.raises(BadOption, match="omit it"):
        untrained_card("lvt", "classification", "retinanet", 64)


@needs("executorch")
def test_a_head_that_the_target_cannot_hold_is_told_at_once():
    told = examine_target(SMALL, "executorch", "instance", image_size=64)
    assert told.exit_code == 1 and told.head == "mask_rcnn"
    assert "mask_rcnn needs NMS, which is not exported to executorch; export to onnx" in str(told)


def test_whatever_goes_wrong_is_a_report(monkeypatch):
    def write(*_args):
        try:
            raise KeyError("no such \x1b[96moperator\x1b[0m\n\n  in the kernel table\nand much more\nand more")
        except KeyError as error:
            raise RuntimeError("it did not work") from error

    monkeypatch.setattr(AOTInductor, "write", write)
    told = examine_target(SMALL, "torch", image_size=32)
    assert told.exit_code == 1 and told.bytes is None
    assert (
        told.error.startswith("writing torch: KeyError: ") and "it did not" not in told.error and "\n" not in told.error
    )
    assert told.varies == {"batch": "", "height": "", "width": ""} and told.dynamic == "batch"
    assert "CANNOT be exported" in str(told) and json.loads(json.dumps(told.to_json()))["error"] == told.error


def test_a_file_that_says_something_else_is_not_fit(monkeypatch):
    def write(self, net, example, path, names, dynamic, fp16=False):
        path.write_bytes(b"PK\x03\x04")

    monkeypatch.setattr(AOTInductor, "write", write)
    monkeypatch.setattr(target_check, "may_vary", lambda *_: {"batch": "no"})
    monkeypatch.setattr(AOTInductor, "open", lambda *_: lambda images: [torch.zeros(1, 3)])
    told = examine_target(SMALL, "torch", image_size=32)
    assert told.difference > 0.1 and told.dynamic == "none" and "raw values differ by up to" in told.error
    monkeypatch.setattr(AOTInductor, "open", lambda *_: lambda images: [torch.zeros(1, 4)])
    assert (
        "the outputs of the file are [[1, 4]], of the model [[1, 3]]"
        in examine_target(SMALL, "torch", image_size=32).error
    )


@needs("executorch")
def test_a_model_that_fits_is_written_run_and_compared():
    told = examine_target(SMALL, "executorch", image_size=32)
    assert told.exit_code == 0, str(told)
    assert told.difference < 1e-4 and told.bytes > 1e5 and told.delegated >= 1 and told.rank == 4
    assert all("fixed input size" in why for why in told.varies.values())
    assert "can be exported" in str(told) and "parts delegated" in str(told)


@needs("executorch")
def test_xnnpack_takes_all_of_an_attention(tmp_path):
    net, example, target = Pieces().eval(), torch.randn(1, 5, 6), TARGETS["executorch"]
    delegation = target.write(net, example, tmp_path / "model.pte", ["y", "mean"], "none")
    assert delegation.parts <= 2 and set(delegation.between) <= {"aten.mean.dim"}
    with torch.inference_mode():
        torch.testing.assert_close(target.open(tmp_path / "model.pte")(example), list(net(example)))


class Halves(nn.Module):
    """Products with the second half of its weights, which are scaled first."""

    def __init__(self):
        super().__init__()
        self.joined = nn.Linear(6, 8)

    def forward(self, x):
        weight, bias = (part.chunk(2)[1] for part in (self.joined.weight, self.joined.bias))
        return (F.linear(x, weight * 2, bias),)


@needs("executorch")
def test_parts_of_weights_are_constants_of_their_own(tmp_path):
    net, example, target = Halves().eval(), torch.randn(1, 5, 6), TARGETS["executorch"]
    assert target.write(net, example, tmp_path / "model.pte", ["y"], "none") == Delegation(1, {})
    with torch.inference_mode():
        torch.testing.assert_close(target.open(tmp_path / "model.pte")(example), list(net(example)))


@needs("litert_torch")
def test_litert_gives_the_outputs_in_order(tmp_path):
    net, example, target = Pieces().eval(), torch.randn(1, 5, 6), TARGETS["litert"]
    target.write(net, example, tmp_path / "model.tflite", ["y", "mean"], "none")
    with torch.inference_mode():
        torch.testing.assert_close(target.open(tmp_path / "model.tflite")(example), list(net(example)))
    (tmp_path / "model.tflite").write_bytes(b"nothing")
    with pytest.raises(BadRun, match="LiteRT does not take it"):
        target.open(tmp_path / "model.tflite")


@needs("coremltools")
@pytest.mark.filterwarnings("ignore")  # coremltools' own
def test_coreml_is_written_anywhere_and_run_on_macos(tmp_path):
    net, example, path = Pieces().eval(), torch.randn(1, 5, 6), tmp_path / "model.mlpackage.zip"
    target = TARGETS["coreml"]
    target.write(net, example, path, ["y", "mean"], "none")
    assert path.read_bytes()[:2] == b"PK"
    if sys.platform != "darwin":
        with pytest.raises(BadOption, match="run only on macOS"):
            target.open(path)
        return
    with torch.inference_mode():
        torch.testing.assert_close(target.open(path)(example), list(net(example)), rtol=1e-4, atol=1e-4)
