"""The commands on data as other tools write it: one verdict of `doctor` and `train`."""

import json

import pytest

from featherbone.cli import main
from label_files import write_cvat, write_labelme, write_voc
from scenes import write_coco, write_yolo

FIXED = (
    "--model mobilenetv3_small_050 --no-pretrained --image-size 64 --epochs 1 --batch-size 4 --workers 0 --device cpu"
)
WRITERS = {"voc": write_voc, "labelme": write_labelme, "cvat": write_cvat}
BROKEN = {
    "yolo": ("labels/train/00001.txt", "0 0.5 0.5 0.2 0.2 0.98\n"),
    "voc": ("Annotations/train_001.xml", "<annotation><object/></annotation>"),
    "labelme": ("train/001.json", '{"shapes": [{"label": "a", "points": []}], "imagePath": "001.jpg"}'),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    write_coco(folder / "coco", 6, 3, (64, 64))
    write_yolo(folder / "yolo", 6, 3, (64, 64))
    for name, write in WRITERS.items():
        write(folder / "coco", folder / name)
    return folder


def call(capsys, *arguments):
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", ["yolo/data.yaml", "voc", "labelme", "cvat"])
def test_train_evaluate_and_doctor_take_the_format(world, tmp_path, capsys, name):
    data = world / name
    code, out, err = call(capsys, "doctor", data, "--task", "detection", "--out", tmp_path / "d.html", "--json")
    assert code == 0 and not json.loads(out)["spoiled"], err
    options = "--task detection --head retinanet --head-args dim=16,num_convs=1"
    code, out, err = call(capsys, *f"train --data {data} {options} {FIXED} --out {tmp_path / 'run'}".split())
    assert code == 0, err
    card = json.loads((tmp_path / "run/card.json").read_text())
    assert set(card["classes"]) >= {"circle", "square"} and card["metrics"]["AP"] is not None
    code, out, err = call(capsys, "evaluate", tmp_path / "run", "--data", data, "--json", "--workers", 0)
    assert code == 0 and json.loads(out)["metrics"]["AP"] == pytest.approx(card["metrics"]["AP"]), err


@pytest.mark.parametrize("name", BROKEN)
def test_doctor_and_train_refuse_with_one_text(world, tmp_path, capsys, name):
    file, content = BROKEN[name]
    path = world / name / file
    before = path.read_bytes()
    path.write_text(content)
    data = world / name
    try:
        code, out, _ = call(capsys, "doctor", data, "--task", "detection", "--out", tmp_path / "d.html", "--json")
        found = {one["code"]: one for one in json.loads(out)["findings"]}
        (example,) = found["unreadable-annotation"]["examples"]
        assert code == 1 and example["note"].startswith(file)
        code, _, err = call(capsys, *f"train --data {data} --task detection {FIXED} --out {tmp_path / 'run'}".split())
        assert code == 2 and example["note"] in " ".join(err.split()) and not (tmp_path / "run").exists()
    finally:
        path.write_bytes(before)
