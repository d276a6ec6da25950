"""Synthetic weights and images behind the dense reference outputs in `outputs_dense.npz`.

Every number follows from its parameter's published name, as in `weights.py` beside the classifiers' references, so
both sides of a comparison can build the same network without a file of weights. What the heads need beyond that, so
that there is something to find, is in `RULES`. See README.md in the folder above.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
INTEGER = ("num_batches_tracked", "relative_position_index")

RULES: tuple[tuple[str, float, float], ...] = (
    (r"retinanet.*/neck\.fpn_convs\.[234]\..*weight$", 2.0, 0.0),
    (r"bbox_head\.(cls|reg)_convs\..*weight$", 1.4, 0.0),
    (r"lit_ti/bbox_head\.retina_cls\.weight$", 0.45, 0.0),
    (r"lit_s/bbox_head\.retina_cls\.weight$", 1.3, 0.0),
    (r"retina_cls\.bias$", 1.0, -6.0),
    (r"lit_ti/bbox_head\.retina_reg\.", 0.25, 0.0),
    (r"lit_s/bbox_head\.retina_reg\.", 0.75, 0.0),
    (r"lit_.*/rpn_head\.rpn_reg\.", 0.15, 0.0),
    (r"lightvit.*/rpn_head\.rpn_reg\.", 0.3, 0.0),
    (r"shared_fcs\..*weight$", 1.4, 0.0),
    (r"lit_ti/.*fc_cls\.weight$", 0.25, 0.0),
    (r"lit_s/.*fc_cls\.weight$", 0.45, 0.0),
    (r"lightvit.*fc_cls\.weight$", 1.5, 0.0),
    (r"lit_.*/.*fc_reg\.", 0.5, 0.0),
    (r"lightvit.*fc_reg\.", 2.0, 0.0),
    (r"mask_head\.convs\..*weight$", 1.4, 0.0),
    (r"mask_head\.(upsample|conv_logits)\.weight$", 2.0, 0.0),
)
"""Pattern of MODEL/NAME, gain and shift: they make dozens of detections of many classes and sizes, masks half full."""


def parameter(name: str, shape: tuple[int, ...], model: str) -> torch.Tensor:
    """Value of one floating-point entry of the published state dict of `model`, float32: `gain * basis + shift`.

    The basis is that of `weights.py` for the name, in necks and heads less its mean over all axes but the first where
    there are several (else a few classes would win everywhere); gain and shift are those of the first of `RULES` whose
    pattern is found in `MODEL/NAME`, else 1 and 0.
    """
    normal = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape)
    normal = np.asarray(normal, dtype=np.float32)
    leaf = name.rsplit(".", 1)[-1]
    spread = np.float32(np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 1))  # float32 under any NumPy
    if leaf == "running_var":
        value = 1 + 0.5 * np.abs(normal)
    elif leaf == "running_mean":
        value = 0.1 * normal
    elif any(word in name for word in ("relative_position_bias_table", "pos_embed", "global_token", "cls_token")):
        value = 0.2 * normal
    elif "conv_offset" in name:
        value = 0.5 * normal / spread if leaf == "weight" else 0.3 * normal
    elif leaf == "bias":
        value = 0.1 * normal
    elif len(shape) == 1:
        value = 1 + 0.1 * normal
    else:
        value = normal / spread
    if len(shape) > 1 and not name.startswith("backbone."):
        value = value - value.reshape(shape[0], -1).mean(axis=1).reshape(-1, *[1] * (len(shape) - 1))
    scales = ((gain, shift) for pattern, gain, shift in RULES if re.search(pattern, f"{model}/{name}"))
    gain, shift = next(scales, (1.0, 0.0))
    value = gain * value + shift
    return torch.from_numpy(np.asarray(value, dtype=np.float32)).reshape(shape)


def shapes(model: str) -> dict[str, list[int]]:
    """Names and shapes of the published state dict of `model`, a key of `parameters_dense.json`."""
    return json.loads((HERE / "parameters_dense.json").read_text())[model]


def state_dict(model: str) -> dict[str, torch.Tensor]:
    """Published-layout state dict of `model`; integer entries (`INTEGER`) are left out, they follow from the sizes."""
    floating = {name: shape for name, shape in shapes(model).items() if not name.endswith(INTEGER)}
    return {name: parameter(name, tuple(shape), model) for name, shape in floating.items()}


IMAGES = {"a": (320, 427, 0), "b": (300, 211, 1)}
"""Height, width and seed of the two test images."""


def image(key: str) -> np.ndarray:
    """Test image, RGB (H, W, 3), uint8: two scales of smoothed noise and ten tinted rectangles; integers only."""
    height, width, seed = IMAGES[key]
    random = np.random.RandomState(2000 + seed)
    total = np.zeros((height, width, 3), dtype=np.int64)
    for step, weight in ((48, 2), (12, 1)):
        coarse = random.randint(0, 256, (height // step + 2, width // step + 2, 3)).astype(np.int64)
        y, x = np.arange(height), np.arange(width)
        down, right = (y % step)[:, None, None], (x % step)[None, :, None]
        rows = coarse[y // step] * (step - down) + coarse[y // step + 1] * down
        both = rows[:, x // step] * (step - right) + rows[:, x // step + 1] * right
        total += weight * (both // step**2)
    total //= 3
    for _ in range(10):
        y1, x1 = random.randint(0, height - 20), random.randint(0, width - 20)
        y2, x2 = y1 + random.randint(12, height // 2), x1 + random.randint(12, width // 2)
        colour = random.randint(0, 256, 3)
        total[y1:y2, x1:x2] = (total[y1:y2, x1:x2] + 3 * colour) // 4
    return total.astype(np.uint8)


def compare(name: str, output: torch.Tensor) -> float:
    """Largest error of `output` against the stored samples of `name`, relative to the reference's deviation."""
    stored = np.load(HERE / "outputs_dense.npz")
    shape = tuple(stored[f"{name}#shape"])
    if tuple(output.shape) != shape:
        raise ValueError(f"{name}: shape {tuple(output.shape)}, reference {shape}")
    got = output.detach().cpu().double().reshape(-1).numpy()[stored[f"{name}#index"]]
    return float(np.abs(got - stored[f"{name}#value"]).max() / stored[f"{name}#std"])


if __name__ == "__main__":  # which references there are
    stored = np.load(HERE / "outputs_dense.npz")
    for key in stored.files:
        if key.endswith("#shape"):
            print(key[:-6], tuple(stored[key]))
