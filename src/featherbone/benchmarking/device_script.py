"""Measure the models of this folder on this device: python3 bench.py

Each model has its own process, so that its memory is counted, and the processes take turns, round after round, so that
a slow phase of the device affects all of them. results.json is written after each round; featherbone bench --merge
results.json makes a table of it. Written by featherbone bench --to; it needs Python 3.8, NumPy and the runtimes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib import metadata
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
FORMAT = "featherbone bench on a device, 1"
BOUND = 1e-3
"""Maximum error of a file in float32."""
TURN_SECONDS, TURN_CALLS = 0.1, 5
"""Maximum duration of a turn with several timed calls, and maximum number of them."""
FEWEST = 3
"""Minimum number of rounds, whatever the budget."""
RUNNERS: dict[str, Callable[[str, int], Any]] = {}  # by runtime: opens a file as a function of arrays


def main() -> int:
    """Measure, or serve as the process of one model. Exit codes: 0, 1 if a row has an error, 130 or 143 if stopped."""
    parser = argparse.ArgumentParser(description="Measure the models of this folder on this device.")
    parser.add_argument("models", nargs="*", help="models to measure; by default all")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (%(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="maximum number of measured rounds (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="average budget of a row (%(default)s)")
    parser.add_argument("--out", default=os.path.join(HERE, "results.json"), help="file to write (%(default)s)")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with open(os.path.join(HERE, "models.json"), encoding="utf-8") as file:
        cases = json.load(file)
    if options.serve is not None:
        return serve(cases[options.serve], options.threads)
    unknown = set(options.models) - {case["row"]["model"] for case in cases}
    if unknown or min(options.threads, options.repeats) < 1:
        parser.error(
            f"no model {', '.join(unknown)} in models.json" if unknown else "threads and repeats are 1 or more"
        )
    chosen = [i for i, case in enumerate(cases) if not options.models or case["row"]["model"] in options.models]
    result: dict[str, Any] = {
        "format": FORMAT,
        "complete": False,
        "repeats": 0,
        "device": {**about_device(), "threads": options.threads, "runtimes": {}},
        "rows": [dict(cases[i]["row"]) for i in chosen],
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    command = [sys.executable, os.path.abspath(__file__), "--threads", str(options.threads), "--serve"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "universal_newlines": True}
    code: Any = 0
    try:
        with contextlib.ExitStack() as stack:
            children = []
            for i in chosen:
                children.append(stack.enter_context(subprocess.Popen([*command, str(i)], **pipes)))
                stack.callback(children[-1].kill)
            for _ in measure(result, children, options):
                write_json(options.out, result)
        result["complete"] = True
    except (KeyboardInterrupt, SystemExit) as stop:
        code = getattr(stop, "code", 128 + signal.SIGINT)
    write_json(options.out, result)
    show(result)
    print(f"results  {options.out}" + ("" if result["complete"] else ", incomplete: interrupted"))
    return code or int(any(row["error"] for row in result["rows"]))


def measure(result: dict[str, Any], children: list[Any], options: Any) -> Iterator[None]:
    """Open all models, then measure them in turn; `result` is up to date at each step."""
    rows = result["rows"]
    for row, child in zip(rows, children):
        progress(f"loading {title(row)}")
        facts = ask(child, "open", row)
        result["device"]["runtimes"].update(facts.pop("runtimes", {}))
        row.update(facts)
        yield
    start = time.perf_counter()
    alive = [(row, child) for row, child in zip(rows, children) if not row["error"]]
    times: list[list[float]] = [[] for _ in alive]
    for number in range(1, options.repeats + 1):
        for (row, child), mine in zip(alive, times):
            progress(f"round {number} of at most {options.repeats}: {title(row)}")
            found = ask(child, "measure", row)
            if "ms" in found:
                mine += found["ms"]
                row.update(summary(mine, row["batch"]))
            if number == 1:
                progress("")
                print(f"{title(row)}: {row['error'] or format(row['p50'], '.2f') + ' ms'}", flush=True)
        result["repeats"] = number
        yield
        if number >= FEWEST and time.perf_counter() - start >= options.seconds * len(alive):
            return


def ask(child: Any, method: str, row: dict[str, Any]) -> dict[str, Any]:
    """The answer of a model's process; an error is stored in the row, and ends its measurement."""
    if row["error"]:
        return {}
    try:
        child.stdin.write(method + "\n")
        child.stdin.flush()
        answer = child.stdout.readline()
    except OSError:
        answer = ""
    if not answer:
        code = child.wait()
        answer = json.dumps({"error": f"its process ended ({code}{', perhaps for want of memory' * (code == -9)})"})
    found: dict[str, Any] = json.loads(answer)
    row["error"] = found.get("error", "")
    return found


def summary(times: list[float], batch: int) -> dict[str, float]:
    """Quantiles of milliseconds."""
    ordered = sorted(times)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    found = {f"p{percent}": quantile(percent / 100) for percent in (25, 50, 75, 90, 95)}
    return {**found, "images_per_second": 1e3 * batch / found["p50"]}


