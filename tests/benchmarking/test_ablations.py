"""Variants of our backbones lack one idea of their paper, and nothing else."""

import copy
import re

import pytest
import timm
import torch
from timm.models import _registry

import ablations
from featherbone.backbones import lightvit, lit, lvt, xformer
from featherbone.tasks.backbone import has_weights, preprocessing_of
from registered import image, on_meta, randomise

NAMES = {make.__name__: original for make, original in ablations.VARIANTS.items()}
GONE = {
    "lvt_conv": r"^stages\.0\.blocks\.\d\.attn\.",
    "xformer_small_softmax": r"\.compress\.|\.temperature$",
    "lit_tiny_plain": r"\.offset\.",
    "lightvit_tiny_local": r"global_tokens$|\.kv_global\.|\.global_norm\.|\.global_proj\.",
    "lightvit_tiny_plain_mlp": r"\.gate\.",
}
"""Patterns of an original's parameters and buffers that its variant does not have, or not in their shape."""
NEW = {"lvt_conv": r"^stages\.0\.blocks\.\d\.attn\.(weight|bias)$"}
"""Those of a variant that its original does not have."""
KINDS = {
    "lvt_conv": lvt.CSA,
    "xformer_small_softmax": xformer.XFA,
    "lightvit_tiny_local": lightvit.Attention,
    "lightvit_tiny_plain_mlp": lightvit.BiDimensionalAttention,
}
"""Module types of the ideas; that of LIT has a plain form."""
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module", autouse=True)
def variants():
    """The variants are registered with timm for these tests only: others list what there is."""
    tables = [
        value for name, value in vars(_registry).items() if name.startswith("_mod") and isinstance(value, dict | set)
    ]
    before = copy.deepcopy([(set if isinstance(table, set) else dict)(table) for table in tables])
    ablations.register()
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@each
def test_a_variant_trains(name):
    torch.manual_seed(0)
    model, x = timm.create_model(name, num_classes=5).train(), image(2, 3, 64, 64)
    logits = model(x)
    assert logits.shape == (2, 5) and logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.parameters())
    assert [x.shape[2] for x in timm.create_model(name, features_only=True)(x)] == [16, 8, 4, 2]


@each
def test_a_variant_differs_from_its_original_by_its_idea_only(name):
    model, original = on_meta(name), on_meta(NAMES[name])
    assert not any(type(module) is KINDS.get(name) for module in model.modules())
    assert any(type(module) is KINDS.get(name, lit.DTM) for module in original.modules())
    own, others = ({key: value.shape for key, value in one.state_dict().items()} for one in (model, original))
    gone = {key for key in others if others[key] != own.get(key)}
    assert gone == {key for key in others if re.search(GONE[name], key)} and gone
    new = {key for key in own if own[key] != others.get(key)}
    assert new == {key for key in own if name in NEW and re.search(NEW[name], key)}
    assert preprocessing_of(name) == preprocessing_of(NAMES[name]) and not has_weights(name)


@torch.no_grad()
def test_convolution_has_fixed_weights():
    """Of two maps, the convolution of the sum is the sum of convolutions; CSA's attention depends on its input."""
    conv, csa = (randomise(timm.create_model(name)).stages[0].blocks[0].attn.double() for name in ("lvt_conv", "lvt"))
    one, two = image(1, 16, 16, 64).double(), image(1, 16, 16, 64, seed=1).double()
    rest = {layer: layer(torch.zeros_like(one)) for layer in (conv, csa)}
    linear = {layer: layer(one + two) + rest[layer] - layer(one) - layer(two) for layer in (conv, csa)}
    assert linear[conv].abs().max() < 1e-9 < 1e-3 < linear[csa].abs().max()


@torch.no_grad()
def test_windows_do_not_see_each_other():
    """A change in one window changes no token of another; in LightViT it reaches all of them."""
    for name, isolated in (("lightvit_tiny_local", True), ("lightvit_tiny", False)):
        attn = randomise(timm.create_model(name)).stages[0].blocks[0].attn
        t = 0 if isolated else 8
        tokens = image(1, t + 10 * 16, 64)  # 10 x 16 positions: windows end in zeros on both sides
        changed = tokens.clone()
        changed[0, t] += 1
        rows = (attn(tokens, 10, 16) - attn(changed, 10, 16)).abs().amax(2)[0, t:].reshape(10, 16)
        assert (rows[:7, :7] > 0).all()
        rows[:7, :7] = 0
        assert (rows.max() == 0) == isolated


@torch.no_grad()
def test_softmax_attention_is_a_mean_of_values():
    """With equal values everywhere the result is that value, whatever the scores; XFA scales it by them."""
    for name, is_mean in (("xformer_small_softmax", True), ("xformer_small", False)):
        model = randomise(timm.create_model(name))
        attn = next(module.attn for module in model.modules() if isinstance(module, xformer.TransformerLayer))
        dim = attn.proj.in_features
        attn.qkv.weight[2 * dim :] = 0
        expected = attn.proj(attn.qkv.bias[2 * dim :])
        assert torch.allclose(attn(image(1, 9, dim)), expected.expand(1, 9, -1), atol=1e-5) == is_mean


@torch.no_grad()
def test_merging_does_not_move_its_taps():
    """A merged position depends on its own 2x2 positions; with learned offsets on others too."""
    for name, plain in (("lit_tiny_plain", True), ("lit_tiny", False)):
        merge = randomise(timm.create_model(name)).stages[1].embed.eval()
        if merge.offset is not None:
            merge.offset.bias += 1
        x = image(1, 8, 8, 64)
        changed = x.clone()
        changed[:, 2:4, 2:4] += 1
        moved = (merge(x) - merge(changed)).abs().amax(3)[0] > 1e-6
        assert moved[1, 1] and (int(moved.sum()) == 1) == plain


def test_costs_are_counted_beside_the_original(capsys):
    rows = ablations.main(["--image-size", "64"])
    assert [row["model"] for row in rows if not row["change"]] == ["lvt", "xformer_small", "lit_tiny", "lightvit_tiny"]
    assert {row["model"] for row in rows if row["change"]} == set(NAMES)
    out = capsys.readouterr().out
    assert "lvt_conv" in out and "3,686,604" in out
