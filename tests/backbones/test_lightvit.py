import itertools
import runpy
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import timm
import torch
from timm.models import group_parameters

from featherbone.backbones import lightvit
from featherbone.backbones.lightvit import Attention, BiDimensionalAttention, LightViT, Merge, Mlp, State
from featherbone.deployment import deploy
from featherbone.errors import BadOption
from featherbone.ops.windows import Windows

weights = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "goldens/weights.py")))
SIZES = ("lightvit_tiny", "lightvit_small", "lightvit_base")


def small(**kwargs):
    """A LightViT of three blocks with random statistics, so that every term counts."""
    torch.manual_seed(0)
    model = LightViT(**dict(dict(num_classes=5, dims=(32, 64, 96), depths=(1, 1, 1), num_global_tokens=3), **kwargs))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    return model.eval()


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_agrees_with_the_published_code(name):
    model = timm.create_model(name).eval().double()
    ours = lightvit.checkpoint_filter_fn(weights.state_dict(name), model)
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert weights.compare(f"{name}.logits@2x224x224/0", model(weights.image(2, 224, 224).double())) < 1e-5
    maps = model.forward_intermediates(weights.image(1, 224, 224).double(), [1, 2, 3], intermediates_only=True)
    for i, feature in enumerate(maps):
        assert weights.compare(f"{name}.features@1x224x224/{i}", feature) < 1e-5


def test_published_checkpoint_loads_by_file(tmp_path):
    model = timm.create_model("lightvit_tiny")
    published = weights.state_dict("lightvit_tiny")
    published |= {f"patch_embed.stem.{i}.num_batches_tracked": torch.tensor(0) for i in (1, 4, 7, 10)}
    published["stages.0.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    path = tmp_path / "published.pth"
    torch.save({"state_dict_ema": {f"module.{name}": value for name, value in published.items()}}, path)
    loaded = timm.create_model("lightvit_tiny", pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    assert torch.equal(loaded.stages[2].blocks[0].attn.qkv.weight, published["stages.2.1.attn.qkv.weight"])
    ours = model.state_dict()
    assert list(lightvit.checkpoint_filter_fn(ours, model)) == list(ours)


def attention_in_words(attn, tokens, height, width, size):
    """One query at a time, as the paper has it: local with zero tokens that carry the qkv bias, gather, broadcast."""
    dim, t = tokens.shape[1], len(tokens) - height * width
    q, k, v = attn.qkv(tokens).split(dim, dim=1)
    _, k_pad, v_pad = attn.qkv.bias.split(dim)
    out = torch.zeros_like(q)
    for own in torch.arange(dim).split(lightvit.HEAD_DIM):
        scale, head = lightvit.HEAD_DIM**-0.5, own[0] // lightvit.HEAD_DIM
        weights = (q[:t, own] @ k[t:, own].T * scale).softmax(1)
        out[:t, own] = weights @ v[t:, own]
        for y, x in itertools.product(range(height), range(width)):
            scores, values = [], []
            for i, j in itertools.product(range(size), range(size)):
                row, column = y // size * size + i, x // size * size + j
                inside = row < height and column < width
                at = t + row * width + column
                key, value = (k[at, own], v[at, own]) if inside else (k_pad[own], v_pad[own])
                offset = (y % size - i + size - 1) * (2 * size - 1) + x % size - j + size - 1
                scores.append(q[t + y * width + x, own] @ key * scale + attn.bias_table[offset, head])
                values.append(value)
            out[t + y * width + x, own] = torch.stack(scores).softmax(0) @ torch.stack(values)
    k_g, v_g = attn.kv_global(out[:t]).split(dim, dim=1)
    for own in torch.arange(dim).split(lightvit.HEAD_DIM):
        out[t:, own] += (q[t:, own] @ k_g[:, own].T * lightvit.HEAD_DIM**-0.5).softmax(1) @ v_g[:, own]
    return attn.proj(out)


@pytest.mark.parametrize(("height", "width", "size"), [(3, 3, 3), (4, 7, 3), (1, 1, 3), (2, 5, 7)])
@torch.no_grad()
def test_attention_is_local_gather_broadcast(height, width, size):
    attn = Attention(64, size).double()
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(2, 4 + height * width, 64, dtype=torch.float64)
    expected = torch.stack([attention_in_words(attn, one, height, width, size) for one in tokens])
    torch.testing.assert_close(attn(tokens, height, width), expected)


@torch.no_grad()
def test_global_attention_shows_what_the_global_tokens_gather():
    attn = small().stages[0].blocks[0].attn
    tokens = torch.randn(2, 3 + 4 * 5, 32)
    shown = attn.global_attention(tokens, 4, 5)
    assert shown.shape == (2, 1, 3, 20)
    torch.testing.assert_close(shown.sum(-1), torch.ones(2, 1, 3))
    gathered = shown[:, 0] @ attn.qkv(tokens)[:, 3:, 64:]
    torch.testing.assert_close(attn(tokens, 4, 5)[:, :3], attn.proj(gathered))


@torch.no_grad()
def test_gates_weigh_channels_and_positions():
    gate = BiDimensionalAttention(8)
    y = torch.randn(2, 6, 8)
    channel, spatial = gate.gates(y)
    assert channel.shape == (2, 1, 8)
    assert spatial.shape == (2, 6, 1)
    torch.testing.assert_close(gate(y), y * channel * spatial)
    # Another token in another place moves the channel gate only through the mean over all tokens.
    torch.testing.assert_close(gate.gates(y.flip(1))[0], channel)
    torch.testing.assert_close(gate.gates(y.flip(1))[1], spatial.flip(1))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (3, 5), (1, 1)])
