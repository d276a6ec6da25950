import copy
import inspect
import math

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models import group_parameters
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from featherbone.backbones import xformer
from featherbone.errors import BadOption
from featherbone.ops.xfa import cross_feature_attention_plain

CHANNELS = (64, 96, 128, 160)


def create(**kwargs):
    torch.manual_seed(0)
    return timm.create_model("xformer_small", **kwargs)


@pytest.fixture(scope="module")
def net():
    return create().eval()


def image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def gmacs(model, *shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    return counter.get_total_flops() / 2e9


def randomise(model):
    """Parameters and running statistics far from their initial ones and zeros, so that no term can hide."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            scale = 1 if value.ndim == 1 else math.prod(value.shape[1:]) ** -0.5
            value.normal_(0, scale, generator=generator)
    return model


def test_sums_are_those_that_fix_the_reconstruction(net):
    assert count(net) == 5_541_500
    assert count(net.stem) + count(net.stages) == count(net) - count(net.head) == 4_796_820
    assert gmacs(net, 1, 3, 224, 224) == pytest.approx(1.36, rel=0.02)
    assert gmacs(net, 1, 3, 256, 256) == pytest.approx(1.78, rel=0.02)


def test_docstrings_name_the_reconstruction():
    for named in (xformer, xformer.XFormer, xformer.xformer_small):
        assert "RECONSTRUCT" in inspect.getdoc(named)
    assert "reconstruction" in xformer.PUBLISHED["xformer_small"].note


def reference(model, x, score_dim):
    """Logits written from the description alone, block by block, with the quadratic form of the attention."""
    p = model.state_dict()

    def norm_act(x, name, linear=False):
        x = F.batch_norm(x, *(p[f"{name}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))
        return x if linear else x * F.relu6(x + 3) / 6

    def conv(x, name, linear=False, **kwargs):
        weight = p[f"{name}.conv.weight"]
        return norm_act(F.conv2d(x, weight, padding=weight.shape[-1] // 2, **kwargs), name, linear)

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def layer_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])

    def mv3(x, name, stride=1, squeeze=False):
        y = conv(x, f"{name}.expand")
        y = conv(y, f"{name}.depthwise", groups=y.shape[1], stride=stride)
        if squeeze:
            gate = F.conv2d(
                y.mean((2, 3), keepdim=True), p[f"{name}.squeeze.fc1.weight"], p[f"{name}.squeeze.fc1.bias"]
            )
            gate = F.conv2d(F.relu(gate), p[f"{name}.squeeze.fc2.weight"], p[f"{name}.squeeze.fc2.bias"])
            y = y * F.relu6(gate + 3) / 6
        y = conv(y, f"{name}.project", linear=True)
        return x + y if y.shape == x.shape else y

    def xfa(x, name):
        q, k, v = (
            torch.stack(part.split(part.shape[-1] // 4, dim=-1), dim=1)  # (B, heads, N, d)
            for part in linear(x, f"{name}.qkv").chunk(3, dim=-1)
        )
        q, k = (part / part.square().sum(-1, keepdim=True).sqrt() for part in (q, k))
        if score_dim:
            weight, bias = p[f"{name}.compress.weight"], p[f"{name}.compress.bias"]
            grouped = [  # a real grouped convolution over channels
                F.conv1d(
                    part.transpose(2, 3).flatten(1, 2),
                    w.transpose(1, 2).flatten(0, 1)[..., None],
                    b.flatten(),
                    groups=4,
                )
                for part, w, b in ((q, weight[:4], bias[:4]), (k, weight[4:], bias[4:]))
            ]
            q, k = (part.unflatten(1, (4, score_dim)).transpose(2, 3) for part in grouped)
        y = cross_feature_attention_plain(q, k, v, p[f"{name}.temperature"])
        return linear(torch.cat(y.unbind(1), dim=-1), f"{name}.proj")

    def xf(x, name, depth):
        y = F.conv2d(conv(x, f"{name}.local"), p[f"{name}.expand.weight"])
        tokens = y.flatten(2).transpose(1, 2)
        for i in range(depth):
            layer = f"{name}.layers.{i}"
            tokens = tokens + xfa(layer_norm(tokens, f"{layer}.norm1"), f"{layer}.attn")
            hidden = F.hardswish(linear(layer_norm(tokens, f"{layer}.norm2"), f"{layer}.mlp.0"))
            tokens = tokens + linear(hidden, f"{layer}.mlp.2")
        y = layer_norm(tokens, f"{name}.norm").transpose(1, 2).reshape(y.shape)
        return conv(torch.cat([x, conv(y, f"{name}.project")], dim=1), f"{name}.merge")

    x = mv3(conv(x, "stem.0", stride=2), "stem.1")
    x = mv3(mv3(mv3(x, "stages.0.0", 2), "stages.0.1"), "stages.0.2")
    x = xf(mv3(x, "stages.1.0", 2), "stages.1.1", depth=2)
    x = xf(mv3(x, "stages.2.0", 2, squeeze=True), "stages.2.1", depth=4)
    x = xf(mv3(x, "stages.3.0", 2, squeeze=True), "stages.3.1", depth=3)
    return linear(conv(x, "head.conv").mean((2, 3)), "head.fc")


@pytest.mark.parametrize(("score_dim", "height", "width"), [(4, 64, 64), (8, 37, 61), (0, 33, 64)])
def test_network_is_its_description(score_dim, height, width):
    model = randomise(create(score_dim=score_dim, num_classes=10).double().eval())
    x = image(2, 3, height, width).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference(model, x, score_dim), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 61), (32, 1024), (1024, 37)])
def test_every_stride_rounds_up(size):
    with torch.device("meta"):
        maps = create().eval().forward_intermediates(torch.empty(1, 3, *size), intermediates_only=True)
    for i, (level, channels) in enumerate(zip(maps, CHANNELS, strict=True)):
        assert level.shape == (1, channels, *(math.ceil(side / (4 * 2**i)) for side in size))


def test_recomputation_changes_neither_gradients_nor_running_statistics_of_the_twin():
    kept = create(num_classes=7, drop_path_rate=0.2, softmax_attention=True).train()
    recomputed = copy.deepcopy(kept)
    recomputed.set_grad_checkpointing()
    for model in (kept, recomputed):
        torch.manual_seed(3)
        model(image(4, 3, 64, 64)).square().sum().backward()
    for (name, a), b in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(kept.named_buffers(), recomputed.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_recomputation_saves_activations():
    def saved_numbers(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model(image(2, 3, 64, 64))
        return sum(sizes)

    model = create().train()
    before = saved_numbers(model)
    model.set_grad_checkpointing()
    assert saved_numbers(model) < before
    model.set_grad_checkpointing(False)
    assert saved_numbers(model) == before


def test_mistakes_name_their_remedy():
    with pytest.raises(BadOption, match="0 for no compression"):
        create(score_dim=-1)


def test_score_dim_moves_the_sums_little_and_none_is_zero():
    assert count(create(score_dim=0)) == count(xformer.xformer_small(score_dim=None)) == 5_527_644
    assert count(create(score_dim=8)) == 5_555_356


def attention_macs(attention, num_tokens):
    return gmacs(attention, 1, num_tokens, 128)


def test_xfa_costs_grow_linearly_and_those_of_its_softmax_twin_do_not():
    xfa, twin = xformer.XFA(128, 4, 4), xformer.SoftmaxAttention(128, 4)
    assert attention_macs(xfa, 2048) == pytest.approx(2 * attention_macs(xfa, 1024), rel=1e-6)
    assert attention_macs(twin, 2048) > 2.5 * attention_macs(twin, 1024)


def test_softmax_twin_is_multi_head_attention():
    twin = xformer.SoftmaxAttention(32, 4).double()
    x = image(2, 15, 32).double()
    expected, _ = F.multi_head_attention_forward(
        *[x.transpose(0, 1)] * 3, 32, 4, twin.qkv.weight, twin.qkv.bias, None, None, False, 0.0, *twin.proj.parameters()
    )
    torch.testing.assert_close(twin(x), expected.transpose(0, 1))
    names = {type(module).__name__ for module in create(softmax_attention=True).modules()}
    assert "SoftmaxAttention" in names and "XFA" not in names


def test_feature_scores_explain_what_the_block_computes():
    attention = xformer.XFA(32, 4, 4)
    attention.apply(xformer.init_weights)
    x = image(2, 15, 32)
    q, k, v = attention.scores(x)
    assert (q.shape, k.shape, v.shape) == ((2, 4, 15, 4), (2, 4, 15, 4), (2, 4, 15, 8))
    y = cross_feature_attention_plain(q, k, v, attention.temperature)
    torch.testing.assert_close(attention.proj(y.transpose(1, 2).flatten(2)), attention(x))


def test_layer_ids_follow_depth(net):
    for coarse, depth in ((True, 6), (False, 20)):
        ids = group_parameters(net, net.group_matcher(coarse), reverse=True)
        in_order = [ids[name] for name, _ in net.named_parameters()]  # modules are registered from input to output
        assert in_order == sorted(in_order)
        assert sorted(set(in_order)) == list(range(depth))


def test_drop_path_rises_linearly_over_the_transformer_layers():
    rates = [module.drop_prob for module in create(drop_path_rate=0.4).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.05 * i for i in range(9)])
