"""Importing featherbone, and calling it, leaves the state of the process as it was."""

import subprocess
import sys

STATE = """
import argparse, logging, os, random, signal, sys, warnings
import accelerate, matplotlib, numpy, PIL.Image, pyarrow, safetensors, timm, torch, torchvision
from importlib.util import find_spec
from pathlib import Path
if find_spec("onnxscript"):
    import onnx, onnxruntime, onnxscript

def state():
    loggers = {"": logging.root} | {n: l for n, l in logging.root.manager.loggerDict.items() if hasattr(l, "handlers")}
    return {
        "environment": dict(os.environ),
        "deterministic": (torch.are_deterministic_algorithms_enabled(),
                          torch.is_deterministic_algorithms_warn_only_enabled()),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "precision": torch.get_float32_matmul_precision(),
        "defaults": (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
        "safe globals": {str(one) for one in torch.serialization.get_safe_globals()},
        "generators": (torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())),
        "logging": (logging.root.manager.disable, {n: (l.level, list(l.handlers)) for n, l in loggers.items()}),
        "streams": (sys.stdout, sys.stderr),
        "warnings": list(warnings.filters),
        "signals": signal.getsignal(signal.SIGINT),
        "load_state_dict": torch.nn.Module.load_state_dict,
        "accelerate": dict(accelerate.state.PartialState._shared_state),
    }

def changed(before, after):
    names = [n for n in before if n != "logging" and before[n] != after[n]]
    known = {n: x for n, x in after["logging"][1].items() if n in before["logging"][1]}
    return names + ["logging"] * ((before["logging"][0], before["logging"][1]) != (after["logging"][0], known))
"""


CALLS = """
before = state()
import featherbone
if names := changed(before, state()):
    print("import", names)

data, folder = map(Path, sys.argv[1:])
path, net = str(folder / "weights.pth"), timm.create_model("test_resnet")
torch.save({"model": net.state_dict(), "args": argparse.Namespace(lr=1)}, path)

def train():
    featherbone.train(data, model="test_resnet", checkpoint=path, image_size=32, batch_size=8, epochs=1,
                      warmup_epochs=0, workers=0, device="cpu", deterministic=True, out=folder / f"run-{round}")

def evaluate():
    featherbone.evaluate(folder / "run-0", workers=0)

def deploy():
    featherbone.deploy(net, (32, 32))

def export():
    featherbone.export(folder / "run-0", to="onnx", out=folder / "onnx", images=data / "val", count=2)

logging.disable(5)
for round in range(2):  # libraries that a first call imports draw random numbers and set up their logging
    for call in (train, evaluate, deploy) + ((export,) if find_spec("onnxscript") else ()):
        before = state()
        call()
        if round and (names := changed(before, state())):
            print(call.__name__, names)
"""
"""A short training run, with a checkpoint that holds arguments of a script, and what is done with a run."""


def test_importing_and_calling_change_nothing(drawn, tmp_path):
    command = [sys.executable, "-c", STATE + CALLS, str(drawn), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stdout.strip(), result.stdout
