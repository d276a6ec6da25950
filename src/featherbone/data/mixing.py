"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) between neighbours of a batch.

Images 2i and 2i + 1 are mixed with each other and a step has one draw, so that the result does not depend on how a
global batch is cut into parts of even size.
"""

import numpy as np
import torch
from torch import Tensor


def mix(images: Tensor, targets: Tensor, mixup: float, cutmix: float, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) and soft targets (B, K), mixed by lam ~ Beta(alpha, alpha).

    `mixup` and `cutmix` are the alphas, 0 for off; with both on, each step uses one of them, with equal probability.
    """
    alphas = [alpha for alpha in (mixup, cutmix) if alpha > 0]
    if not alphas:
        return images, targets
    generator = np.random.default_rng(seed)
    choice = int(generator.integers(len(alphas)))
    lam = float(generator.beta(alphas[choice], alphas[choice]))
    pairs = torch.arange(len(images), device=images.device) ^ 1
    partner = torch.where(pairs < len(images), pairs, pairs - 1)  # an odd last image is mixed with itself
    if mixup > 0 and choice == 0:
        mixed = lam * images + (1 - lam) * images[partner]
    else:
        height, width = images.shape[2:]
        half_h, half_w = int(height * (1 - lam) ** 0.5) // 2, int(width * (1 - lam) ** 0.5) // 2
        y, x = int(generator.integers(height)), int(generator.integers(width))
        top, bottom = max(y - half_h, 0), min(y + half_h, height)
        left, right = max(x - half_w, 0), min(x + half_w, width)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[partner][:, :, top:bottom, left:right]
        lam = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, lam * targets + (1 - lam) * targets[partner]
