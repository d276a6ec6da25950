"""A process that holds one model in one runtime, and measures it whenever the parent, `speed`, asks."""

import logging
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Size = tuple[int, int]
"""Height and width."""
LIMITS, WRITING = "limits", "writing"
"""Runtimes that are none: the machine's own limits, and the making of files."""
TORCH = ("eager", "compiled")
"""Runtimes that need no file."""
EXPECTED = "expected.safetensors"
"""What eager says, beside the folder of a file made on the fly."""
CALIBRATION = 4
"""Random images from which an int8 file takes its ranges."""


@dataclass(frozen=True)
class Job:
    """What a worker is for; it travels to the process."""

    model: str
    """timm name, or path of a run or of an exported file."""
    kind: str
    """name, run or file."""
    runtime: str = "eager"
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None
    train: bool = False
    folder: Path = Path()
    """Where files that are made on the fly lie."""
    dynamic: str = "none"
    """What of their input may vary, if the exporter manages it."""
    trust: bool = False
    """Whether an exported file may hold machine code."""


def serve(job: Job, pipe: Connection) -> None:
    """Answer requests, a method and its arguments, with (True, what it returns) or (False, why not), until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted as well, and ends this process
    os.dup2(2, 1)  # standard output is the parent's
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # of compilers, about themselves
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    if job.device == "cpu":
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # it compiles by itself, without processes of its own
    owner: Any = None
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):  # the parent is done, or gone
            return
        try:
            if owner is None:
                owner = {LIMITS: Machine, WRITING: Writer}.get(job.runtime, Subject)(job)
            answer = (True, getattr(owner, method)(*arguments))
        except Exception as error:  # compilers raise whatever they like, and the row says what
            from featherbone.exporters.target_check import root_cause

            answer = (False, root_cause(error))
        with suppress(OSError):
            pipe.send(answer)


def prepare(model: Any, image_size: Size) -> Any:
    """The model as it is measured for images of `image_size`: in its inference form."""
    from featherbone.deployment import deploy

    return deploy(model, image_size)


def build(job: Job, size: Size) -> Any:
    """The model of a name or a run, in evaluation, for images of that size."""
    import timm
    import torch

    import featherbone  # noqa: F401  # registers ours
    from featherbone.tasks.run import load_task

    torch.manual_seed(0)
    if job.kind == "run":
        return load_task(Path(job.model))[1]
    fixed = timm.models.get_pretrained_cfg(job.model).fixed_input_size
    return timm.create_model(job.model, **({"img_size": size} if fixed else {})).eval()


def sample(size: Size, batch: int) -> Any:
    """Random images, always the same."""
    import torch

    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


class Machine:
    """The worker that measures what the machine can do at best."""

    def __init__(self, job: Job) -> None:
        import torch

        from featherbone.benchmarking.clock import Limits

        self.device = torch.device(job.device)
        self.limits = Limits(self.device, torch.bfloat16 if job.precision == "bf16" else torch.float32)

    def about(self) -> tuple[int, str]:
        """Threads, and the name of the device."""
        import torch

        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return torch.get_num_threads(), name

    def measure(self) -> tuple[float, float]:
        """As `Limits` has it."""
        return self.limits.measure()


class Writer:
    """The worker that makes files on the fly, so that no measuring process holds the exporters."""

    def __init__(self, job: Job) -> None:
        pass

    def write(self, job: Job, size: Size) -> tuple[str, str]:
        """The file for images of that size, and what eager says of one; what of its input varies, and a note."""
        from safetensors.torch import save_file

        from featherbone.exporters.artifact import Artifact, Form
        from featherbone.exporters.targets import find_target

        folder = file_of(job, size).parent
        folder.mkdir(parents=True)
        target = find_target(job.runtime.removesuffix("-int8"))
        model, image = build(job, size), sample(size, 1)
        for dynamic in dict.fromkeys((job.dynamic, "none")):
            try:
                artifact = Artifact.of(model, Form(target, dynamic), image)
                expected = {name: value.contiguous() for name, value in artifact.expected(image).items()}
                save_file(expected, folder.with_name(EXPECTED))
                if job.runtime != target.name:
                    write_int8(artifact, folder, size)
                    return dynamic, "int8 in every layer, ranges from random images: only for speed"
                artifact.write(folder)
                return dynamic, "" if dynamic == job.dynamic else "the batch cannot be open: image by image"
            except Exception:
                if dynamic == "none":
                    raise
        raise AssertionError("it returns or raises")


def write_int8(artifact: Any, folder: Path, size: Size) -> None:
    """Write every layer that has an int8 kernel in int8."""
    work = folder.with_name("float")
    work.mkdir(exist_ok=True)
    quantizer = artifact.quantizer(work, sample(size, CALIBRATION))
    quantizer.write(artifact.path(folder), quantizer.layers)


class Subject:
    """The worker that measures one model in one runtime, at sizes and batches that are opened one after another."""

    def __init__(self, job: Job) -> None:
        import torch

        from featherbone.benchmarking.clock import Memory
        from featherbone.exporters.targets import TARGETS

        self.job, self.device = job, torch.device(job.device)
        self.memory = Memory(self.device)
        self.loaded: dict[Size, tuple[int | None, Any]] = {}
        self.calls: dict[tuple[Size, int], Callable[[], object]] = {}
        if job.kind == "file" or job.runtime not in TORCH:
            for package in TARGETS[job.runtime.removesuffix("-int8")].run_packages:
                import_module(package)  # what they hold is not the model's
        if job.runtime == "compiled":
            import torch._inductor.compile_fx  # and the compiler neither

            torch._dynamo.config.recompile_limit = 256  # each size and batch is a program
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(7200, 8))
        net.to(self.device)(torch.zeros(1, 3, 32, 32, device=self.device)).sum().backward()  # libraries, threads

    def open(self, size: Size, batch: int, dynamic: str) -> dict[str, Any]:
        """Make a call ready: its peak of memory in MB, the size of its file, and how far it is from eager.

        Smaller batches must come first: a runtime keeps what it once had.
        """
        if size not in self.loaded:
            held = self.memory.held()
            self.loaded[size] = held, self.load(size)
        held, net = self.loaded[size]
        call = self.call(net, size, batch, dynamic)
        call()  # compiles, plans, reserves
        self.memory.reset()
        call()
        peak = self.memory.peak()
        self.calls[size, batch] = call
        peak_mb = None if peak is None or held is None else max(peak - held, 0) / 1e6
        return {"peak_mb": peak_mb, **self.about(net, size)}

    def measure(self, size: Size, batch: int) -> list[float]:
        """Milliseconds of a few calls."""
        from featherbone.benchmarking.clock import turn

        return turn(self.calls[size, batch], self.device)

    def layers(self, size: Size, batch: int, repeats: int) -> Any:
        """Own times of the modules."""
        from featherbone.benchmarking.layers import layer_times

        return layer_times(self.loaded[size][1], self.calls[size, batch], repeats, self.device)

    def load(self, size: Size) -> Any:
        """The model in its runtime."""
        import torch

        from featherbone.exporters.exported import open_task
        from featherbone.exporters.targets import open_file

        job = self.job
        if job.kind == "file":
            return open_task(Path(job.model), job.trust)[1]
        if job.runtime not in TORCH:
            return open_file(file_of(job, size), job.runtime.removesuffix("-int8"), trust=True)
        net = build(job, size)
        if job.train:
            return net
        net = prepare(net, size).to(self.device, torch.bfloat16 if job.precision == "bf16" else None)
        return torch.compile(net, dynamic=False) if job.runtime == "compiled" else net

    def call(self, net: Any, size: Size, batch: int, dynamic: str) -> Callable[[], object]:
        """What is timed: `net`, which `load` gave, on a batch."""
        import torch

        job, images = self.job, sample(size, batch)
        if job.train:
            from featherbone.benchmarking.training import training_step

            return training_step(net, images.to(self.device), job.runtime == "compiled", job.precision == "bf16")
        if job.kind != "file" and job.runtime in TORCH:
            images = images.to(self.device, torch.bfloat16 if job.precision == "bf16" else None)
            return torch.inference_mode()(lambda: net(images))
        run = net
        if job.kind == "file":
            run, dynamic, images = net.run, net.manifest.dynamic, net.input(images)
        parts = images.split(1) if dynamic == "none" else (images,)
        return lambda: [run(part) for part in parts]

    def about(self, net: Any, size: Size) -> dict[str, float]:
        """Of a file: its size in MB, with weights that lie beside it; and how far it is from eager, if made just now.

        That is the root mean square of its error on one image, in root mean squares of what eager says.
        """
        if self.job.kind != "file" and self.job.runtime in TORCH:
            return {}
        path = file_of(self.job, size)
        weights = path.with_suffix(".bin")
        found = {"file_mb": (path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)) / 1e6}
        if self.job.kind != "file":
            from safetensors.torch import load_file

            from featherbone.exporters.artifact import raw_difference

            expected = load_file(path.parent.with_name(EXPECTED))
            found["differs"] = raw_difference(expected, dict(zip(expected, net(sample(size, 1)), strict=True))).error
        return found


def file_of(job: Job, size: Size) -> Path:
    """The file that a worker runs."""
    from featherbone.exporters.manifest import read_manifest
    from featherbone.exporters.targets import find_target

    if job.kind == "file":
        return read_manifest(Path(job.model))[0]
    target = find_target(job.runtime.removesuffix("-int8"))
    return job.folder / f"{size[0]}x{size[1]}" / "file" / target.file
