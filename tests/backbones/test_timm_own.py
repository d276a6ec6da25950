"""timm's own tests of a model, from its source distribution, on the models that featherbone registers."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm

from registered import NAMES

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def timm_source(tmp_path_factory):
    """timm's source of the installed version, which has the tests that the wheel leaves out."""
    folder = tmp_path_factory.mktemp("timm")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "timm", "--dest", str(folder)]
    got = subprocess.run([*pip, f"timm=={timm.__version__}"], capture_output=True, text=True)
    archives = list(folder.glob("timm-*.tar.gz"))
    if got.returncode or not archives:
        pytest.skip(f"timm's source distribution cannot be had: {got.stderr.strip()[-300:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return folder / archives[0].name.removesuffix(".tar.gz")


@pytest.mark.slow
def test_timms_tests_pass_on_our_models(timm_source, tmp_path):
    report = tmp_path / "report.xml"
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "CUDA_VISIBLE_DEVICES": ""}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "timm_on_ours",
        "-q",
        f"--junitxml={report}",
        "tests/test_models.py",
    ]
    result = subprocess.run(command, cwd=timm_source, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-20000:] + result.stderr[-2000:]
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert [case.get("name") for case in cases if case.find("skipped") is not None] == []
    run = {name: {case.get("name").partition("[")[0] for case in cases if name in case.get("name")} for name in NAMES}
    assert all(len(tests) >= 6 for tests in run.values()), run
