"""Runs of the command line, as tests start and read them."""

import json


def options(settings):
    """Settings as command-line options."""
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def rows(run):
    """Rows of `metrics.jsonl` without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
