"""Runs of the command line, as tests start and read them."""

import json

import torch

from featherbone.engine.loop import Loop
from featherbone.engine.run import load_state

SHORT = dict(
    image_size=32, batch_size=8, epochs=2, warmup_epochs=1, device="cpu", workers=0, mixup=0.2, cutmix=1.0,
    erasing=0.25, ema=0.9, clip_grad=1.0,
)  # fmt: skip
"""Settings of a run of seconds, with everything on that draws at random."""


def options(settings):
    """Settings as command-line options, but those that are None."""
    parts = []
    for name, value in settings.items():
        if isinstance(value, bool):
            parts.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
        elif value is not None:
            parts += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return parts


def rows(run):
    """Rows of `metrics.jsonl` without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


class Interrupted(Exception):
    """What `stop_after` raises."""


def stop_after(monkeypatch, step):
    """Let training fail right before update `step`."""
    original = Loop.micro_step

    def micro_step(self, batch, part):
        if self.progress.step == step:
            raise Interrupted
        return original(self, batch, part)

    monkeypatch.setattr(Loop, "micro_step", micro_step)


def same_run(one, other):
    """Two runs came to the same bits."""
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    assert rows(one) == rows(other)
    first, second = load_state(one), load_state(other)
    for part in ("task", "ema"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    for index, state in first["optimiser"]["state"].items():
        assert all(torch.equal(value, second["optimiser"]["state"][index][name]) for name, value in state.items())
