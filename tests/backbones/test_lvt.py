import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from torch.nn import functional as F

from featherbone.backbones import lvt
from featherbone.errors import BadOption
from featherbone.layers.token_labelling import Box, TokenLabels, token_label_losses

weights = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "goldens/weights.py")))
NAMES = ("lvt", "lvt_cls")


def create(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs)


def published(name):
    """The model with the golden weights, which come under their published names."""
    model = create(name)
    model.load_state_dict(lvt.checkpoint_filter_fn(weights.state_dict(name), model))
    return model.eval()


def image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_published_code(name):
    with torch.no_grad():
        logits = published(name)(weights.image(2, 224, 224))
    assert weights.compare(f"{name}.logits@2x224x224/0", logits) < 1e-5


def test_maps_are_those_of_the_published_code():
    with torch.no_grad():
        maps = published("lvt").forward_intermediates(weights.image(1, 224, 224), intermediates_only=True)
    for i, level in enumerate(maps):
        assert weights.compare(f"lvt.features@1x224x224/{i}", level) < 1e-5


def test_backbone_without_its_head():
    assert count(create("lvt", num_classes=0)) == 3_429_604


def rasa_by_hand(rasa, x, reduction, depth):
    """y_1 = f(x), y_t = f(input_t) with input_t = input_{t-1} + y_{t-1}; f with explicit taps, cuts and softmax."""
    p = dict(rasa.named_parameters())
    b, height, width, c = x.shape
    d = c // rasa.num_heads

    def query(x):
        q = x @ p["q.weight"].T
        total = 0
        for dilation in (1, 3, 5):
            padded = F.pad(q, (0, 0, *[dilation] * 4))
            y = 0
            for row in range(3):
                for column in range(3):
                    top, left = row * dilation, column * dilation
                    y = y + p["atrous"][:, 0, row, column] * padded[:, top : top + height, left : left + width]
            total = total + y * y.sigmoid()
        return total

    def reduced(x):
        if reduction == 1:
            return x
        h, w = height // reduction, width // reduction
        cells = x[:, : h * reduction, : w * reduction].reshape(b, h, reduction, w, reduction, c)
        y = torch.einsum("byrxsc,ocrs->byxo", cells, p["reduce.weight"]) + p["reduce.bias"]
        return F.layer_norm(y, (c,), p["norm.weight"], p["norm.bias"])

    def f(x):
        q = query(x).flatten(1, 2)
        k, v = (reduced(x).flatten(1, 2) @ p["kv.weight"].T).chunk(2, dim=-1)
        heads = [slice(h * d, (h + 1) * d) for h in range(rasa.num_heads)]
        y = torch.cat([(q[..., s] @ k[..., s].mT / math.sqrt(d)).softmax(-1) @ v[..., s] for s in heads], dim=-1)
        y = y @ p["proj.weight"].T + p["proj.bias"]
        return (y * y.sigmoid()).reshape(x.shape)

    y = f(x)
    for _ in range(depth - 1):
        x = x + y
        y = f(x)
    return y


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("reduction", "size"), [(1, (3, 5)), (2, (7, 5)), (4, (9, 11))])
def test_rasa_is_its_description_at_every_depth(depth, reduction, size):
    rasa = lvt.RASA(12, num_heads=3, reduction=reduction, recursion=depth).double()
    for parameter in rasa.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = image(2, *size, 12).double()
    torch.testing.assert_close(rasa(x), rasa_by_hand(rasa, x, reduction, depth))


def test_every_depth_has_the_same_weights():
    models = [create("lvt", recursion=depth).eval() for depth in (1, 2, 3)]
    assert models[0].state_dict().keys() == models[2].state_dict().keys()
    with torch.no_grad():
        one, two, three = (model(image(1, 3, 64, 64)) for model in models)
    assert not torch.allclose(one, two) and not torch.allclose(two, three)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_random_depth_is_one_for_the_whole_network(monkeypatch, recompute):
    """Logits and gradients of a training step are those of a model with the depth that was drawn."""
    model, x = create("lvt", recursion="random", num_classes=5).train(), image(2, 3, 32, 32)
    model.set_grad_checkpointing(recompute)
    for depth in (3, 1, 2):
        drawn = []
        monkeypatch.setattr(lvt, "draw_depth", lambda depth=depth, drawn=drawn: drawn.append(depth) or depth)
        fixed = create("lvt", recursion=depth, num_classes=5).train()
        for one in (model, fixed):
            one.zero_grad()
        outputs = [one(x) for one in (model, fixed)]
        monkeypatch.setattr(lvt, "draw_depth", lambda: pytest.fail("recomputation draws no depth"))
        for output in outputs:
            output.square().sum().backward()
        assert drawn == [depth] and torch.equal(*outputs)
        for mine, theirs in zip(model.parameters(), fixed.parameters(), strict=True):
            assert torch.equal(mine.grad, theirs.grad)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), create("lvt", num_classes=5).eval()(x)), "evaluation has the paper's depth"


