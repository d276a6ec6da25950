"""Training on several machines: two network namespaces of this one stand for two hosts."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from featherbone.engine.run import load_state
from runs import options, same_run

NAMES, ADDRESSES, PORT = ("featherbone0", "featherbone1"), ("10.213.7.1", "10.213.7.2"), "29517"


def ip(*words):
    return subprocess.run(("ip", *words), capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts():
    """Two namespaces joined by a cable; the names of their network interfaces are `cable0` and `cable1`."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs ip and root to make network namespaces")
    try:
        for name in NAMES:
            if (made := ip("netns", "add", name)).returncode:
                pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        ip("link", "add", "cable0", "netns", NAMES[0], "type", "veth", "peer", "name", "cable1", "netns", NAMES[1])
        for number, (name, address) in enumerate(zip(NAMES, ADDRESSES, strict=True)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"cable{number}")
            for device in ("lo", f"cable{number}"):
                up = ip("-n", name, "link", "set", device, "up")
                if up.returncode:
                    pytest.skip(f"no virtual network here: {up.stderr.strip()}")
        yield NAMES
    finally:
        for name in NAMES:
            ip("netns", "del", name)


def start(host, data, run, settings):
    """One process of `train` on the host of that number, in a group with the other host."""
    command = ["ip", "netns", "exec", NAMES[host], sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes", "2", "--node-rank", str(host), "--nproc-per-node", "1"]
    command += ["--master-addr", ADDRESSES[0], "--master-port", PORT, "-m", "featherbone", "train"]
    command += ["--data", data, "--model", "lvt", "--out", run, "--resume", "auto", *options(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"cable{host}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, command)), env=environment, text=True, **pipes)


def finish(*processes):
    """What processes print that end well, on standard output and standard error."""
    printed = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), printed
    return printed


def test_two_hosts_are_one_and_a_lost_one_is_replaced(hosts, drawn, train, short, tmp_path):
    short |= dict(save_seconds=0.0)
    printed = finish(*(start(host, drawn, tmp_path / "whole", short) for host in (0, 1)))
    assert "epoch 2/2" in printed[0][1] and "report" in printed[0][0]  # the first only
    assert "epoch" not in printed[1][1] and not printed[1][0]
    one, two = (
        load_file(run / "weights.safetensors")
        for run in (train("one", "lvt", **short, accumulate=2), tmp_path / "whole")
    )
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-5

    run = tmp_path / "lost"
    first, second = (start(host, drawn, run, short) for host in (0, 1))
    while not (run / "state.pt").is_file() or load_state(run)["step"] == 0:
        assert first.poll() is None and second.poll() is None
        time.sleep(0.05)
    for process in ip("netns", "pids", hosts[1]).stdout.split():
        os.kill(int(process), signal.SIGKILL)
    second.communicate()
    began = time.monotonic()
    first.communicate(timeout=120)
    assert first.returncode != 0 and time.monotonic() - began < 60
    assert not (run / "report.html").exists()
    finish(*(start(host, drawn, run, short) for host in (0, 1)))
    same_run(run, tmp_path / "whole")
    finish(*(start(host, drawn, run, short) for host in (0, 1)))  # a finished run stays as it is
    same_run(run, tmp_path / "whole")
