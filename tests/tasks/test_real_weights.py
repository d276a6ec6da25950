"""What random weights cannot show."""

from pathlib import Path

import pytest
import timm
import torch

import featherbone
from featherbone.data.images import read_image
from featherbone.data.sampling import spread
from featherbone.predictor import Predictor
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import Card
from featherbone.tasks.classification import build_classifier
from pretrained import MODEL, write_checkpoint

DATA = (Path(__file__).parents[2] / "../shared/data").resolve()
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared pictures")

SHORT = {"device": "cpu", "workers": 0, "precision": "fp32", "warmup_epochs": 1.0, "eval_every": 1000}
"""Settings of a short training."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """ImageNet weights of `MODEL`."""
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "weights.pth")


def link(source, target, count):
    """Links in the new folder `target` to `count` files of `source`, spread over it."""
    target.mkdir(parents=True)
    files = sorted(source.iterdir())
    for index in spread(len(files), count):
        (target / files[index].name).symlink_to(files[index])


def both(data, folder, checkpoint, **settings):
    """Metrics after training from random weights and from the checkpoint with the same settings."""
    return [
        featherbone.train(
            data, MODEL, out=folder / name, checkpoint=start, pretrained=False, **{**SHORT, **settings}
        ).metrics
        for name, start in (("scratch", None), ("pretrained", str(checkpoint)))
    ]


def test_photos_are_classified_by_the_weights_of_a_checkpoint(checkpoint):
    names = tuple(timm.data.ImageNetInfo().label_descriptions())
    task = build_classifier(MODEL, names, pretrained=True, checkpoint=str(checkpoint))
    card = Card("classification", MODEL, names, preprocessing_of(MODEL))
    predictor = Predictor(card, task, torch.device("cpu"))
    assert predictor(DATA / "photos" / "coffee.jpg").name == "espresso"
    assert predictor(DATA / "photos" / "cat.jpg").name == "tiger cat"


def test_a_new_classifier_starts_from_equal_probabilities(checkpoint):
    task = build_classifier(MODEL, ("cat", "dog", "bird"), pretrained=True, checkpoint=str(checkpoint)).eval()
    image = preprocessing_of(MODEL, 64).transform()(read_image(DATA / "photos" / "cat.jpg"))
    features = task.backbone.forward_features(image[None])
    assert features.std() > 0.1 and torch.equal(task(image[None]), torch.zeros(1, 3))


def test_flowers_are_told_apart(checkpoint, tmp_path):
    """Trained on 16 photos of each class."""
    for split, count in (("train", 16), ("val", 20)):
        for folder in (DATA / "flowers5" / split).iterdir():
            link(folder, tmp_path / "flowers" / split / folder.name, count)
    settings = {"image_size": 112, "epochs": 4, "batch_size": 16, "lr": 2e-3, "auto_augment": "", "erasing": 0.0}
    scratch, pretrained = both(tmp_path / "flowers", tmp_path, checkpoint, **settings)
    assert pretrained["top1"] > 0.6 > scratch["top1"] + 0.2


def test_nuts_are_found(checkpoint, tmp_path):
    """Trained on 14 photos."""
    settings = {"task": "detection", "head_args": "dim=32,num_convs=1", "preset": "small-data", "image_size": 128}
    scratch, pretrained = both(DATA / "nuts", tmp_path, checkpoint, epochs=15, lr=2e-3, **settings)
    assert pretrained["AP50"] > max(0.08, 1.5 * scratch["AP50"])  # that of scratch depends on the processor


def test_streets_are_segmented(checkpoint, tmp_path):
    """Only the head is trained, on 48 frames."""
    (tmp_path / "streets").mkdir()
    (tmp_path / "streets" / "classes.txt").symlink_to(DATA / "camvid" / "classes.txt")
    for kind in ("images", "masks"):
        for split, count in (("train", 48), ("val", 24)):
            link(DATA / "camvid" / kind / split, tmp_path / "streets" / kind / split, count)
    settings = {"task": "semantic", "head_args": "dim=32", "image_size": (96, 128), "batch_size": 4, "freeze": -1}
    scratch, pretrained = both(
        tmp_path / "streets", tmp_path, checkpoint, epochs=6, lr=5e-3, ignore_index=11, **settings
    )
    assert pretrained["pixel_accuracy"] > scratch["pixel_accuracy"] + 0.05
    assert pretrained["mIoU"] > scratch["mIoU"] and pretrained["loss"] < 0.85 * scratch["loss"]
