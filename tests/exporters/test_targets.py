import pytest

from featherbone.errors import BadOption, MissingExtra
from featherbone.exporters.targets import TARGETS, find_target, settle


def test_targets_are_found_by_name():
    assert find_target("onnx").file == "model.onnx"
    with pytest.raises(BadOption, match=r"no target 'onx'; did you mean onnx\?"):
        find_target("onx")


@pytest.mark.parametrize(
    ("target", "task", "head", "form", "allowed"),
    [
        ("executorch", "instance", "mask_rcnn", {}, "export to onnx, openvino, torch"),
        ("executorch", "detection", "yolov3", {"nms": True}, "export to onnx, openvino, torch"),
        ("executorch", "classification", None, {"dynamic": "batch"}, "give none"),
        ("onnx", "panoptic", "panoptic_fpn", {"dynamic": "batch"}, "give none"),
        ("onnx", "semantic", "segformer", {"nms": True}, "with-nms is for detectors"),
        ("web", "detection", "yolov3", {"nms": True}, "leave with-pre and with-nms out"),
        ("web", "detection", "yolov3", {"dynamic": "size"}, "give none or batch"),
    ],
)
def test_what_cannot_be_is_said_before_work_starts(target, task, head, form, allowed):
    with pytest.raises(BadOption, match=allowed):
        settle(find_target(target), task, head, **form)


def test_as_much_varies_as_can():
    assert settle(TARGETS["onnx"], "detection", "retinanet") == "batch"
    assert settle(TARGETS["onnx"], "detection", "retinanet", nms=True) == "none"
    assert settle(TARGETS["onnx"], "instance", "mask_rcnn") == "none"
    assert settle(TARGETS["executorch"], "classification", None) == "none"


def test_a_missing_tool_chain_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("featherbone.runtimes.find_spec", lambda package: None)
    with pytest.raises(MissingExtra, match=r"openvino, onnx.* not installed; pip install 'featherbone\[openvino\]'"):
        settle(TARGETS["openvino"], "classification", None)
