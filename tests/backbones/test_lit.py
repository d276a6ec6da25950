import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from featherbone.backbones.lit import DTM, LIT, Attention, LearnedGrid, PositionBias, checkpoint_filter_fn
from featherbone.errors import BadCheckpoint, BadOption

sys.path.insert(0, str(Path(__file__).parents[1] / "goldens"))
import weights as goldens

SIZES = {  # published name, parameters and multiply-adds
    "lit_tiny": ("lit_ti", 19.886, 3.62),
    "lit_small": ("lit_s", 27.974, 4.08),
    "lit_medium": ("lit_m", 49.372, 8.61),
    "lit_base": ("lit_b", 87.292, 15.05),
}
KINDS = pytest.mark.parametrize("class_token", [True, False], ids=["Ti", "SMB"])


def mini(class_token=False, **arguments):
    """A narrow LIT of either kind whose every parameter matters, in evaluation mode."""
    torch.manual_seed(0)
    options = dict(dims=(16, 16, 32, 32), depths=(1, 1, 2, 1), head_dim=16, num_classes=5, class_token=class_token)
    net = LIT(**{**options, "global_pool": "token" if class_token else "avg", **arguments}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def image(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SIZES)
def test_agrees_with_the_reference(name):
    """In float64, as float32 differs by processor.

    What is left is the reference's own float32 rounding: up to 1.08e-5 behind the first DTM, where a
    wrong eps of a norm costs 3.9e-5 or more.
    """
    published, params, gmacs = SIZES[name]
    with torch.device("meta"):
        net = timm.create_model(name).eval()
    loaded = net.load_state_dict(checkpoint_filter_fn(goldens.state_dict(published), net), strict=False, assign=True)
    assert not loaded.unexpected_keys and all(key.endswith("num_batches_tracked") for key in loaded.missing_keys)
    assert round(sum(parameter.numel() for parameter in net.parameters()) / 1e6, 3) == params
    net.double().requires_grad_(False)  # the counter follows gradients
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        logits = net(goldens.image(2, 224, 224).double())
    assert counter.get_total_flops() / 4e9 == pytest.approx(gmacs, rel=0.01)  # two a multiply-add, two images
    assert goldens.compare(f"{published}.logits@2x224x224/0", logits) < 1e-5
    with torch.inference_mode():
        maps = net.forward_intermediates(goldens.image(1, 224, 224).double(), intermediates_only=True)
    for i, level in enumerate(maps):
        assert goldens.compare(f"{published}.features@1x224x224/{i}", level) < (1.2e-5 if i == 1 else 1e-5)


@KINDS
def test_any_size_in_any_order(class_token):
    net = mini(class_token)
    with torch.inference_mode():
        for height, width in ((32, 32), (61, 131), (224, 97), (33, 1024), (64, 64), (61, 131)):
            maps = net.forward_intermediates(image(height, width, batch=1), intermediates_only=True)
            rows, columns = (side // 4 if class_token else -(-side // 4) for side in (height, width))
            expected = [(rows // 2**i, columns // 2**i) for i in range(4)]
            assert [tuple(level.shape[2:]) for level in maps] == expected
            assert torch.equal(net(image(height, width, batch=1)), mini(class_token)(image(height, width, batch=1)))
    with pytest.raises(BadOption, match="32 or more"):
        net(image(31, 64))


def test_the_odd_row_is_seen_only_by_wandering_taps():
    merge = mini().stages[1].embed
    x = torch.randn(1, 5, 4, 16)
    changed = x.clone()
    changed[:, 4] += 1
    assert merge(x).shape == (1, 2, 2, 16)
    assert not torch.equal(merge(x), merge(changed))
    with torch.no_grad():
        for parameter in merge.offset.parameters():
            parameter.zero_()
    torch.testing.assert_close(merge(x), merge(changed))


@pytest.mark.parametrize("size", [(14, 14), (3, 5), (1, 20)])
def test_bias_is_the_resized_table_by_distance(size):
    height, width = size
    bias = PositionBias(num_heads=2, side=14)
    torch.nn.init.normal_(bias.weight)
    table = F.interpolate(bias.weight[None], (2 * height - 1, 2 * width - 1), mode="bicubic", align_corners=False)[0]
    got = bias(height, width).reshape(2, height, width, height, width)
    for y, x, key_y, key_x in [(0, 0, 0, 0), (height - 1, 0, 0, width - 1), (0, width - 1, height - 1, width // 2)]:
        expected = table.flatten(1)[:, (y - key_y + height - 1) * (2 * width - 1) + (x - key_x + width - 1)]
        torch.testing.assert_close(got[:, y, x, key_y, key_x], expected)


def test_embeddings_are_resized_but_for_that_of_the_class_token():
    embed = mini(class_token=True).stages[3].positions
    tokens = embed(torch.zeros(2, 3, 10, 32))
    torch.testing.assert_close(tokens[1, 0], (embed.cls_token + embed.cls_position)[0, 0])
    expected = F.interpolate(embed.grid.weight[None], (3, 10), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(tokens[1, 1:].T.reshape(32, 3, 10), expected)


@KINDS
def test_gradients_reach_every_parameter_and_recomputation_changes_nothing(class_token):
    gradients = []
    for recompute in (False, True):
        net = mini(class_token).train()
        net.set_grad_checkpointing(recompute)
        net(image(72, 90)).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    assert all(grad is not None and grad.any() for grad in gradients[0].values())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_offsets_start_at_zero_and_learn_slowly():
    net = LIT(dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), head_dim=16, num_classes=5)
    merges = [module for module in net.modules() if isinstance(module, DTM)]
    assert not any(parameter.any() for merge in merges for parameter in merge.offset.parameters())
    net.train()(image(64, 64)).sum().backward()
    assert all(parameter.grad.any() for merge in merges for parameter in merge.offset.parameters())
    names = dict(net.named_parameters())
    for pattern, factor in net.lr_scales().items():
        chosen = [name for name in names if re.search(pattern, name)]
        assert chosen == [f"stages.{i}.embed.offset.weight" for i in (1, 2, 3)] and factor == 0.01


@KINDS
def test_learned_positions_are_not_decayed_and_depth_orders_the_groups(class_token):
    net = mini(class_token)
    learned = {name for name, module in net.named_modules() if isinstance(module, LearnedGrid)}
    tokens = {"stages.3.positions.cls_token", "stages.3.positions.cls_position"} if class_token else set()
    assert net.no_weight_decay() == {f"{name}.weight" for name in learned} | tokens
    groups = timm.models.group_parameters(net, net.group_matcher())
    depth = {name: group for group, names in groups.items() for name in names}
    blocks = [f"stages.{i}.blocks.{j}.mlp.0.weight" for i, count in enumerate((1, 1, 2, 1)) for j in range(count)]
    order = ["stages.0.embed.proj.weight", *blocks]
    assert [depth[name] for name in order] == sorted({depth[name] for name in order})
    assert depth["norm.weight"] == depth[blocks[-1]] < depth["head.weight"]
    assert depth[blocks[0]] < depth["stages.1.embed.conv.weight"] < depth[blocks[1]]


@KINDS
def test_heads_come_and_go(class_token):
    net = mini(class_token)
    x = image(64, 96)
    features = net.forward_features(x)
    assert features.shape == ((2, 7, 32) if class_token else (2, 2, 3, 32))
    torch.testing.assert_close(net.forward_head(features), net(x))
    pooled = net.forward_head(features, pre_logits=True)
    expected = features[:, 0] if class_token else features.mean((1, 2))
    torch.testing.assert_close(pooled, expected)
    net.reset_classifier(0)
    torch.testing.assert_close(net(x), pooled)
    net.reset_classifier(0, "")
    torch.testing.assert_close(net(x), features)
    net.reset_classifier(9, "avg")
    assert net(x).shape == (2, 9)
    with pytest.raises(BadOption, match="'avg'"):
        net.reset_classifier(9, "max")
    final, maps = net.forward_intermediates(x, norm=True, output_fmt="NHWC")
    torch.testing.assert_close(final, features)
    torch.testing.assert_close(maps[3].flatten(1, 2), features[:, 1:] if class_token else features.flatten(1, 2))


@pytest.mark.parametrize("name", ["lit_tiny", "lit_small"])
def test_features_of_every_subset_without_memory(name):
    with torch.device("meta"):
        x = torch.empty(1, 5, 100, 75)
        for indices in ((0,), (1,), (2,), (3,), (0, 2), (1, 3), (0, 1, 2, 3)):
            net = timm.create_model(name, features_only=True, out_indices=indices, in_chans=5)
            maps = net(x)
            channels = [net.feature_info.channels()[i] for i in range(len(indices))]
            assert [level.shape[1] for level in maps] == channels
            assert net.feature_info.reduction() == [4 * 2**i for i in indices]
            columns = 18 if name == "lit_tiny" else 19  # with position biases, images are padded to multiples of 4
            assert [tuple(level.shape[2:]) for level in maps] == [(25 // 2**i, columns // 2**i) for i in indices]


@KINDS
def test_attention_stages(class_token):
    stages = (1, 2, 3) if class_token else (0, 1)
    net = mini(class_token, attention_stages=stages)
    has = [isinstance(stage.blocks[0].attn, Attention) for stage in net.stages]
    assert has == [i in stages for i in range(4)]
    heads = [module.num_heads for module in net.modules() if isinstance(module, Attention)]
    assert heads == ([1, 2, 2, 2] if class_token else [1, 1])
    assert net(image(64, 72)).isfinite().all()
    with pytest.raises(BadOption, match="0, 1, 2 and 3"):
        mini(attention_stages=(2, 4))
    with pytest.raises(BadOption, match="class token reads"):
        mini(class_token=True, attention_stages=(2,))


def test_plain_merging_is_deformable_merging_without_offsets():
    plain, deformable = mini(deformable=False), mini()
    loaded = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert all(".offset." in name for name in loaded.missing_keys) and not loaded.unexpected_keys
    with torch.no_grad():
        for module in deformable.modules():
            if isinstance(module, DTM):
                module.offset.weight.zero_()
                module.offset.bias.zero_()
    torch.testing.assert_close(plain(image(70, 64)), deformable(image(70, 64)))
    with pytest.raises(BadOption, match="deformable=True"):
        plain.stages[1].embed.offsets(torch.zeros(1, 4, 4, 16))


@KINDS
def test_what_it_looks_at(class_token):
    net = mini(class_token)
    attention, merge = net.stages[2].blocks[0].attn, net.stages[2].embed
    x = torch.randn(2, 15, 32)
    maps = attention.attend(x, 3, 5)
    assert maps.shape == (2, 2, 15, 15)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, 15))
    mixed = (maps @ attention.project(x)[2]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.proj(mixed), attention(x, 3, 5))
    assert merge.offsets(torch.randn(2, 7, 6, 16)).shape == (2, 8, 3, 3)


@KINDS
def test_learning_at_another_size_gives_the_same_there(class_token):
    net, x = mini(class_token), image(96, 161)
    expected = net(x)
    net.set_input_size((96, 161))
    grids = [module for module in net.modules() if isinstance(module, LearnedGrid)]
    assert grids[-1].weight.shape[1:] == ((3, 5) if class_token else (5, 9))
    torch.testing.assert_close(net(x), expected)
    program = torch.export.export(net, (x[:1],))
    assert not any("upsample" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x[:1]), expected[:1])


@pytest.mark.slow  # test_contract compiles it for one size
def test_compiles_whole_for_any_size():
    net = mini(depths=(1, 1, 1, 1))
    compiled = torch.compile(net, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for size in ((64, 96), (70, 131)):
            torch.testing.assert_close(compiled(image(*size)), net(image(*size)))


@pytest.mark.parametrize("name", ["lit_tiny", "lit_small"])
def test_published_tables_of_another_size_are_resized(name):
    with torch.device("meta"):
        net = timm.create_model(name)
    published = goldens.state_dict(SIZES[name][0])
    grown = {"pos_embed3": (1, 400, 320), "pos_embed4": (1, 101, 512)}
    for key in published:
        if key.endswith("relative_position_bias_table"):
            grown[key] = (39**2, published[key].shape[1])
    for key in grown.keys() & published.keys():
        published[key] = torch.randn(grown[key])
    published["layers.2.blocks.0.attn.relative_position_index"] = torch.zeros(3)
    ours = checkpoint_filter_fn({"model": {f"module.{key}": value for key, value in published.items()}}, net)
    shapes = {key: value.shape for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in ours.items()} == shapes
    if name == "lit_tiny":
        assert torch.equal(ours["stages.3.positions.cls_position"][0], published["pos_embed4"][0, :1])
        rows = published["pos_embed3"][0].T.reshape(1, 320, 20, 20)
        expected = F.interpolate(rows, (14, 14), mode="bilinear")[0]
        torch.testing.assert_close(ours["stages.2.positions.grid.weight"], expected)
        with pytest.raises(BadCheckpoint, match="not a square grid"):
            checkpoint_filter_fn({**published, "pos_embed1": torch.zeros(1, 12, 64)}, net)


def test_our_own_checkpoint_is_left_alone():
    state = mini().state_dict()
    assert checkpoint_filter_fn({"state_dict": state}, mini()) == state
