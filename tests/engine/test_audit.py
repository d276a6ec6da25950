"""The label audit of the doctor: on labels that were flipped, and for the maps and objects of every task."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import featherbone
from featherbone.errors import BadData
from featherbone.tasks.card import Card
from featherbone.tasks.run import build_task, save_weights
from featherbone.tasks.task import KINDS
from registered import randomise
from scenes import write_coco, write_masks, write_panoptic

COLOURS = {"blue": (40, 60, 200), "green": (50, 170, 60), "red": (200, 50, 50)}
FLIPPED = range(0, 120, 20)
"""Images, 5% of each split, in the folder of another class."""


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """A run on noisy colours."""
    folder = tmp_path_factory.mktemp("audit")
    generator = np.random.default_rng(0)
    names = list(COLOURS)
    for split in ("train", "val"):
        for number in range(120):
            label = number % 3
            pixels = generator.normal(COLOURS[names[label]], 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            place = folder / "data" / split / names[(label + (number in FLIPPED)) % 3]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:03}.png")
    result = featherbone.train(
        folder / "data", "test_resnet", out=folder / "run", image_size=32, batch_size=8, epochs=4, lr=3e-3, mixup=0.0,
        cutmix=0.0, auto_augment="", erasing=0.0, smoothing=0.0, warmup_epochs=1, pretrained=False, device="cpu",
        workers=0,
    )  # fmt: skip
    return folder / "data", result.run


def test_flipped_labels_are_found_and_the_split_is_stated(flipped, tmp_path):
    data, run = flipped
    result = featherbone.doctor(data, run=run, device="cpu", out=tmp_path / "doctor.html")
    findings = [one for one in result.to_json()["findings"] if one["code"] == "contradicted-labels"]
    found = {one["examples"][0]["split"]: one for one in findings}
    assert "trained on these images" in found["train"]["message"] and "trained on" not in found["val"]["message"]
    first = found["val"]["examples"][: len(FLIPPED)]
    right = [int(one["names"][0][-7:-4]) in FLIPPED for one in first]
    assert len(right) >= 5 and np.mean(right) >= 0.8, first
    names = list(COLOURS)
    for one in (one for one, hit in zip(first, right, strict=True) if hit):
        label = int(one["names"][0][-7:-4]) % 3
        assert (one["given"], one["predicted"]) == (names[(label + 1) % 3], names[label]) and one["confidence"] > 0.5
    page = (tmp_path / "doctor.html").read_text()
    assert page.count("<img ") >= len(first) and "given " in page and not result.examination.spoiled


def test_other_classes_are_refused(flipped, tmp_path):
    _, run = flipped
    for split in ("train", "val"):
        for name in ("ant", "bumblebee"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = np.random.default_rng((len(name), len(split), number)).integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    with pytest.raises(BadData, match="the run"):
        featherbone.doctor(tmp_path / "data", run=run, device="cpu", out=tmp_path / "doctor.html")
    assert not (tmp_path / "doctor.html").exists()


@pytest.mark.parametrize(
    ("task", "write"),
    [("detection", write_coco), ("instance", write_coco), ("semantic", write_masks), ("panoptic", write_panoptic)],
)
def test_every_task_has_an_audit(task, write, tmp_path):
    """A model that knows nothing contradicts a lot."""
    write(tmp_path / "data", 3, 2, (64, 64))
    kind = KINDS[task]
    head = {"instance": "nms_free_masks", "panoptic": "nms_free_panoptic"}.get(task, next(iter(kind.heads)))
    classes = ("circle", "square", "triangle", "star", "cross", "ring")
    classes += () if task in ("detection", "instance") else ("grass", "water", "brick")
    card = Card(
        task, "test_resnet", classes, kind.preprocessing("test_resnet", kind.heads[head], 64), head=head,
        head_args={"dim": 16}, things=(0, 1, 2, 3, 4, 5) if task == "panoptic" else (),
    )  # fmt: skip
    torch.manual_seed(0)
    card.write(tmp_path / "run")
    save_weights(tmp_path / "run", randomise(build_task(card)))
    page = tmp_path / "doctor.html"
    result = featherbone.doctor(tmp_path / "data", task=task, run=tmp_path / "run", device="cpu", out=page)
    found = [one for one in result.to_json()["findings"] if one["code"] in kind.audit(card).messages]
    facts = {"split", "given", "predicted", "confidence"}
    assert found and all(facts <= example.keys() for one in found for example in one["examples"])
    assert json.dumps(found) and not any("trained on" in one["message"] for one in found)
