import math
import sys

from safetensors.torch import load_file

from featherbone.data.scenes_write import write_coco
from featherbone.engine.settings import complete
from featherbone.engine.train import start_run
from runs import options, rows

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def launch_two(launch, data, run, settings, task="classification"):
    where = ("--data", data, "--model", "lvt", "--out", run, "--task", task)
    process = launch("train", *where, *options(settings), launcher=TORCHRUN)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return run


def close(one, other, tolerance):
    """Every number of two lists of rows agrees."""
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        for split in ("train", "val"):
            assert mine[split].keys() == theirs[split].keys()
            for name, value in mine[split].items():
                assert math.isclose(value, theirs[split][name], rel_tol=tolerance, abs_tol=tolerance), (
                    name,
                    mine,
                    theirs,
                )


def test_two_processes_are_one(drawn, train, launch, short, tmp_path):
    """Same global batch, same losses and metrics; mixing pairs and validation shares do not depend on the processes."""
    two = launch_two(launch, drawn, tmp_path / "two", short)
    close(rows(two), rows(train("one", **short)), 1e-4)


def test_a_process_is_a_part_of_the_batch(drawn, train, launch, short, tmp_path):
    """N processes draw what one process draws that computes its batch in N parts, dropped paths included."""
    short |= dict(drop_path=0.3, dropout=0.2)
    two = launch_two(launch, drawn, tmp_path / "two", short)
    one = train("one", **short, accumulate=2)
    close(rows(two), rows(one), 1e-5)
    first, second = load_file(two / "weights.safetensors"), load_file(one / "weights.safetensors")
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-5


def test_two_processes_find_what_one_finds(launch, tmp_path):
    """Objects are divided over all processes, and what each finds counts once."""
    write_coco(tmp_path / "scenes", 8, 5, (64, 64))
    fixed = dict(image_size=64, batch_size=4, epochs=2, device="cpu", workers=0, head_args="dim=16,num_convs=1")
    settings = fixed | dict(scale=(0.5, 1.5), mosaic=0.5, expand=1.5, iou_crop=0.3, ema=0.9)
    two = launch_two(launch, tmp_path / "scenes", tmp_path / "two", settings, "detection")
    settings = complete(task="detection", **settings, accumulate=2)
    one = start_run(tmp_path / "scenes", "lvt", "detection", tmp_path / "one", settings)
    close(rows(two), rows(one), 1e-3)