def test_depths_are_drawn_uniformly_from_the_seed():
    torch.manual_seed(0)
    drawn = [lvt.draw_depth() for _ in range(3000)]
    assert all(900 < drawn.count(depth) < 1100 for depth in (1, 2, 3)) and set(drawn) == {1, 2, 3}
    torch.manual_seed(0)
    assert [lvt.draw_depth() for _ in range(20)] == drawn[:20]


def test_bounded_keys_change_nothing_up_to_224_and_stay_few_beyond(monkeypatch):
    torch.manual_seed(0)
    plain = create("lvt", num_classes=5).eval()
    bounded = create("lvt", num_classes=5, key_side=7).eval()
    bounded.load_state_dict(plain.state_dict())
    keys = []
    attend = lvt.attention
    counted = staticmethod(lambda q, k, v: keys.append(k.shape[2]) or attend(q, k, v))
    monkeypatch.setattr(lvt.RASA, "attention", counted)
    with torch.inference_mode():
        small, large = image(1, 3, 224, 192).float(), image(1, 3, 512, 250).float()
        assert torch.equal(bounded(small), plain(small))
        keys.clear()
        bounded(large)
        assert len(keys) == 12 and max(keys) <= 49
        plain(large)
        assert min(keys[12:]) > 49


def test_bounded_keys_are_means_of_blocks_and_a_rest_is_cut_off():
    x = torch.arange(30.0).reshape(1, 1, 5, 6)
    expected = torch.stack([x[0, 0, :3, :3].mean(), x[0, 0, :3, 3:].mean()])
    assert torch.equal(lvt.limit_sides(x, 2).flatten(), expected)
    assert lvt.limit_sides(x, 6) is x


@pytest.mark.parametrize("side", [0, -7, 1.5, True, "foo"])
def test_a_bad_key_side_is_refused_by_the_remedy(side):
    with pytest.raises(BadOption, match="such as 7"):
        create("lvt", key_side=side)


@pytest.mark.parametrize("recursion", [0, -1, "foo", 1.5, True])
def test_a_bad_depth_is_refused_by_the_remedy(recursion):
    with pytest.raises(BadOption, match=r"whole number from 1 up, or random"):
        create("lvt", recursion=recursion)


def test_csa_attention_looks_at_the_mean_of_the_valid_pixels():
    csa = lvt.CSA(8, num_heads=2).double()
    x = image(1, 5, 3, 8).double()
    attention = csa.attend(x)
    assert attention.shape == (1, 3, 2, 2, 81)
    for p in range(3):
        for q in range(2):
            mean = x[0, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2].flatten(0, 1).mean(0)
            scores = csa.attention(mean).reshape(2, 9, 9) / math.sqrt(4)
            torch.testing.assert_close(attention[0, p, q], scores.softmax(-1).flatten(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 32), (37, 101), (224, 33)])
def test_any_size(name, size):
    model = create(name, num_classes=5, in_chans=2).eval()
    with torch.no_grad():
        maps = model.forward_intermediates(image(2, 2, *size), intermediates_only=True)
        logits = model(image(2, 2, *size))
        single = model(image(2, 2, *size)[1:])
    for i, level in enumerate(maps):
        assert level.shape[2:] == tuple(math.ceil(side / (4 * 2**i)) for side in size)
    torch.testing.assert_close(logits[1:], single, rtol=1e-4, atol=1e-5)


def mixed(model, x, box, monkeypatch):
    monkeypatch.setattr(lvt, "draw_box", lambda height, width: box)
    with torch.no_grad():
        return model(x)


