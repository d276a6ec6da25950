"""Processes that answer requests: a `worker` in each."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

from featherbone.benchmarking.worker import Job, serve
from featherbone.errors import Interrupted
from featherbone_command import SPIN


class WorkerError(Exception):
    """A worker's method failed; the message is the reason."""


class Worker:
    """A process of `worker.serve`, and the pipe to it; it ends with the `with` block."""

    def __init__(self, job: Job) -> None:
        # a fork of a process that has imported torch saves seconds; CUDA and the libraries of other systems may not
        # be forked
        forked = sys.platform == "linux" and job.device == "cpu"
        context: Any = multiprocessing.get_context("forkserver" if forked else "spawn")
        if forked:
            context.set_forkserver_preload([serve.__module__])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(job, theirs), daemon=True)
        resource_tracker.ensure_running()  # starting it later would let interrupts through again
        with starting():
            self.process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns. Raises `WorkerError`."""
        self.send(method, *arguments)
        return self.receive()

    def send(self, method: str, *arguments: Any) -> None:
        """Ask without waiting; `receive` waits for the answer."""
        with suppress(OSError):  # of a process that died, as `receive` finds
            self.pipe.send((method, arguments))

    def receive(self) -> Any:
        """What the method returns that was asked last. Raises `WorkerError`."""
        try:
            done, answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            why = "killed, perhaps for want of memory" if code == -9 else f"exit code {code}"
            raise WorkerError(f"its process ended ({why})") from None
        if not done:
            raise WorkerError(answer)
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        self.pipe.close()
        self.process.join(5 if error is None else 0.3)
        self.process.kill()
        self.process.join()
        self.process.close()


@contextmanager
def starting() -> Iterator[None]:
    """Processes started inside ignore interrupts, because the parent ends them, and have the command's `SPIN`."""
    name, value = SPIN  # torch reads it when it is loaded
    before = os.environ.get(name)
    os.environ.setdefault(name, value)
    can_block = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else set()
    try:
        yield
    finally:
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is None:
            del os.environ[name]


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Interrupted`, as Ctrl-C raises `KeyboardInterrupt`; only the main thread can do so."""

    def stop(*_: Any) -> None:
        raise Interrupted(None, 128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
