"""What random weights cannot show."""

from pathlib import Path

import pytest
import timm
import torch

from featherbone.predictor import Predictor
from featherbone.tasks.backbone import preprocessing_of
from featherbone.tasks.card import Card
from featherbone.tasks.classification import build_classifier
from pretrained import MODEL, write_checkpoint

PHOTOS = (Path(__file__).parents[2] / "../shared/data/photos").resolve()


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the shared photos")
def test_photos_are_classified_by_the_weights_of_a_checkpoint(tmp_path):
    names = tuple(timm.data.ImageNetInfo().label_descriptions())
    checkpoint = write_checkpoint(tmp_path / "weights.pth")
    task = build_classifier(MODEL, names, pretrained=True, checkpoint=str(checkpoint))
    card = Card("classification", MODEL, names, preprocessing_of(MODEL))
    predictor = Predictor(card, task, torch.device("cpu"))
    assert predictor(PHOTOS / "coffee.jpg").name == "espresso"
    assert predictor(PHOTOS / "cat.jpg").name == "tiger cat"