@torch.no_grad()
def test_merging_takes_columns_of_2x2_neighbours(height, width):
    merge, tokens = Merge(4, 6), torch.randn(1, 2 + height * width, 4)
    merged = merge(State(tokens, height, width))
    image = torch.zeros(height + height % 2, width + width % 2, 4)
    image[:height, :width] = tokens[0, 2:].reshape(height, width, 4)
    assert merged[1:] == (len(image) // 2, image.shape[1] // 2)
    torch.testing.assert_close(merged.tokens[:, :2], merge.global_proj(merge.global_norm(tokens[:, :2])))
    for i, (y, x) in enumerate(itertools.product(range(0, len(image), 2), range(0, image.shape[1], 2))):
        four = torch.stack([image[y, x], image[y + 1, x], image[y, x + 1], image[y + 1, x + 1]])
        expected = merge.reduce(merge.norm(four.flatten())) + merge.residual(four.amax(0))
        torch.testing.assert_close(merged.tokens[0, 2 + i], expected)


@pytest.mark.parametrize(("size", "moves"), [((224, 224), 2), ((224, 448), 3), ((256, 224), 8)])
@torch.no_grad()
def test_deployed_tokens_are_moved_once_a_stage(size, moves):
    """Where windows cut its maps evenly, else once a block; a map as wide as a window needs no cutting."""
    model, images = timm.create_model("lightvit_tiny", num_classes=3).eval().double(), torch.randn(2, 3, *size).double()
    form = deploy(model, size)
    with patch.object(Windows, "cut", wraps=Windows.cut) as moved:
        got = form(images)
    torch.testing.assert_close(got, model(images))
    assert sum(call.args[0].shape[2] != 7 for call in moved.call_args_list) == moves


@torch.no_grad()
def test_intermediates_may_stop_early_or_carry_the_norm():
    model, images = small(), torch.randn(1, 3, 64, 64)
    final, (stem,) = model.forward_intermediates(images, [0], stop_early=True, output_fmt="NHWC")
    torch.testing.assert_close(final, stem.flatten(1, 2))
    final, (last,) = model.forward_intermediates(images, 1, norm=True, output_fmt="NHWC")
    torch.testing.assert_close(model.neck(last.flatten(1, 2)), final[:, 3:])


def test_every_parameter_learns_and_checkpointing_changes_nothing(monkeypatch):
    model, images, recomputed = small(), torch.randn(2, 3, 64, 96), []
    plain = lightvit.checkpoint
    monkeypatch.setattr(lightvit, "checkpoint", lambda *args: recomputed.append(args) or plain(*args))
    grads = []
    for enable in (False, True):
        model.train().set_grad_checkpointing(enable)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        model.zero_grad()
        model(images).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        grads.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
    assert len(recomputed) == 3
    model.eval()(images)
    assert len(recomputed) == 3


def test_knobs():
    images = torch.randn(2, 3, 64, 64)
    assert small(num_global_tokens=5).forward_features(images).shape[1] == 5 + 4
    assert small(window_size=4).stages[0].blocks[0].attn.bias_table.shape == (49, 1)
    assert not any(isinstance(module, BiDimensionalAttention) for module in small(bidimensional=False).modules())
    mlp, x = Mlp(8, 16, bidimensional=False), torch.randn(1, 3, 8)
    torch.testing.assert_close(mlp(x), mlp.fc2(torch.nn.functional.gelu(mlp.fc1(x))))
    rates = [b.drop_path.drop_prob for s in small(drop_path_rate=0.2).stages for b in s.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([0.0, 0.1, 0.2]))
    model = small(drop_rate=1.0).train()
    assert not model.forward_head(model.forward_features(images), pre_logits=True).any()
    with pytest.raises(BadOption, match="must be 1 or more"):
        small(num_global_tokens=0)


def test_groups_follow_depth():
    model = timm.create_model("lightvit_tiny", device="meta")
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    order = ["stem.0.weight", "stages.0.embed.global_tokens"], ["stages.0.blocks.0.norm1.bias"]
    order += (
        ["stages.0.blocks.1.mlp.gate.norm.bias"],
        ["stages.1.embed.reduce.weight"],
        ["stages.1.blocks.0.norm1.bias"],
    )
    order += ["stages.2.blocks.5.attn.bias_table"], ["norm.bias", "neck.0.weight"], ["head.weight"]
    depths = [{groups[name] for name in names} for names in order]
    assert all(len(depth) == 1 for depth in depths)
    assert depths == sorted(depths, key=min)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    spared = model.no_weight_decay()
    assert len(spared) == 1 + 14
    assert spared <= set(groups)


@pytest.mark.filterwarnings("ignore")  # of the exporter about itself
@torch.no_grad()
def test_onnx_takes_any_size_in_at_most_five_dimensions(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, path = small(), tmp_path / "model.onnx"
    free = ({axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)},)
    example = (torch.randn(2, 3, 500, 470),)  # several windows in every stage
    program = torch.export.export(deploy(model, form="size"), example, dynamic_shapes=free, strict=False)
    ranks = [node.meta["val"].ndim for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    assert max(ranks) == 5
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    for shape in [(2, 3, 224, 224), (1, 3, 32, 32), (3, 3, 61, 97), (1, 3, 33, 300)]:
        images = torch.randn(shape)
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=1e-4, atol=1e-4)
