import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def goldens():
    """The functions of `goldens/weights.py`."""
    return SimpleNamespace(**runpy.run_path(str(GOLDENS / "weights.py")))


@pytest.fixture(scope="session")
def shared():
    """The folder of reference material beside the repository; tests that need it are skipped without it."""
    folder = Path(__file__).parents[1] / "../shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared")
    return folder.resolve()
