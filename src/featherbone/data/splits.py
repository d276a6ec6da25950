"""What is trained on and what is validated on, of any dense task."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherbone.data.findings import Finding, many
from featherbone.data.layouts import LAYOUTS


@dataclass(frozen=True)
class Splits:
    """Both splits, images of one kind, and what was noticed on opening."""

    train: Any
    val: Any
    notices: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What is odd about the labels, but can be trained on."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.train.classes

    def fingerprint(self) -> str:
        """A hash of both splits; the same set has the same one, wherever it lies."""
        both = f"{self.train.fingerprint()} {self.val.fingerprint()}"
        return hashlib.sha256(both.encode()).hexdigest()[:16]


def hold_out(images: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Training images and the `share` of all that is held out by `seed`, at least one of two, never all."""
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    count = min(max(round(share * len(images)), 1), max(len(images) - 1, 0))
    return images.take(sorted(order[count:])), images.take(sorted(order[:count]))


def settle(
    splits: dict[str, Any], findings: list[Finding], hold_out: Callable[[Any, float, int], Any], share: float, seed: int
) -> None:
    """Complete `splits` to those that training takes: where there is no `val`, a `share` of `train` is held out.

    What is missing, and what was held out, is added to `findings`; where they hold an error nothing is held out.
    """
    train, val = splits.get("train"), splits.get("val")
    broken = any(one.severity == "error" for one in findings)
    if not train:
        if not broken:
            findings.append(Finding("error", "no-images", f"no training images; the layouts are\n{LAYOUTS}", 0))
    elif val is None and not broken:
        splits["train"], splits["val"] = hold_out(train, share, seed)
        count, total = len(splits["val"]), len(train)
        if not count:
            message = (
                f"no validation split, and none of {many(total, 'training image')} can be held out, for some must be "
                "left to train on; add images, or a val split"
            )
            findings.append(Finding("error", "nothing-to-hold-out", message, total))
        message = f"no validation split: held out {count} of {total} images"
        findings.append(Finding("note", "no-validation", message, count))
    elif val is not None and not val:
        message = "no image in the validation split; add some, or remove the split, and a share of train is held out"
        findings.append(Finding("error", "no-validation-images", message, 0))
