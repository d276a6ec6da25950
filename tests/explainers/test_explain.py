import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from featherbone import explainers
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption, BadRun
from featherbone.explainers import Subject, explain, find_subject, lightvit, lit
from featherbone.explainers.cam import evidence, grid_of, last_map, link, stride_of
from featherbone.explainers.capture import inputs_of
from featherbone.explainers.figures import Panel, draw_panels
from featherbone.explainers.lightvit import lightvit_sections
from featherbone.explainers.lit import attention_pictures, offsets_caption, tap_pixels
from featherbone.explainers.lvt import atrous_responses, csa_weights, rasa_steps, windows_of
from featherbone.explainers.rollout import attention_maps, attentions_of, is_plain_vit, rollout
from featherbone.explainers.view import see
from featherbone.explainers.xformer import implied_weights, strongest
from featherbone.ops.csa import convolutional_self_attention
from featherbone.tasks.card import Card
from featherbone.tasks.classification import Classifier, build_classifier
from featherbone.tasks.run import load_task, save_weights
from registered import image, net, randomise

FAMILIES = ("lvt", "lit_tiny", "lightvit_tiny", "xformer_small")


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def file(picture, tmp_path):
    picture.save(tmp_path / "<i>picture.png")
    return tmp_path / "<i>picture.png"


def make_run(folder, backbone, classes, preprocessing=None):
    torch.manual_seed(0)
    Card("classification", backbone, classes, preprocessing or Preprocessing(64, 64)).write(folder)
    save_weights(folder, randomise(build_classifier(backbone, classes)))
    return folder


def num_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