def mixing(**kwargs):
    model = create("lvt_cls", num_classes=5, mix_token=True, **kwargs).train()
    for parameter in model.parameters():  # far from zero, so that positions differ
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_training_by_token_labels_reaches_every_parameter():
    model = create("lvt_cls", num_classes=5, mix_token=True, drop_path_rate=0.1).train()
    out = model(image(4, 3, 70, 96))
    assert isinstance(out, TokenLabels)
    assert (out.logits.shape, out.aux_logits.shape) == ((4, 5), (4, 3, 3, 5))
    sum(token_label_losses(out, torch.eye(5)[:4]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert model.eval()(image(4, 3, 70, 96)).shape == (4, 5)


def test_an_empty_box_mixes_nothing_and_a_full_one_comes_home(monkeypatch):
    model = mixing()
    x = image(3, 3, 96, 64)
    nothing = mixed(model, x, Box(0, 0, 0, 0), monkeypatch)
    with torch.no_grad():
        logits, aux_logits = model.head.both(model.levels(x, last=3)[-1])
    torch.testing.assert_close(nothing[:2], (logits, aux_logits))
    everything = mixed(model, x, Box(0, 0, 3, 2), monkeypatch)
    torch.testing.assert_close(everything.aux_logits, aux_logits)  # swapped there and back
    torch.testing.assert_close(everything.logits, logits.flip(0))  # the class token saw the reversed batch


def test_every_position_speaks_of_its_own_image(monkeypatch):
    """Without blocks a position sees its cell and those above and left of it; on one side of the box all is unmixed."""
    model = mixing()
    for stage in model.stages:
        stage.blocks = torch.nn.ModuleList()
    x, box = image(4, 3, 224, 224), Box(2, 1, 6, 5)
    out = mixed(model, x, box, monkeypatch)
    with torch.no_grad():
        _, alone = model.head.both(model.levels(x, last=3)[-1])
    inside = torch.zeros(7, 7, dtype=torch.bool)
    inside[box.top : box.bottom, box.left : box.right] = True
    pure = torch.zeros(7, 7, dtype=torch.bool)
    for row in range(7):
        for column in range(7):
            seen = inside[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1]
            pure[row, column] = bool((seen == inside[row, column]).all())
    assert (pure & inside).sum() == 9 and (pure & ~inside).sum() >= 20
    torch.testing.assert_close(out.aux_logits[:, pure], alone[:, pure])
    assert not torch.allclose(out.aux_logits[:, ~pure], alone[:, ~pure])
    assert not torch.allclose(alone, alone.flip(0))


def test_mix_token_needs_the_auxiliary_head():
    with pytest.raises(ValueError, match="lvt_cls"):
        create("lvt", mix_token=True)


def test_a_new_classifier_leaves_the_class_attention_as_it_was():
    model = published("lvt_cls")
    x = weights.image(1, 64, 64)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), pooled)
    assert model(x).shape == (1, 7)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)


WRAPPERS = [
    lambda s: s,
    lambda s: {"model": s},
    lambda s: {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in s.items()}},
    lambda s: {"state_dict": {name: value + 1 for name, value in s.items()}, "state_dict_ema": s},  # averaged first
]


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", NAMES)
def test_published_checkpoint_loads_in_any_wrapper(name, wrap, tmp_path):
    torch.save(wrap(weights.state_dict(name)), tmp_path / "published.pth")
    model = create(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / "published.pth")))
    for key, value in published(name).state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_own_checkpoint_is_left_alone(name):
    own = create(name).state_dict()
    kept = lvt.checkpoint_filter_fn(own, create(name))
    assert kept.keys() == own.keys()
    assert all(torch.equal(kept[key], own[key]) for key in own)


@pytest.mark.parametrize("name", NAMES)
def test_published_checkpoint_adapts_to_other_channels_and_classes(name, tmp_path):
    torch.save(weights.state_dict(name), tmp_path / "published.pth")
    overlay = dict(file=str(tmp_path / "published.pth"))
    with pytest.warns(UserWarning, match="start from random weights"):
        model = create(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=7).eval()
    stem = published(name).stages[0].embed.proj.weight
    torch.testing.assert_close(model.stages[0].embed.proj.weight, stem.sum(1, keepdim=True))
    grey = weights.image(1, 64, 64)[:, :1]
    torch.testing.assert_close(
        model.forward_features(grey), published(name).forward_features(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
    )
    assert model(grey).shape == (1, 7)


def test_published_checkpoint_loads_as_a_dense_backbone(tmp_path):
    torch.save(weights.state_dict("lvt_cls"), tmp_path / "published.pth")
    overlay = dict(file=str(tmp_path / "published.pth"))
    features = create("lvt_cls", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True).eval()
    x = weights.image(1, 64, 64)
    expected = published("lvt_cls").forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(features(x), expected)
