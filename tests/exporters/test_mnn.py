"""MNN files equal their models on decoded results; what MNN does not convert or open is refused with the reason."""

import subprocess
import sys
from copy import deepcopy
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporting import HEADS, a_model, pictures
from featherbone.errors import BadOption, BadRun
from featherbone.exporters.artifact import choose_form
from featherbone.exporters.contract import export_task
from featherbone.exporters.exported import open_task
from featherbone.exporters.targets import TARGETS

TARGET = TARGETS["mnn"]
FAST = ("yolov3", "nms_free_panoptic")
"""Heads of the tests that always run."""
REFUSED = ("mask_rcnn", "panoptic_fpn_light")
pytestmark = pytest.mark.skipif(find_spec("MNN") is None, reason="MNN is not installed")


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        *(("test_resnet", head) for head in FAST),
        ("xformer_small", None),
        *(pytest.param("test_resnet", head, marks=pytest.mark.slow) for head in HEADS if head not in (*FAST, *REFUSED)),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in ("lvt", "lightvit_tiny", "lit_tiny")),
    ],
)
def test_a_file_equals_its_model(backbone, head, tmp_path):
    card, task = a_model(head, backbone)
    parity = export_task(card, task, choose_form(TARGET, card.task, head), tmp_path, pictures())
    assert parity.holds and parity.raw < 2e-4 and parity.images == 3
    _, exported = open_task(tmp_path / "model.mnn")
    with torch.inference_mode():
        assert type(exported(torch.randn(2, 3, 64, 96))) is type(task(torch.randn(1, 3, 64, 96)))


class Small(nn.Module):
    """What MNN approximates or reads otherwise in opset 20: GELU, and sampling."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        y = F.gelu(self.conv(x))
        return y, F.grid_sample(y, 0.3 * y[:, :2].permute(0, 2, 3, 1), align_corners=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small network, an image, and its file."""
    path, net, image = tmp_path_factory.mktemp("small") / "model.mnn", Small().eval(), torch.randn(1, 3, 6, 4)
    TARGET.write(net, image, path, ["gelu", "sampled"], "none")
    return net, image, path


def test_values_are_exact_and_nothing_is_printed(small):
    net, image, path = small
    with torch.inference_mode():
        torch.testing.assert_close(TARGET.open(path)(image), list(net(image)), rtol=1e-5, atol=1e-6)
    code = "import sys; from featherbone.exporters.targets import mnn; mnn.open_mnn(sys.argv[1], 1); print('{}')"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n", "MNN's messages would damage --json"


def test_weights_are_rounded_to_float16(small, tmp_path):
    """MNN's converter truncates them, which changes every weight in one direction and doubles the error."""
    net, image = small[0].conv, small[1]
    TARGET.write(net, image, tmp_path / "model.mnn", ["y"], "none", fp16=True)
    with torch.inference_mode():
        expected, given = deepcopy(net).half().float()(image), net(image)
    torch.testing.assert_close(TARGET.open(tmp_path / "model.mnn")(image), [expected], rtol=1e-5, atol=1e-6)
    assert (expected - given).abs().max() > 5e-5, "the weights are rounded"


def test_weights_in_int8(tmp_path):
    net, image = nn.Conv2d(3, 64, 5), torch.randn(1, 3, 16, 16)
    for name in ("float", "int8"):
        (tmp_path / name).mkdir()
    source, path = (tmp_path / name / "model.mnn" for name in ("float", "int8"))
    TARGET.write(net, image, source, ["y"], "none")
    TARGET.quantize(net, source, path, [image])
    with torch.inference_mode():
        expected, (found,) = net(image), TARGET.open(path)(image)
    assert 1e-4 < (found - expected).std() / expected.std() < 0.02
    assert path.stat().st_size < 0.4 * source.stat().st_size


def test_what_is_not_converted_or_opened_is_refused(small, tmp_path, monkeypatch):
    net, image, _ = small
    monkeypatch.setattr("featherbone.exporters.targets.mnn.CONVERT", "import os; os.abort()")
    with pytest.raises(BadOption, match=r"does not take this network \(exit code -6\); export to onnx"):
        TARGET.write(net, image, tmp_path / "model.mnn", ["gelu", "sampled"], "none")
    (tmp_path / "model.mnn").write_bytes(b"x" * 100)
    with pytest.raises(BadRun, match=r"MNN does not take it .* export the run again"):
        TARGET.open(tmp_path / "model.mnn")