class TestView:
    @pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 48)])
    @pytest.mark.parametrize("crop", [0.875, 1.0])
    @pytest.mark.parametrize("shape", [(300, 200), (181, 367), (40, 30)])
    def test_a_dot_at_the_point_is_where_the_view_says(self, size, crop, shape):
        preprocessing = Preprocessing(*size, crop, mean=(0, 0, 0), std=(1, 1, 1))
        width, height = shape
        middle = see(Image.new("RGB", shape), preprocessing)
        x1, y1, x2, y2 = middle.box
        x, y = int(x1 + 0.3 * (x2 - x1)), int(y1 + 0.6 * (y2 - y1))
        radius = max(width, height) // 50 + 1
        image = Image.new("RGB", shape)
        image.paste("white", (x - radius, y - radius, x + radius + 1, y + radius + 1))
        view = see(image, preprocessing, (x + 0.5, y + 0.5))
        seen = preprocessing.transform()(image)[0]
        rows, columns = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
        assert (seen * columns).sum() / seen.sum() == pytest.approx(view.x, abs=0.6)
        assert (seen * rows).sum() / seen.sum() == pytest.approx(view.y, abs=0.6)

    def test_its_picture_is_what_the_network_saw(self, picture):
        preprocessing = Preprocessing(64, 96, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
        smooth = picture.resize((12, 8)).resize(picture.size, Image.Resampling.BICUBIC)
        drawn = np.asarray(see(smooth, preprocessing).picture(96)) / 255
        assert np.abs(drawn - preprocessing.transform()(smooth).permute(1, 2, 0).numpy()).mean() < 0.01

    def test_a_point_out_of_sight_is_told_the_rectangle(self, picture):
        with pytest.raises(BadOption, match=r"x from 25 to 94, y from 5 to 74, of 120 x 80"):
            see(picture, Preprocessing(64, 64), (10, 40))
        with pytest.raises(BadOption):
            see(picture, Preprocessing(64, 64), (float("nan"), 40))

    def test_cells_tile_the_input(self, picture):
        corners = [see(picture, Preprocessing(64, 64), point).cell(4, 4, 16) for point in ((25, 5), (94, 74), (61, 39))]
        assert corners == [(0, 0), (3, 3), (1, 2)]


class TestLVT:
    def test_the_windows_of_a_position_are_those_whose_result_it_is(self):
        """A position's value is the sum over exactly those windows, of the row of A that its tap there has."""
        csa = net("lvt").stages[0].blocks[0].attn
        x = image(1, 7, 6, 64)
        weights = csa.attend(x)
        for row, column in ((0, 0), (2, 3), (3, 3), (6, 5), (5, 4)):
            kept = torch.zeros_like(weights).unflatten(-1, (9, 9))
            for i, j, tap in windows_of(row, column, 4, 3):
                kept[0, i, j, :, tap] = csa_weights(csa, x, i, j)[:, tap]
            whole = convolutional_self_attention(x, weights, csa.weight)[0, row, column]
            part = convolutional_self_attention(x, kept.flatten(-2), csa.weight)[0, row, column]
            torch.testing.assert_close(part, whole)

    def test_csa_weights_equal_a_direct_computation(self):
        csa = net("lvt").stages[0].blocks[0].attn
        x = image(1, 8, 8, 64)
        pooled = x[0, 4:6, 2:4].mean((0, 1))
        scores = (csa.attention.weight @ pooled + csa.attention.bias).reshape(2, 9, 9) * 32**-0.5
        torch.testing.assert_close(csa_weights(csa, x, 2, 1), scores.softmax(2))

    def test_rasa_steps_are_the_attention_of_its_result(self):
        rasa = net("lvt").stages[1].blocks[0].attn
        x = image(1, 8, 8, 64)
        maps = rasa_steps(rasa, x)
        assert len(maps) == rasa.recursion
        torch.testing.assert_close(torch.stack(maps).sum(-1), torch.ones(2, 2, 64))
        second = x + rasa.attend(x)
        _, _, v = rasa.project(second)
        gathered = (maps[1] @ v[0]).transpose(0, 1).reshape(1, 8, 8, 64)
        torch.testing.assert_close(F.silu(rasa.proj(gathered)), rasa(x))

    def test_atrous_responses_sum_to_the_query(self):
        rasa = net("lvt").stages[2].blocks[0].attn
        x = image(1, 5, 7, 160)
        q, _, _ = rasa.project(x)
        torch.testing.assert_close(atrous_responses(rasa, x).sum(0).reshape(35, 5, 32).transpose(0, 1), q[0])


class TestLIT:
    def test_offsets_that_are_not_learned_sit_on_the_regular_grid(self, picture):
        merge = timm.create_model("lit_tiny").stages[1].embed
        points = tap_pixels(merge.offsets(image(1, 16, 16, 64)), 4)
        x, y = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy")
        for tap in range(4):
            expected = torch.stack([2 * x + tap % 2, 2 * y + tap // 2], dim=-1) * 4 + 2.0
            assert torch.equal(points[:, :, tap], expected)
        assert "All offsets are zero" in offsets_caption([torch.zeros(1, 8, 2, 2)])
        assert "mean 5.00, maximum 5.00" in offsets_caption([torch.tensor([3.0, 4.0] * 4)[None, :, None, None]])

    def test_a_tap_samples_what_it_is_drawn_on(self):
        """An offset that leads to a bright position is drawn inside that position's cell."""
        offsets = torch.zeros(1, 8, 2, 2)
        offsets[0, 2:4, 1, 0] = torch.tensor([-2.0, 1.0])  # tap (0, 1) of window (1, 0), from (2, 1) to (0, 2)
        assert tap_pixels(offsets, 8)[1, 0, 1].tolist() == [20, 4]

    def test_class_token_and_point_both_have_their_maps(self, picture, monkeypatch):
        attention = net("lit_tiny").stages[3].blocks[0].attn
        drawn = []
        monkeypatch.setattr(lit, "attention_sheet", lambda view, maps, *rest, **look: drawn.append(maps))
        tokens = image(1, 5, 512)
        view = see(picture, Preprocessing(64, 64), (90, 10))  # the upper right of 2 x 2 positions
        assert len(attention_pictures(attention, (tokens, 2, 2), 3, view)) == 2
        q, k, _ = attention.project(tokens)
        expected = (q @ k.transpose(2, 3) / 8).softmax(-1)[0, :, [2, 0], 1:]
        torch.testing.assert_close(torch.stack(drawn).reshape(2, 8, 4), expected.transpose(0, 1))


def test_xformer_implied_weights_weigh_the_values():
    attention = net("xformer_small").stages[3][-1].layers[-1].attn
    tokens = image(1, 6, 224)
    q, k, v = (value[0] for value in attention.scores(tokens))
    y = torch.stack([implied_weights(q, k, attention.temperature, i)[:, None] @ v for i in range(6)], dim=1)
    torch.testing.assert_close(attention.proj(y[:, :, 0].transpose(0, 1).reshape(1, 6, 224)), attention(tokens))


def test_uncompressed_scores_keep_their_largest_channels():
    scores = torch.ones(2, 5, 6) * torch.tensor([1, -9, 3, 0, 4, -5.0])
    assert strongest(scores) == [1, 2, 4, 5] and strongest(scores[:, :, :3]) == [0, 1, 2]


def test_lightvit_maps_are_those_of_its_last_blocks(picture, monkeypatch):
    attention, gates = [], []
    monkeypatch.setattr(lightvit, "attention_sheet", lambda view, maps, *rest, **look: attention.append(maps))
    monkeypatch.setattr(lightvit, "draw_panels", lambda view, panels, **look: gates.extend(panels))
    lightvit_sections(net("lightvit_tiny"), image(1, 3, 64, 64), see(picture, Preprocessing(64, 64)))
    for maps, gate, side in zip(attention, gates, (8, 4, 2), strict=True):
        assert maps.shape == (8, side, side) and gate.values.shape == (side, side)
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones(8))


class OneMapAClass(nn.Module):
    """Its features are its input, and class k is the mean of channel k."""

    num_classes = 3
    feature_info = (dict(reduction=1),)

    def forward_features(self, x):
        return x

    def forward_head(self, features):
        return features.mean((2, 3))


class TestLastMap:
    def test_evidence_of_a_network_with_one_map_a_class_is_the_map(self):
        x = image(1, 3, 6, 9).abs()
        linked = link(Classifier(OneMapAClass(), "abc"), x)
        cam, _ = evidence(linked, linked.raw[0, 1], x)
        torch.testing.assert_close(cam, x[0, 1] / 54)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_features_make_the_models_own_logits(self, name):
        x = image(1, 3, 64, 64)
        model = net(name)
        torch.testing.assert_close(last_map(model, x)[0], model(x))

    def test_lies_on_the_cells_of_the_map_where_they_are_known(self):
        x, shown = torch.zeros(1, 3, 64, 100), torch.zeros(2, 4, 5)
        assert stride_of(net("lvt"), shown, x) == 32  # the last column reaches beyond the picture
        assert stride_of(net("lvt"), torch.zeros(7, 7, 5), x) is None and stride_of(nn.Identity(), shown, x) is None

    def test_tokens_find_their_grid(self):
        assert [grid_of(*case) for case in ((49, 224, 224), (8, 100, 36), (6, 64, 96))] == [(7, 7), (4, 2), (2, 3)]

    def test_a_head_that_reads_a_class_token_alone_is_not_explained(self, file, tmp_path, monkeypatch):
        model = timm.create_model("cait_xxs24_224", num_classes=3, img_size=64, depth=2).eval()
        subject = Subject("cait", model, Preprocessing(64, 64), "", Classifier(model, "abc").eval())
        monkeypatch.setattr(explainers, "find_subject", lambda *given: subject)
        with pytest.raises(BadOption, match="nothing to draw"):
            explain("cait", file, out=tmp_path / "out", device="cpu")
        assert not (tmp_path / "out").exists()


class TestRollout:
    def test_is_what_linear_attention_would_pass_on(self):
        maps = [image(2, 5, 5, seed=seed).softmax(-1) for seed in range(3)]
        x = image(5, 4)
        expected = x
        for attention in maps:
            expected = (expected + attention.mean(0) @ expected) / 2
        torch.testing.assert_close(rollout(maps) @ x, expected)
        torch.testing.assert_close(rollout(maps).sum(1), torch.ones(5))

    def test_sees_the_attention_of_every_block_and_changes_nothing(self):
        model = timm.create_model("deit_tiny_patch16_224", img_size=64, depth=3, num_classes=3).eval()
        x, fused = image(1, 3, 64, 64), [module.fused_attn for module in attentions_of(model)]
        before = model(x)
        maps = attention_maps(model, x)
        assert [m.shape for m in maps] == [(3, 17, 17)] * 3
        torch.testing.assert_close(maps[2].sum(-1), torch.ones(3, 17))
        block = model.blocks[0]
        tokens = inputs_of([block], model, x)[block][0]
        q, k, _ = block.attn.qkv(block.norm1(tokens)).reshape(1, 17, 3, 3, 64).permute(2, 0, 3, 1, 4)
        torch.testing.assert_close(maps[0], (q @ k.transpose(2, 3) / 8).softmax(-1)[0])
        assert torch.equal(model(x), before) and num_hooks(model) == 0
        assert [module.fused_attn for module in attentions_of(model)] == fused
        assert is_plain_vit(model) and not is_plain_vit(net("lvt"))


def test_maps_lie_on_their_cells(picture):
    """A bright cell lights up its own pixels and no others, also where the map outgrows the picture."""
    view = see(Image.new("RGB", (100, 60), "black"), Preprocessing(60, 100, 1.0))
    values = torch.zeros(2, 4)
    values[1, 2] = 1
    sheet = draw_panels(view, [Panel("", values, 32)], max_width=200, point=False)
    bright = np.asarray(sheet).astype(int)[22:142, 6:206].sum(2) > 150  # below the title, right of the gap
    rows, columns = np.where(bright)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((64, 119, 128, 191), abs=1)


@pytest.mark.parametrize("name", [*FAMILIES, "resnet18", "pvt_v2_b0"])
def test_a_run_is_explained_on_one_page_and_unchanged(name, file, tmp_path, monkeypatch):
    classes, subjects = ("<b>x</b>", "y & z"), []
    run = make_run(tmp_path / "run", name, classes, Preprocessing(64, 96))
    monkeypatch.setattr(explainers, "find_subject", lambda *given: subjects.append(find_subject(*given)) or subjects[0])
    result = explain(run, file, out=tmp_path / "out", point=(60, 30), device="cpu")
    model = subjects[0].net
    assert num_hooks(model) == 0 and not model.training and all(p.grad is None for p in model.parameters())
    before = load_task(run)[1].backbone.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    page = result.page.read_text()
    assert len(result.pictures) == page.count("<img ") == page.count("data:image/jpeg;base64,")
    for path in result.pictures:
        assert f'id="{path.stem}"' in page
        with Image.open(path) as shown:
            assert shown.format == "PNG" and shown.width <= 1300
    assert "<b>" not in page and "<i>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page
    assert "untrained" not in page and not re.search(r'(src|href)="(?!data:)', page)
    assert result.to_json()["record"]["classes"][0]["name"] == result.record.name in str(result)
    assert [item["name"] for item in result.to_json()["items"]] == [result.record.name]
    assert ("reconstruction" in page) == (name == "xformer_small")


def test_an_untrained_backbone_says_so_and_is_the_same_twice(file, tmp_path):
    state, given = torch.get_rng_state(), ("mobilenetv3_small_050", file)
    first, second = (explain(*given, out=tmp_path / name, device="cpu", pretrained=False) for name in "ab")
    assert torch.equal(torch.get_rng_state(), state)
    assert first.record is None and "These weights are untrained" in first.page.read_text()
    assert first.page.read_text() == second.page.read_text()


def test_what_cannot_be_explained(file, tmp_path):
    with pytest.raises(BadRun, match="did you mean resnet18"):
        explain("resnet18x", file, out=tmp_path)
    with pytest.raises(BadRun, match="not a run folder"):
        explain("runs/nothing", file, out=tmp_path)
    with pytest.raises(BadOption, match="omit --no-pretrained"):
        explain(make_run(tmp_path / "run", "resnet18", ("a", "b")), file, out=tmp_path, pretrained=False)
