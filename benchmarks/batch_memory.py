"""Memory of training updates on the CPU, over the tensors that one update keeps for its backward pass.

`--batch-size auto` calculates with this ratio. The peak of two updates is that of a process of its own.

    python benchmarks/batch_memory.py --data DIR --task detection --model lvt --batch-size 8 --image-size 128
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from featherbone.engine.accelerator import accelerate
from featherbone.engine.job import Job
from featherbone.engine.loop import trial
from featherbone.engine.memory import bytes_per_image
from featherbone.engine.settings import complete


def status(name: str) -> int:
    """Bytes of an entry of the process, such as VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Print the memory of one training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", default="classification")
    parser.add_argument("--model", default="lvt_cls")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", action="store_true", help="measure the peak in this process; used by the script")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    usual = {"device": "cpu", "workers": 0, "pretrained": False}
    settings = complete(task=given.task, batch_size=given.batch_size, image_size=given.image_size, **usual)
    with accelerate(settings) as accelerator:
        job = Job(given.task, given.data, settings)
        card = job.card(given.model)
        if given.peak:
            with trial(card, job, accelerator) as loop:
                weights, start = sum(p.numel() * p.element_size() for p in loop.task.parameters()), status("VmRSS")
                for _ in loop.take_updates(2):
                    pass
            print(json.dumps({"peak": status("VmHWM") - start, "states": 3 * weights}))  # gradients and two moments
            return
        kept = bytes_per_image(card, job, accelerator) * given.batch_size
    process = subprocess.run([sys.executable, *sys.argv, "--peak"], capture_output=True, text=True, check=True)
    found = json.loads(process.stdout.splitlines()[-1])
    ratio = (found["peak"] - found["states"]) / kept
    print(
        f"{given.task} {given.model}: {kept / 1e6:.0f} MB kept, peak {found['peak'] / 1e6:.0f} MB, of which gradients"
    )
    print(f"and moments are {found['states'] / 1e6:.0f} MB; without them {ratio:.2f} times the kept tensors")


if __name__ == "__main__":
    main()