def serve(case: dict[str, Any], threads: int) -> int:
    """The process of one model: answers requests on standard input until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is interrupted as well, and ends this one
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes may print
    state: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            answer = open_case(case, threads, state) if line.strip() == "open" else {"ms": turn(state["call"])}
        except Exception as error:  # runtimes raise errors of any type
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def open_case(case: dict[str, Any], threads: int, state: dict[str, Any]) -> dict[str, Any]:
    """Load a file, compare its outputs with the expected ones, and prepare the call that is timed."""
    import numpy as np

    folder, row = os.path.join(HERE, case["folder"]), case["row"]
    with contextlib.suppress(Exception):  # no such file, but the runtime is loaded, which is not the model's memory
        RUNNERS[case["target"]](os.path.join(folder, "none"), threads)
    images = np.load(os.path.join(folder, "input.npy"))
    expected = [np.load(os.path.join(folder, name)) for name in case["expected"]]
    held = peak_bytes()
    run = RUNNERS[case["target"]](os.path.join(folder, case["file"]), threads)

    def call(batch: Any) -> list[Any]:
        parts = [run(part) for part in (np.split(batch, len(batch)) if case["one_image"] else [batch])]
        return [np.concatenate(column) for column in zip(*parts)]

    size = row["batch"]
    state["call"] = lambda: call(images[:size])
    state["call"]()
    peak = peak_bytes()
    whole = len(images) // size * size
    found = [call(images[i : i + size]) for i in range(0, whole, size)]
    differs = difference(
        [np.concatenate(part) for part in zip(*found)], [x[:whole] for x in expected], case["compared"]
    )
    wrong = differs > BOUND and not case["rounded"]
    note = f"wrong outputs: they differ from the model's by more than {BOUND:g}" if wrong else ""
    return {
        "peak_mb": None if held is None or peak is None else (peak - held) / 1e6,
        "differs": differs,
        "note": "; ".join(filter(None, (row["note"], note))),
        "runtimes": {row["runtime"]: ", ".join(f"{name} {version(name)}" for name in case["packages"])},
    }


def difference(found: list[Any], expected: list[Any], compared: list[list[int]]) -> float:
    """Root mean square of the error, relative to that of the values; `compared` are groups of outputs."""
    import numpy as np

    if [x.shape for x in found] != [x.shape for x in expected]:
        raise ValueError(f"outputs of shapes {[x.shape for x in found]} instead of {[x.shape for x in expected]}")
    squares = []
    for group in compared:
        mine, theirs = (np.concatenate([x[i].ravel() for i in group]).astype("float64") for x in (expected, found))
        squares.append(np.mean((mine - theirs) ** 2) / max(np.mean(mine**2), 1e-24))
    error = float(np.mean(squares) ** 0.5)
    return error if error < 1e6 else 1e6  # also for a value that is not a number


def turn(call: Callable[[], object]) -> list[float]:
    """Milliseconds of a few calls after an untimed one, which fills the caches."""

    def seconds() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    count = max(1, min(TURN_CALLS, int(TURN_SECONDS / seconds())))
    return [1e3 * seconds() for _ in range(count)]


def peak_bytes() -> int | None:
    """The most memory that this process has held; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def version(package: str) -> str:
    """Version of an imported package."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return str(getattr(sys.modules.get(package), "__version__", "of unknown version"))


def about_device() -> dict[str, str]:
    """Name of the device and its processor, system, version of Python, date."""
    cpu = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        entries = dict(line.partition(":")[::2] for line in file)
        cpu = next((entries[key].strip() for key in entries if key.strip() in ("model name", "Hardware")), "")
    cpu = cpu or platform.processor() or platform.machine()
    name = ""
    with contextlib.suppress(OSError), open("/proc/device-tree/model", encoding="utf-8") as file:
        name = file.read().strip("\0\n ")
    if not name and shutil.which("getprop"):  # Android
        name = subprocess.run(["getprop", "ro.product.model"], stdout=subprocess.PIPE).stdout.decode().strip()
    date = datetime.now().astimezone().isoformat(timespec="minutes")
    python = platform.python_version()
    return {"name": name or cpu, "cpu": cpu, "system": platform.platform(), "python": python, "date": date}


def title(row: dict[str, Any]) -> str:
    """What a row is about."""
    return f"{row['model']} {row['runtime']} {row['height']}x{row['width']}, batch {row['batch']}"


def progress(text: str) -> None:
    """Replace the line of progress, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    progress("")
    lines = [["model", "runtime", "input", "batch", "ms", "p90", "peak MB", "differs", "note"]]
    for row in result["rows"]:
        cells = [row["model"], row["runtime"], f"{row['height']}x{row['width']}", str(row["batch"])]
        for key, form in (("p50", "%.2f"), ("p90", "%.2f"), ("peak_mb", "%.1f"), ("differs", "%.0e")):
            cells.append("" if row.get(key) is None else form % row[key])
        lines.append([*cells, row["error"] or row["note"]])
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    device = result["device"]
    about = [device["name"], device["cpu"], f"{device['threads']} threads", *device["runtimes"].values()]
    print(f"\ndevice   {', '.join(dict.fromkeys(about))}, {device['date']}")


def write_json(path: str, value: Any) -> None:
    """Write a file that appears whole or not at all."""
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
