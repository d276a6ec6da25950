import subprocess
import sys

import openvino
from openvino import opset13

SCRIPT = """
import gc, os, signal, sys
from pathlib import Path
from featherbone.exporters.targets import TARGETS

signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
first, second = (TARGETS["openvino"].open(Path(sys.argv[1])) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_process_lives_on_when_files_are_closed_in_the_order_they_came(tmp_path):
    x = opset13.parameter([1, 3], name="image")
    openvino.save_model(openvino.Model([opset13.relu(x)], [x]), tmp_path / "model.xml")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "model.xml")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "heard"
