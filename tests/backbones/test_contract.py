"""What timm, and everything built on timm, may expect of a model; each registered one keeps it."""

import copy
from itertools import combinations, pairwise

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.layers import DropPath
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import Tensor
from torch.export import Dim

from featherbone import backbones
from featherbone.deployment import deploy
from featherbone.errors import BadOption
from registered import (
    NAMES,
    SMALLEST,
    each,
    each_but_only_smallest_is_fast,
    family,
    image,
    net,
    on_meta,
)

LEVELS = range(4)
SUBSETS = [list(subset) for n in LEVELS for subset in combinations(LEVELS, n + 1)]
CLOSE = dict(rtol=1e-4, atol=1e-4)


def twin(name, **kwargs):
    """Another model with the weights of `net(name)`."""
    model = on_meta(name, num_classes=7, **kwargs)
    model.load_state_dict(net(name).state_dict(), assign=True)
    return model.eval()


def in_order(groups, names):
    ids = [groups[name] for name in names]
    return ids == sorted(ids)


def names_of(value):
    return {value} if isinstance(value, str) else set(value)


def classifiers(model):
    """Names of the classifier layers."""
    of = model.get_classifier()
    parts = of if isinstance(of, tuple) else (of,)
    return {name for name, module in model.named_modules() if any(module is part for part in parts)}


def test_the_families_are_the_modules_that_register_models():
    assert {module.__name__ for module in backbones.FAMILIES} == {family(name) for name in NAMES}


@each()
def test_features_are_the_intermediates_for_every_subset_of_levels(name):
    x = image(1, 3, 45, 70)
    with torch.no_grad():
        everything = net(name).forward_intermediates(x, intermediates_only=True)
        features_of_all = net(name).forward_features(x)
    for subset in SUBSETS:
        features = on_meta(name, features_only=True, out_indices=subset)
        kept = {f"model.{key}": value for key, value in net(name).state_dict().items()}
        features.load_state_dict({key: kept[key] for key in features.state_dict()}, assign=True)
        with torch.no_grad():
            final, maps = net(name).forward_intermediates(x, indices=subset)
            stopped = net(name).forward_intermediates(x, indices=subset, stop_early=True)[1]
            got = features.eval()(x)
        for i, *level in zip(subset, got, maps, stopped, strict=True):
            for other in level:
                torch.testing.assert_close(other, everything[i], **CLOSE)
        assert features.feature_info.channels() == [level.shape[1] for level in got]
        torch.testing.assert_close(final, features_of_all, **CLOSE)


@each()
def test_hooks_on_the_named_modules_see_the_maps(name):
    model, seen, x = copy.deepcopy(net(name)), {}, image(2, 3, 64, 96)
    for info in model.feature_info:
        keep = lambda module, args, output, key=info["module"]: seen.setdefault(key, []).append(output)  # noqa: E731
        model.get_submodule(info["module"]).register_forward_hook(keep)
    with torch.no_grad():
        maps = model.forward_intermediates(x, intermediates_only=True)
    for info, level in zip(model.feature_info, maps, strict=True):
        (output,) = seen[info["module"]]
        if not (isinstance(output, Tensor) and output.shape == level.shape):
            output = model.as_map(output).permute(0, 3, 1, 2)
        torch.testing.assert_close(output, level, **CLOSE)


@each()
def test_maps_come_in_both_layouts_and_the_last_one_with_its_norm(name):
    x = image(1, 3, 64, 96)
    with torch.no_grad():
        first = net(name).forward_intermediates(x, intermediates_only=True)
        last = net(name).forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
        normed = net(name).forward_intermediates(x, norm=True, intermediates_only=True)
    for a, b in zip(first, last, strict=True):
        torch.testing.assert_close(a, b.permute(0, 3, 1, 2), **CLOSE)
    torch.testing.assert_close(first[:-1], normed[:-1], **CLOSE)
    assert normed[-1].isfinite().all()
    with pytest.raises(ValueError, match="NCHW or NHWC"):
        net(name).forward_intermediates(x, output_fmt="CHW")


