"""A pytest plugin that points timm's tests/test_models.py at the models featherbone registers, and at nothing else."""

import timm
import torch

from registered import NAMES, on_meta

# Tests that we do not run: torch.jit is deprecated and symbolic tracing by torch.fx is optional in timm, none of our
# models promises either (torch.export takes them all); the others download weights, where ours are given as files.
LEFT_OUT = ("torchscript", "_fx", "pretrained", "test_model_inference")


def is_on_tokens(name):
    """Whether the features are tokens, which timm lists among its models of non-standard output."""
    model = on_meta(name)
    features = model.forward_features(torch.empty(1, 3, 64, 64, device="meta"))
    return getattr(model, "num_prefix_tokens", 0) > 0 and features.ndim == 3


TOKENS = {name for name in NAMES if is_on_tokens(name)}


def list_models(filter="", module="", pretrained=False, exclude_filters="", **kwargs):
    """Our models, for any module; where timm's tests take its token models in or out by name, ours of that kind."""
    if filter:
        return [name for name in NAMES if name in TOKENS and "vit_*" in filter]
    return [name for name in NAMES if not (name in TOKENS and "vit_*" in exclude_filters)]


timm.list_models = timm.models.list_models = list_models


def pytest_collection_modifyitems(config, items):
    """Keep what is parametrised by our models."""

    def kept(item):
        ours = getattr(item, "callspec", None) and item.callspec.params.get("model_name") in NAMES
        return ours and not any(part in item.originalname for part in LEFT_OUT)

    config.hook.pytest_deselected(items=[item for item in items if not kept(item)])
    items[:] = [item for item in items if kept(item)]
