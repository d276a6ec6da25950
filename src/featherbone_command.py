"""The entry point of the command `featherbone`: what libraries read while they are loaded, then the command line.

It is not part of the package, because importing the package loads torch.
"""

import os

SPIN = "GOMP_SPINCOUNT", "1000"
"""Waiting threads of torch spin only briefly before they sleep: spinning for long, their default, makes training
several times slower where another program uses a core."""


def main() -> int:
    """Run the command line."""
    os.environ.setdefault(*SPIN)
    from featherbone.cli import main

    return main()