@each()
@pytest.mark.parametrize("size", [(32, 32), (37, 101), (97, 61), (128, 33)])
def test_feature_info_is_true_and_the_head_completes_the_features_at_any_size(name, size):
    model, x = net(name), image(1, 3, *size)
    with torch.no_grad():
        features, logits = model.forward_features(x), model(x)
        maps = model.forward_intermediates(x, intermediates_only=True)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(model.forward_head(features), logits, **CLOSE)
    assert logits.shape == (1, 7) and logits.isfinite().all()
    assert pooled.shape == (1, model.head_hidden_size)
    assert model.num_features in features.shape[1:]
    if features.ndim == 3:
        assert features.shape[1] == model.num_prefix_tokens + maps[-1].shape[2] * maps[-1].shape[3]
    for info, level in zip(model.feature_info, maps, strict=True):
        assert level.shape[1] == info["num_chs"]
        assert all(abs(got - side / info["reduction"]) < 1 for got, side in zip(level.shape[2:], size, strict=True))
    reductions = [info["reduction"] for info in model.feature_info]
    assert reductions == sorted(reductions)


@each(SMALLEST, slow=lambda name: False)
@pytest.mark.parametrize("size", [(32, 1021), (1024, 37), pytest.param((1024, 1024), marks=pytest.mark.slow)], ids=str)
def test_long_and_large_pictures(name, size):
    with torch.no_grad():
        maps = net(name).forward_intermediates(image(1, 3, *size), intermediates_only=True)
        assert net(name)(image(1, 3, *size)).isfinite().all()
    assert all(level.isfinite().all() for level in maps)


@each()
def test_gradient_reaches_every_parameter(name):
    model = twin(name).train()
    model(image(3, 3, 64, 64)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@each()
def test_recomputation_changes_neither_loss_nor_gradients_nor_statistics(name):
    results = []
    for recompute in (False, True):
        model = copy.deepcopy(twin(name, drop_path_rate=0.2)).train()
        model.set_grad_checkpointing(recompute)
        torch.manual_seed(3)
        loss = model(image(3, 3, 64, 64)).square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters()), *model.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@each()
def test_a_batch_is_its_pictures_one_by_one(name):
    x = image(3, 3, 45, 70)
    with torch.no_grad():
        torch.testing.assert_close(net(name)(x), torch.cat([net(name)(one[None]) for one in x]), **CLOSE)


@each()
def test_other_sizes_and_training_between_calls_leave_no_trace(name):
    model, x = copy.deepcopy(net(name)), image(2, 3, 64, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(x)
        for size in ((37, 101), (96, 64)):
            model(image(1, 3, *size))
        torch.testing.assert_close(model(x), expected, **CLOSE)
    torch.testing.assert_close(model(x), expected, **CLOSE)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, **CLOSE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
        torch.testing.assert_close(model(x), copy.deepcopy(model).train().eval()(x), **CLOSE)
        assert not torch.allclose(model(x), expected)


@each()
@pytest.mark.parametrize("in_chans", [1, 3, 4, 12])
def test_channels_and_a_device_without_memory(name, in_chans):
    model = on_meta(name, num_classes=7, in_chans=in_chans)
    assert all(value.is_meta for value in model.state_dict().values())
    assert model.in_chans == in_chans
    assert model.get_submodule(model.default_cfg["first_conv"]).weight.shape[1] == in_chans
    assert model(torch.empty(2, in_chans, 75, 40, device="meta")).shape == (2, 7)


@each()
def test_classifier_comes_and_goes(name):
    model, x = copy.deepcopy(net(name)), image(2, 3, 64, 96)
    pool = model.global_pool
    with torch.no_grad():
        features = model.forward_features(x)
        pooled = model.forward_head(features, pre_logits=True)
        for classes in (0, 7):
            model.reset_classifier(classes)
            assert model.num_classes == classes
            torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled, **CLOSE)
            assert model(x).shape == (2, classes or model.head_hidden_size)
        for classes in (0, 7):  # at every position
            model.reset_classifier(classes, "")
            assert model(x).ndim == features.ndim
        assert 7 in model(x).shape
        model.reset_classifier(7, pool)
        assert model(x).shape == (2, 7)
        torch.testing.assert_close(model.forward_features(x), features, **CLOSE)
    assert not any(module.training for module in model.modules())
    assert classifiers(model) == names_of(model.default_cfg["classifier"])
    for kwargs, ndim in ((dict(num_classes=0), 2), (dict(num_classes=0, global_pool=""), features.ndim)):
        assert on_meta(name, **kwargs)(x.to("meta")).ndim == ndim
    with pytest.raises(BadOption, match="global_pool 'max'"):
        on_meta(name, global_pool="max")


