"""ncnn files equal their models on decoded results; what ncnn cannot compute is refused with the reason."""

import platform
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporting import HEADS, a_model, pictures
from featherbone.errors import BadOption, BadRun
from featherbone.exporters.artifact import Form, choose_form
from featherbone.exporters.contract import export_task
from featherbone.exporters.exported import open_task
from featherbone.exporters.targets import TARGETS
from featherbone.exporters.targets.ncnn import call

NCNN = TARGETS["ncnn"]
ON_ARM = platform.machine() in ("aarch64", "arm64")


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        *(("test_resnet", head) for head in HEADS if head not in ("mask_rcnn", "panoptic_fpn_light")),
        *(("lvt", None), ("xformer_small", None)),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in ("lightvit_tiny", "lit_tiny", "lit_small")),
    ],
)
def test_a_file_equals_its_model(backbone, head, tmp_path):
    card, task = a_model(head, backbone)
    parity = export_task(card, task, choose_form(NCNN, card.task, head), tmp_path, pictures())
    assert parity.holds and parity.raw < 2e-4 and parity.images == 3
    assert {path.name for path in tmp_path.iterdir()} >= {"model.param", "model.bin", "featherbone.json"}
    assert parity.worst.objects > 0 or HEADS[head] != "detection"
    _, exported = open_task(tmp_path / "model.param")
    with torch.inference_mode():
        assert type(exported(torch.randn(2, 3, 64, 96))) is type(task(torch.randn(1, 3, 64, 96)))


@pytest.mark.parametrize(("target", "head"), [("ncnn", "nms_free"), ("openvino", None), ("mnn", "nms_free")])
def test_weights_in_float16(target, head, tmp_path):
    """The results are the model's within the rounding of weights, which there is."""
    pytest.importorskip(TARGETS[target].run_packages[0])
    card, task = a_model(head)
    form = choose_form(TARGETS[target], card.task, head, fp16=True)
    parity = export_task(card, task, form, tmp_path, pictures())
    assert parity.holds and 1e-4 < parity.raw < 0.1
    assert ("in float16 on ARM" in parity.caveat) == (target == "ncnn" and not ON_ARM)
    assert open_task(tmp_path)[1].manifest.precision == "fp16"
    params = sum(value.numel() for value in task.parameters())
    assert TARGETS[target].size(tmp_path) < 2.4 * params


class Maps(nn.Module):
    """A Linear on a map (B, H, W, C), and the mean over its tokens; pnnx finds the batch by the convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 1), nn.Linear(8, 16)

    def forward(self, x):
        y = F.gelu(self.linear(self.conv(x).permute(0, 2, 3, 1)))
        return y.permute(0, 3, 1, 2), y.flatten(1, 2).mean(1)


class Sorted(nn.Module):
    def forward(self, x):
        return (x.sort(3)[0],)


def test_sizes_are_constants_and_outputs_in_order(tmp_path):
    net, example = Maps().eval(), torch.randn(1, 3, 6, 4)
    NCNN.write(net, example, tmp_path / "model.param", ["y", "mean"], "none")
    layers = [line.split() for line in (tmp_path / "model.param").read_text().splitlines()[2:]]
    assert {layer[2] for layer in layers if layer[0] == "Reshape"} == {"1"}, "no Reshape reads sizes from a blob"
    with torch.inference_mode():
        expected = list(net(example))
        torch.testing.assert_close(NCNN.open(tmp_path / "model.param")(example), expected, rtol=1e-5, atol=1e-6)


def test_networks_that_ncnn_cannot_compute_are_refused(tmp_path):
    with pytest.raises(BadOption, match=r"ncnn does not take this network \(layer .* not exists.*; export to onnx"):
        NCNN.write(Sorted(), torch.randn(1, 4, 8, 8), tmp_path / "model.param", ["y"], "none")
    assert not list(tmp_path.iterdir())


def test_a_crash_is_a_message():
    with pytest.raises(BadOption, match=r"pnnx does not take this network \(signal 6\).*choose another backbone"):
        call("pnnx", [sys.executable, "-c", "import os; os.abort()"])


@pytest.mark.parametrize("lines", [1, 3])
def test_a_damaged_file_is_refused(lines, tmp_path):
    (tmp_path / "model.param").write_text("".join(["7767517\n", "1 1\n", "NoLayer a 0 1 in0\n"][:lines]))
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(BadRun, match="export the run again"):
        NCNN.open(tmp_path / "model.param")


def test_normalisation_is_not_part_of_a_file():
    with pytest.raises(BadOption, match="ncnn takes only floats; omit it"):
        choose_form(NCNN, "classification", None, with_pre=True)
    assert choose_form(NCNN, "classification", None) == Form(NCNN, "none")
