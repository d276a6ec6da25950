"""The script behind docs/exports.md, at toy size."""

import json

import exports


def test_every_model_is_measured_or_says_why_not(tmp_path, capsys):
    size = ("--image-size", "64", "--count", "1", "--repeats", "1")
    models = ("--models", "test_resnet", "--heads", "yolov3", "--targets", "onnx")
    (row,) = exports.main([*models, *size, "--out", str(tmp_path / "exports.json")])
    assert row.outcome == "same" and row.parity.worst.objects > 0
    assert row.milliseconds > 0 and row.megabytes > 0.5
    refused = exports.measure("test_resnet", "mask_rcnn", "executorch", 64, 1, 1)
    assert "needs NMS" in refused.outcome and refused.parity is None
    assert len(refused.cells()) == len(exports.TITLES)
    assert len(json.loads((tmp_path / "exports.json").read_text())["rows"]) == 1
    lines = (tmp_path / "exports.md").read_text().splitlines()
    assert len(lines) == 3 and {line.count("|") for line in lines} == {len(exports.TITLES) + 1}
    assert capsys.readouterr().out.count("\n") == 1
