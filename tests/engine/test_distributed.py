import math
import sys

from safetensors.torch import load_file

from runs import options, rows

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def launch_two(launch, drawn, run, settings):
    process = launch("train", "--data", drawn, "--model", "lvt", "--out", run, *options(settings), launcher=TORCHRUN)
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
