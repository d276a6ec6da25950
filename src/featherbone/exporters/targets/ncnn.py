"""ncnn models for phones and single-board computers, written by pnnx from a trace."""

import inspect
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from featherbone.errors import BadOption, BadRun
from featherbone.exporters.forms import Flat
from featherbone.exporters.targets.target import Opener, Run, Target, quiet


def open_ncnn(path: str, threads: int) -> Callable[[Any], list[Any]]:
    """A file in ncnn, computed in float32; its weights are beside it. Raises `ValueError` for one that ncnn refuses.

    If weights are stored in float16, as the number before a layer's weights states, ncnn keeps them so, and on ARM
    also the values between layers.
    """
    import ncnn
    import numpy as np

    weights = path[: -len("param")] + "bin"
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = bool((np.fromfile(weights, "<u4") == 0x01306B47).any())
    net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = net.opt.use_vulkan_compute = False
    if net.load_param(path) or net.load_model(weights):
        raise ValueError("it or its weights cannot be loaded")
    # a Split whose copy nothing reads is an output, too
    count = sum(name.startswith("out") for name in net.output_names())

    def run(images: Any) -> list[Any]:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(images[0]))
        return [extractor.extract(f"out{i}")[1].numpy()[None].copy() for i in range(count)]

    return run


def fix_sizes(folder: str, shape: Sequence[int], count: int) -> None:
    """Write numbers for the sizes that Reshapes of the model in `folder` take from other blobs.

    The sizes are those of a run on an image of zeros (C, H, W); `count` outputs are expected. ncnn 1.0.20261020 needs
    15 ms for such a Reshape of 147,456 values, and next to nothing for one with numbers. The function imports nothing
    of the package, because it runs in a process without torch.
    """
    import ncnn

    param = f"{folder}/model.ncnn.param"
    net = ncnn.Net()
    assert not net.load_param(param) and not net.load_model(f"{folder}/model.ncnn.bin"), "the model cannot be loaded"
    extractor = net.create_extractor()
    extractor.set_light_mode(False)  # keep all blobs
    image = ncnn.Mat(*reversed(shape))
    image.fill(0.0)
    extractor.input("in0", image)
    for i in range(count):
        assert not extractor.extract(f"out{i}")[0], f"output {i} cannot be computed"
    lines = []
    with open(param) as file:
        for line in file:
            words = line.split()
            if words[0] == "Reshape" and words[2] == "2":
                _, name, _, _, source, _, result = words[:7]
                blob = extractor.extract(result)[1]
                sizes = [f"0={blob.w}", f"1={blob.h}", f"2={blob.c}", f"11={blob.d}"][: blob.dims]
                line = f"Reshape {name} 1 1 {source} {result} {' '.join(sizes)}\n"
            lines.append(line)
    with open(param, "w") as file:
        file.writelines(lines)


class NCNN(Target):
    """A graph as text, and its weights in a second file; the input is `in0`, the outputs are `out0` and so on."""

    name = "ncnn"
    file = "model.param"
    companions = ("model.bin",)
    magic = (0, (b"7767517\n",))
    packages = ("pnnx", "ncnn")
    run_packages = ("ncnn",)
    extra = "ncnn"
    fp16 = True
    dynamic = ("none",)
    pre = False
    nms = False
    device_form = True
    max_rank = 5
    lacks = (
        *("torchvision.nms", "torchvision.roi_align", "torchvision.deform_conv2d"),
        *("aten._upsample_bi", "aten.unfold."),
    )

    def write(self, net: Flat, example: Tensor, path: Path, names: list[str], dynamic: str, fp16: bool = False) -> None:
        """As `Target.write`. Raises `BadOption` for a network that pnnx or ncnn does not take.

        pnnx reads a trace: from ONNX it loses the axis of a mean.
        """
        import pnnx

        with TemporaryDirectory() as folder:
            with quiet(), torch.no_grad():
                torch.jit.trace(net, (example,), check_trace=False).save(f"{folder}/model.pt")
            shape = list(example.shape)
            given = ",".join(map(str, shape))
            call("pnnx", [pnnx.EXEC_PATH, f"{folder}/model.pt", f"inputshape=[{given}]f32", f"fp16={int(fp16)}"])
            code = f"{inspect.getsource(fix_sizes)}\nfix_sizes({folder!r}, {shape[1:]}, {len(names)})"
            call("ncnn", [sys.executable, "-P", "-c", f"from collections.abc import Sequence\n{code}"])
            for suffix in (".param", ".bin"):
                shutil.move(f"{folder}/model.ncnn{suffix}", path.with_suffix(suffix))

    def opener(self) -> Opener:
        return open_ncnn

    def open(self, path: Path) -> Run:
        try:
            run = open_ncnn(str(path), torch.get_num_threads())
        except (OSError, ValueError) as error:
            raise BadRun(f"{path}: ncnn does not take it ({error}); export the run again") from None
        return lambda images: [torch.from_numpy(value) for value in run(images.contiguous().numpy())]

    def caveat(self, fp16: bool = False) -> str:
        on_arm = platform.machine().lower() in ("aarch64", "arm64")
        return "values between layers are in float32 here, and in float16 on ARM" if fp16 and not on_arm else ""


def call(tool: str, command: Sequence[str]) -> None:
    """Run a tool in a process. Raises `BadOption` if it fails or crashes, as on layers that it does not support."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() if done.returncode > 0 else [f"signal {-done.returncode}"]
        reason = next((line for line in lines if "not exists" in line), lines[-1] if lines else "no message")
        raise BadOption(
            f"{tool} does not take this network ({reason[:200]}); it takes basic layers on at most 4 dimensions beside "
            "the batch; export to onnx, openvino or executorch, or choose another backbone"
        )
