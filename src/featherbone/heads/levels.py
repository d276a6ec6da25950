"""From the maps of a backbone to the levels that a head takes."""

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

from torch import Tensor, nn


class Level(NamedTuple):
    """One map of a pyramid; a pyramid is a list of them, finest first."""

    channels: int
    stride: float
    """Pixels of the image to one of the map."""

    @property
    def octave(self) -> int:
        """log2 of the stride, rounded: strides 14 and 16 serve the same purpose."""
        return round(log2(self.stride))


class Levels(nn.Module):
    """One map for each of the octaves `first` to `last`, of those that a pyramid has, and of others made from them.

    A coarser map, or one between two, is a 3x3 convolution of stride 2 of the next finer one; a finer map is a 2x2
    transposed convolution of stride 2 of the next coarser one, and is omitted without `finer`. `levels` describes the
    output; computed maps have the channels of their source.
    """

    def __init__(self, pyramid: Sequence[Level], first: int, last: int, finer: bool = True) -> None:
        super().__init__()
        have = {level.octave: (index, level) for index, level in enumerate(pyramid)}
        found = [octave for octave in have if octave <= last]
        if not found:
            raise ValueError(f"strides {[level.stride for level in pyramid]} leave nothing of 2^{first} to 2^{last}")
        start = max((octave for octave in found if octave <= first), default=min(found))
        made: dict[int, Level] = {}
        self.coarser, self.finer = nn.ModuleDict(), nn.ModuleDict()
        self.sources: dict[int, int] = {}
        for octave in range(start, last + 1):
            if octave in have:
                self.sources[octave], made[octave] = have[octave]
            else:
                before = made[octave - 1]
                made[octave] = Level(before.channels, 2 * before.stride)
                self.coarser[str(octave)] = nn.Conv2d(before.channels, before.channels, 3, 2, 1)
        for octave in reversed(range(first, start)) if finer else ():
            after = made[octave + 1]
            made[octave] = Level(after.channels, after.stride / 2)
            self.finer[str(octave)] = nn.ConvTranspose2d(after.channels, after.channels, 2, 2)
        self.octaves = sorted(octave for octave in made if octave >= first)
        self.levels = [made[octave] for octave in self.octaves]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w) of the pyramid to maps of `levels`."""
        found = {octave: maps[index] for octave, index in self.sources.items()}
        for octave, convolution in self.coarser.items():
            found[int(octave)] = convolution(found[int(octave) - 1])
        for octave, convolution in self.finer.items():
            found[int(octave)] = convolution(found[int(octave) + 1])
        return [found[octave] for octave in self.octaves]
