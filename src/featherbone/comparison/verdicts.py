"""What a difference between two models shows: its interval, a corrected test, and a verdict in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from featherbone.metrics.intervals import NUM_DRAWS, Estimate

ALPHA = 0.05
"""Probability of a verdict better or worse for two equal models, over all pairs."""
POWER = 0.8
"""Probability with which a difference is found, for the number of seeds or images that would tell it."""
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Pair:
    """The difference of the headline metric of two models, `first` less `second`."""

    first: str
    second: str
    difference: float
    interval: tuple[float, float]
    """95% interval of the difference."""
    wins: float
    """Probability that a new seed of the first beats one of the second on as many new images."""
    p: float
    """Two-sided p value, corrected for all pairs by Holm's method."""
    equivalent: bool
    """Whether the 90% interval is inside the margin (two one-sided tests)."""
    seeds_needed: int | None
    """Seeds of each model that would tell a difference of this size, or of the margin; None where no number would."""
    images_needed: int | None
    """Images that would tell it with the same seeds; None where no number would."""

    @property
    def verdict(self) -> str:
        """better, worse, equivalent, or not enough data to tell."""
        if self.p < ALPHA:
            return "better" if self.difference > 0 else "worse"
        return "equivalent" if self.equivalent else "not enough data to tell"

    def sentence(self, margin: float) -> str:
        """The verdict in words, with what would be needed where there is none."""
        if self.p < ALPHA:
            return f"{self.first} is {self.verdict} than {self.second}"
        if self.equivalent:
            return f"{self.first} and {self.second} are equivalent within {margin:g}"
        needed = [f"about {self.seeds_needed} seeds"] if self.seeds_needed else []
        needed += [f"about {self.images_needed:,} images"] if self.images_needed else []
        what = " or ".join(needed) or "only more seeds and more images together"
        return f"not enough data to tell {self.first} from {self.second}; {what} would tell"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "verdict": self.verdict}


def judge(names: Sequence[tuple[str, str]], differences: Sequence[Estimate], margin: float) -> list[Pair]:
    """The pairs of models whose differences were estimated; two within `margin` are equivalent."""
    errors = [one.errors() for one in differences]
    raw = [_p_value(one, error) for one, error in zip(differences, errors, strict=True)]
    rows = zip(names, differences, errors, holm(raw), strict=True)
    return [_pair(*name, one, error, p, margin, len(names)) for name, one, error, p in rows]


def _pair(first: str, second: str, one: Estimate, errors: Any, p: float, margin: float, num_pairs: int) -> Pair:
    half, narrow = (float(np.quantile(np.abs(errors), share)) for share in (0.95, 0.90))
    of_seeds = sum(part.error**2 * (part.freedom + 1) for part in one.seeds)  # of one seed of each
    of_images = one.images.error**2
    again = np.random.default_rng(1).normal(0, (of_seeds + of_images) ** 0.5, NUM_DRAWS)
    wins = one.centre + errors + again
    effect = max(abs(one.centre), margin)
    return Pair(
        first=first,
        second=second,
        difference=one.value,
        interval=(max(one.centre - half, -1.0), min(one.centre + half, 1.0)),
        wins=float((wins > 0).mean() + (wins == 0).mean() / 2),
        p=p,
        equivalent=abs(one.centre) + narrow <= margin,
        seeds_needed=_seeds_needed(one, effect, num_pairs),
        images_needed=_images_needed(one, effect, num_pairs),
    )


def _seeds_needed(one: Estimate, effect: float, num_pairs: int) -> int | None:
    """The smallest number of seeds, above the present one, with which an effect would be found; None for none."""
    if not one.seeds:
        return None
    now = one.seeds[0].freedom + 1
    of_seeds = sum(part.error**2 for part in one.seeds) * now
    for count in range(now + 1, MAX_SEEDS):
        error = (of_seeds / count + one.images.error**2) ** 0.5
        if _errors_apart(len(one.seeds) * (count - 1), num_pairs) * error <= effect:
            return count
    return None


def _images_needed(one: Estimate, effect: float, num_pairs: int) -> int | None:
    """The number of images, above the present one, with which an effect would be found; None for none."""
    freedom = sum(part.freedom for part in one.seeds) or one.images.freedom
    room = (effect / _errors_apart(freedom, num_pairs)) ** 2 - sum(part.error**2 for part in one.seeds)
    now = one.images.freedom + 1
    number = ceil(one.images.error**2 * now / room) if room > 0 else 0
    return number if number > now else None


def _errors_apart(freedom: int, num_pairs: int) -> float:
    """Standard errors of a difference that is found, among so many pairs, with the probability `POWER`."""
    from scipy.stats import t  # takes half a second to import

    return float(t.ppf(1 - ALPHA / (2 * num_pairs), freedom) + t.ppf(POWER, freedom))


def _p_value(one: Estimate, errors: Any) -> float:
    """How often an error is as large as the difference; at least one in `NUM_DRAWS`."""
    if not one.centre:
        return 1.0
    return float((np.count_nonzero(np.abs(errors) >= abs(one.centre)) + 1) / (len(errors) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p values for several tests."""
    found, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min((len(p) - rank) * p[place], 1.0))
        found[place] = highest
    return found