@each()
@pytest.mark.parametrize("coarse", [False, True])
def test_layer_decay_groups_follow_depth(name, coarse):
    model = net(name)
    groups = group_parameters(model, model.group_matcher(coarse), reverse=True)
    names = [n for n, _ in model.named_parameters()]  # modules are registered from the picture to the logits
    assert groups.keys() == set(names)
    assert in_order(groups, names)
    assert groups[f"{model.default_cfg['first_conv']}.weight"] == 0
    head = [n for n in names if n.rpartition(".")[0] in classifiers(model)]
    assert head and {groups[n] for n in head} == {max(groups.values())}
    levels = [{groups[n] for n in names if n.startswith(f"{info['module']}.")} for info in model.feature_info]
    assert all(max(a) < min(b) or max(a) == min(b) == 0 for a, b in pairwise(levels))
    assert len(set(groups.values())) >= (4 if coarse else 8)


@each()
def test_layer_decay_trains_every_parameter_once_and_the_stem_least(name):
    model = net(name)
    undecayed = model.no_weight_decay()
    assert undecayed <= {n for n, _ in model.named_parameters()}
    groups = param_groups_layer_decay(model, weight_decay=0.1, no_weight_decay_list=undecayed, layer_decay=0.5)
    of = {id(p): group for group in groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(parameters)
    scales = [of[id(p)]["lr_scale"] for p in parameters.values()]
    assert scales == sorted(scales) and scales[0] < scales[-1] == 1
    for n, p in parameters.items():
        assert (of[id(p)]["weight_decay"] == 0) == (p.ndim <= 1 or n.endswith(".bias") or n in undecayed), n


@each()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(name, dtype):
    model = timm.create_model(name, num_classes=7).eval().to(dtype)
    with torch.no_grad():
        for x in (image(1, 3, 65, 64), torch.zeros(1, 3, 64, 64), 3 * torch.ones(1, 3, 64, 64)):
            logits = model(x.to(dtype))
            assert logits.dtype == dtype and logits.isfinite().all()
        torch.testing.assert_close(logits.float(), model.float()(x), rtol=0.1, atol=0.1)


@each()
def test_copies_are_equal_and_free(name):
    x = image(1, 3, 45, 70)
    with torch.no_grad():
        expected = net(name)(x)
        copied = copy.deepcopy(net(name))
        torch.testing.assert_close(copied(x), expected, **CLOSE)
        for parameter in copied.parameters():
            parameter.zero_()
        torch.testing.assert_close(net(name)(x), expected, **CLOSE)


@each()
def test_weights_travel_without_pickle(name, tmp_path):
    safetensors.torch.save_file(net(name).state_dict(), tmp_path / "weights.safetensors")
    model = on_meta(name, num_classes=7)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"), assign=True)
    x = image(1, 3, 45, 70)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), net(name)(x), **CLOSE)


