import pytest

from featherbone.errors import BadOption, MissingExtra
from featherbone.exporters.artifact import choose_form
from featherbone.exporters.targets import TARGETS, find_target


def test_targets_are_found_by_name():
    assert find_target("onnx").file == "model.onnx"
    with pytest.raises(BadOption, match=r"no target 'onx'; did you mean onnx\?"):
        find_target("onx")


@pytest.mark.parametrize(
    ("target", "task", "head", "form", "allowed"),
    [
        ("executorch", "instance", "mask_rcnn", {}, "export to onnx, openvino, torch.* the head nms_free_masks"),
        ("executorch", "detection", "yolov3", {"with_nms": True}, "export to onnx, openvino, torch"),
        ("executorch", "classification", None, {"dynamic": "batch"}, "give none"),
        ("executorch", "panoptic", "nms_free_panoptic", {"dynamic": "batch"}, "give none"),
        ("onnx", "panoptic", "panoptic_fpn", {"dynamic": "batch"}, "give none"),
        ("onnx", "semantic", "segformer", {"with_nms": True}, "omit it, segformer is not one"),
        ("onnx", "detection", "nms_free", {"with_nms": True}, "omit it, nms_free is not one"),
        ("onnx", "instance", "nms_free_masks", {"with_nms": True}, "omit it, nms_free_masks is not one"),
        ("web", "detection", "yolov3", {"with_nms": True}, "omit with-pre and with-nms"),
        ("web", "detection", "yolov3", {"dynamic": "size"}, "give none or batch"),
        ("onnx", "detection", "yolov3", {"fp16": True}, "not available for onnx; export to openvino or ncnn or mnn"),
    ],
)
def test_impossible_forms_are_refused_before_work_starts(target, task, head, form, allowed):
    with pytest.raises(BadOption, match=allowed):
        choose_form(find_target(target), task, head, **form)


def test_as_much_varies_as_can():
    assert choose_form(TARGETS["onnx"], "detection", "retinanet").dynamic == "batch"
    assert choose_form(TARGETS["onnx"], "detection", "retinanet", with_nms=True).dynamic == "none"
    assert choose_form(TARGETS["onnx"], "instance", "mask_rcnn").dynamic == "none"
    for task, head in (("detection", "nms_free"), ("instance", "nms_free_masks"), ("panoptic", "nms_free_panoptic")):
        assert choose_form(TARGETS["onnx"], task, head).dynamic == "batch"
        assert choose_form(TARGETS["onnx"], task, head, "size").dynamic == "size"
        assert choose_form(TARGETS["executorch"], task, head).dynamic == "none"
    assert choose_form(TARGETS["executorch"], "classification", None).dynamic == "none"


def test_a_missing_tool_chain_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("featherbone.exporters.targets.target.find_spec", lambda package: None)
    with pytest.raises(MissingExtra, match=r"openvino, onnx.* not installed; pip install 'featherbone\[openvino\]'"):
        choose_form(TARGETS["openvino"], "classification", None)
