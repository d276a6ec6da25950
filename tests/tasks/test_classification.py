import pytest
import torch
from torch.nn import functional as F

from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadCheckpoint, BadOption, UnknownModel
from featherbone.tasks.backbone import build_backbone, preprocessing_of, require_model
from featherbone.tasks.classification import ClassDecoder, Classifier, ClassTargets, build_classifier
from scenes import draw_portrait


@pytest.mark.parametrize("name,args", [("test_resnet", {}), ("lvt_cls", {"mix_token": True})])
def test_four_drawn_images_are_learned_by_heart(name, args):
    torch.manual_seed(0)
    transform = Preprocessing(64, 64, crop=1.0).transform()
    images = torch.stack([transform(draw_portrait(0, i, (64, 64), i).image) for i in range(4)])
    labels = torch.eye(4)
    task = build_classifier(name, ["a", "b", "c", "d"], args).train()
    optimiser = torch.optim.AdamW(task.parameters(), lr=3e-3 if name == "test_resnet" else 1e-3)
    curve = []
    for _ in range(15):
        loss = torch.stack(list(task.losses(task(images), ClassTargets(labels)).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(loss.item())
    records = task.eval().decoder(task(images))
    assert sum(curve[-5:]) < 0.2 * sum(curve[:5])
    assert [record.name for record in records] == ["a", "b", "c", "d"]


def test_decode_is_softmax_and_order():
    decoder = ClassDecoder(("x", "y", "z"), top=2)
    (record,) = decoder(torch.tensor([[0.0, 2.0, 1.0]]))
    (complete,) = decoder.exhaustive()(torch.tensor([[0.0, 2.0, 1.0]]))
    assert complete.names == ("y", "z", "x")
    expected = torch.tensor([0.0, 2.0, 1.0]).softmax(0)
    assert record.labels == (1, 2) and record.names == ("y", "z")
    assert record.scores == pytest.approx((expected[1].item(), expected[2].item()))
    assert record.to_json()["classes"][0] == {"label": 1, "name": "y", "score": record.score}


def test_losses_by_the_formula():
    logits, teacher = torch.randn(4, 3), torch.randn(4, 3)
    labels = F.one_hot(torch.tensor([0, 1, 2, 1]), 3).float()
    plain = F.cross_entropy(logits, labels, label_smoothing=0.1)
    soft = Classifier(torch.nn.Identity(), "abc", smoothing=0.1, temperature=3, distillation_weight=0.25)
    terms = soft.losses(logits, ClassTargets(labels, teacher))
    p, q = (teacher / 3).softmax(1), (logits / 3).softmax(1)
    torch.testing.assert_close(terms["class"], 0.75 * plain)
    torch.testing.assert_close(terms["teacher"], 0.25 * 9 * (p * (p / q).log()).sum(1).mean())
    hard = Classifier(torch.nn.Identity(), "abc", distillation="hard", distillation_weight=0.25)
    torch.testing.assert_close(
        hard.losses(logits, ClassTargets(labels, teacher))["teacher"], 0.25 * F.cross_entropy(logits, teacher.argmax(1))
    )


def test_names_are_checked():
    with pytest.raises(UnknownModel, match="did you mean lvt"):
        require_model("lvtt")
    with pytest.raises(UnknownModel, match="no weights 'a9_in1k'"):
        require_model("resnet18.a9_in1k")
    require_model("resnet18.a1_in1k")


def test_preprocessing_is_the_models_own():
    assert preprocessing_of("lvt_cls").crop == 0.96
    assert preprocessing_of("xformer_small").height == 256
    assert preprocessing_of("lvt", 96).width == 96
    assert preprocessing_of("mobilevit_s").mean == (0.0, 0.0, 0.0)
    with pytest.raises(BadOption, match="32 pixels"):
        preprocessing_of("lvt", 16)


def test_wrong_checkpoints_and_arguments(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(BadCheckpoint, match="does not fit lvt"):
        build_backbone("lvt", pretrained=True, checkpoint=str(tmp_path / "other.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(BadCheckpoint, match="does not fit lvt"):
        build_backbone("lvt", pretrained=True, checkpoint=str(tmp_path / "text.pth"))
    with pytest.raises(BadCheckpoint, match="--checkpoint FILE"):
        build_backbone("lvt", pretrained=True)
    with pytest.raises(BadOption, match="does not take"):
        build_backbone("lvt", colour=3)
