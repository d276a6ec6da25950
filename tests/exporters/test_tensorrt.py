"""Files for TensorRT hold only operators that its parser takes, and say that they ran in another runtime."""

import json
from importlib.util import find_spec

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporting import a_model, pictures
from featherbone.benchmarking.speed import noted
from featherbone.benchmarking.table import SpeedRow
from featherbone.errors import BadOption
from featherbone.exporters.artifact import Form
from featherbone.exporters.contract import export_task
from featherbone.exporters.target_check import examine_target
from featherbone.exporters.targets import TARGETS
from featherbone.exporters.targets.onnx import ONNX
from featherbone.exporters.targets.tensorrt import OPERATORS

TARGET = TARGETS["tensorrt"]
FAMILIES = {
    "lvt": {"recursion": 1},
    "lightvit_tiny": {"depths": (1, 1, 1)},
    "xformer_small": {},
    "lit_tiny": {"depths": (1, 1, 1, 1)},
}
"""The smallest size of each family, and arguments that make it shallow."""


def operators(folder):
    return {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}


@pytest.mark.parametrize(
    ("backbone", "head", "arguments"),
    [
        *((name, None, arguments) for name, arguments in FAMILIES.items()),
        *(pytest.param(name, None, {}, marks=pytest.mark.slow) for name, arguments in FAMILIES.items() if arguments),
        ("test_resnet", "retinanet", {}),
        ("test_resnet", "mask_rcnn", {}),
    ],
)
def test_a_file_holds_operators_of_tensorrt_and_says_where_it_ran(backbone, head, arguments, tmp_path):
    card, task = a_model(head, backbone, model_args=arguments)
    dynamic = "none" if head == "mask_rcnn" else "batch"
    parity = export_task(card, task, Form(TARGET, dynamic), tmp_path / "out", pictures())
    assert parity.holds and str(parity).endswith("run by ONNX Runtime on the CPU, not by TensorRT")
    assert "not by TensorRT" in json.loads((tmp_path / "out" / "parity.json").read_text())["caveat"]
    assert "not by TensorRT" in (tmp_path / "out" / "parity.html").read_text()
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert "Conv" in operators(tmp_path / "out") <= OPERATORS
    if backbone == "lit_tiny":
        assert "Gather" in operators(tmp_path / "out")


def test_bytes_are_read_by_cast_only(tmp_path):
    """TensorRT takes bytes as inputs, but has no other operator for them."""
    card, task = a_model("retinanet")
    assert export_task(card, task, Form(TARGET, with_pre=True, with_nms=True), tmp_path / "out", pictures()).holds
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert {node.op_type for node in graph.node if "images" in node.input} == {"Cast"}
    assert "NonMaxSuppression" in operators(tmp_path / "out") <= OPERATORS


class Sampling(nn.Module):
    def forward(self, x):
        small = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
        return (F.grid_sample(F.interpolate(small, scale_factor=2.0, mode="bicubic"), x[:, :2].permute(0, 2, 3, 1)),)


def test_what_tensorrt_lacks_is_refused(tmp_path):
    net, example = Sampling().eval(), torch.randn(1, 3, 8, 8)
    with pytest.raises(BadOption, match="the network needs") as caught:
        TARGET.write(net, example, tmp_path / "model.onnx", ["y"], "none")
    assert sorted(str(caught.value).split("needs ")[1].split(", which")[0].split(", ")) == [
        *("GridSample (1)", "Resize with antialias (1)", "bicubic Resize (1)")
    ]


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("tensorrt") is None, reason="tensorrt is not installed")
@pytest.mark.parametrize("name", FAMILIES)
def test_tensorrt_computes_what_onnx_runtime_does(name, tmp_path):
    card, task = a_model(None, name)
    assert export_task(card, task, Form(TARGET, "batch"), tmp_path / "out", pictures()).caveat == ""
    path, images = tmp_path / "out" / "model.onnx", torch.randn(18, 3, 64, 96)
    torch.testing.assert_close(TARGET.open(path)(images), ONNX().open(path)(images), rtol=1e-3, atol=1e-3)


def test_doctor_and_bench_state_where_the_file_ran():
    assert "not by TensorRT" in str(examine_target("test_resnet", "tensorrt", image_size=32))
    rows = [SpeedRow("test_resnet", runtime, 1, 32, 32) for runtime in ("tensorrt", "onnx", "eager")]
    assert ["not by TensorRT" in noted(row).note for row in rows] == [True, False, False]