@each()
def test_pruning_twice_keeps_the_maps_and_nothing_idle(name):
    model, x = copy.deepcopy(net(name)), image(2, 3, 64, 96)
    with torch.no_grad():
        maps = model.forward_intermediates(x, intermediates_only=True)
    for deepest in (3, 2, 1, 0):
        assert model.prune_intermediate_layers([deepest], prune_norm=True) == [deepest]
        (got,) = model.forward_intermediates(x, indices=[deepest], intermediates_only=True)
        torch.testing.assert_close(got, maps[deepest], **CLOSE)
        model.zero_grad()
        got.square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        assert model.num_features == model.head_hidden_size == got.shape[1]
        features = model.forward_features(x)
        if features.ndim == 3:
            assert features.shape[1] == model.num_prefix_tokens + got.shape[2] * got.shape[3]
        else:
            assert getattr(model, "num_prefix_tokens", 0) == 0
        headed = copy.deepcopy(model)
        headed.reset_classifier(5, "avg")
        assert headed(x).shape == (2, 5)
        assert headed.forward_head(features, pre_logits=True).shape == (2, got.shape[1])


@each()
def test_drop_path_drops_more_the_deeper(name):
    rates = [module.drop_prob for module in on_meta(name, drop_path_rate=0.3).modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates) and rates[0] == 0 and rates[-1] == pytest.approx(0.3)
    model, x = twin(name, drop_path_rate=0.3), image(4, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(name)(x), **CLOSE)
    with pytest.raises(TypeError, match="not_an_argument"):
        on_meta(name, not_an_argument=1)


@each_but_only_smallest_is_fast()
def test_compiles_whole(name):
    x = image(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net(name), fullgraph=True, backend="eager")(x), net(name)(x), **CLOSE)


@each_but_only_smallest_is_fast()
def test_exports_with_free_batch_and_size(name):
    """From two positions, or two windows, a side of the last map on: torch.export takes a 1 for a constant."""
    model = deploy(net(name), form="size")
    windows = [module.window_size for module in model.modules() if hasattr(module, "window_size")]
    least = 32 * max(windows, default=1) + 1 if windows else 64
    free = {0: Dim("batch", max=64), 2: Dim("height", min=least, max=1024), 3: Dim("width", min=least, max=1024)}
    program = torch.export.export(model, (image(2, 3, least + 26, least + 64),), dynamic_shapes=(free,)).module()
    for shape in ((1, 3, least, least), (3, 3, least + 3, least + 67), (2, 3, least + 32, least + 160)):
        with torch.no_grad():
            torch.testing.assert_close(program(image(*shape)), net(name)(image(*shape)), **CLOSE)


@each()
def test_timm_saves_and_loads_it_as_a_folder(name, tmp_path):
    timm.models.save_for_hf(net(name), tmp_path, model_args=dict(num_classes=7))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net(name)(x), **CLOSE)


@each()
def test_timm_prepares_pictures_for_it(name):
    config = timm.data.resolve_data_config(model=net(name))
    transform = timm.data.create_transform(**config, is_training=False)
    x = transform(Image.linear_gradient("L").resize((300, 260)).convert("RGB"))[None]
    assert x.shape[1:] == config["input_size"] == net(name).default_cfg["input_size"]
    pool_size = [
        level.shape[2:] for level in on_meta(name).forward_intermediates(x.to("meta"), intermediates_only=True)
    ]
    assert tuple(pool_size[-1]) == net(name).default_cfg["pool_size"]


@pytest.mark.parametrize("decoder", ["Segformer", "FPN", "Unet", "UPerNet"])
@each(SMALLEST, slow=lambda name: False)
def test_segmentation_models_pytorch_builds_on_it(name, decoder):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = getattr(smp, decoder)(f"tu-{name}", encoder_weights=None, in_channels=4, classes=5).eval()
    with torch.no_grad():
        assert model(image(1, 4, 64, 64)).shape == (1, 5, 64, 64)
