"""The script behind docs/exports.md, at toy size."""

import json

import exports


def test_every_model_is_measured_or_says_why_not(tmp_path, capsys):
    size = ("--image-size", "64", "--count", "1", "--repeats", "1")
    what = ("--models", "test_resnet", "--heads", "yolov3", "mask_rcnn", "--targets", "onnx", "executorch")
    rows = exports.main([*what, *size, "--out", str(tmp_path / "exports.json")])
    told = {(row.head, row.target): row for row in rows}
    assert told["yolov3", "onnx"].outcome == told["yolov3", "executorch"].outcome == told["mask_rcnn", "onnx"].outcome
    assert told["yolov3", "onnx"].outcome == "same" and told["yolov3", "onnx"].parity.worst.objects > 0
    assert told["yolov3", "onnx"].milliseconds > 0 and told["yolov3", "onnx"].megabytes > 0.5
    refused = told["mask_rcnn", "executorch"]
    assert "needs NMS" in refused.outcome and refused.parity is None
    assert len(json.loads((tmp_path / "exports.json").read_text())["rows"]) == 4
    lines = (tmp_path / "exports.md").read_text().splitlines()
    assert len(lines) == 6 and {line.count("|") for line in lines} == {len(exports.TITLES) + 1}
    assert capsys.readouterr().out.count("\n") == 4
