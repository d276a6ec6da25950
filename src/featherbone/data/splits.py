"""What is trained on and what is validated on, of any dense task."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Splits:
    """Both splits, images of one kind, and what was noticed on opening."""

    train: Any
    val: Any
    notices: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.train.classes

    def fingerprint(self) -> str:
        """A hash of both splits; the same set has the same one, wherever it lies."""
        both = f"{self.train.fingerprint()} {self.val.fingerprint()}"
        return hashlib.sha256(both.encode()).hexdigest()[:16]


def hold_out(images: Any, share: float, seed: int) -> tuple[Any, Any, str]:
    """Training images and the `share` of all that is held out by `seed`, at least one, never all; and a notice."""
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    notice = f"no validation split: held out {count} of {len(order)} images"
    return images.take(sorted(order[count:])), images.take(sorted(order[:count])), notice
