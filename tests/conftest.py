import gc
import os
import signal
import subprocess
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests at a time, each on one core; read when torch is imported

import pytest

from featherbone.engine.settings import complete
from featherbone.engine.train import start_run
from runs import SHORT
from scenes import write_classification

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs do; their children would, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    """What earlier modules have left is not searched for garbage again: that took a fifth of the time of all tests."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """24 training and 12 validation pictures of six classes, 32 pixels wide."""
    folder = tmp_path_factory.mktemp("drawn") / "data"
    write_classification(folder, 24, 12, (32, 32))
    return folder


@pytest.fixture
def short():
    """Settings of a run of seconds on `drawn`, with everything on that draws at random."""
    return dict(SHORT)


@pytest.fixture
def train(drawn, tmp_path):
    """Train in this process; the run folder."""

    def run(name="run", model="test_resnet", **settings):
        return start_run(drawn, model, None, tmp_path / name, complete(**settings))

    return run


@pytest.fixture(scope="session")
def launch():
    """Start `featherbone` as a process of its own, by default through this Python."""

    def start(*arguments, launcher=(sys.executable, "-m"), **options):
        command = [*launcher, "featherbone", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )

    return start
