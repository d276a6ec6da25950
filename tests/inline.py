"""Workers of `bench` in the test's process."""

from featherbone.benchmarking import clock, speed
from featherbone.benchmarking.processes import Worker, WorkerError
from featherbone.benchmarking.worker import owner_of


class Inline(Worker):
    """A worker in the test's process."""

    def __init__(self, job):
        self.pipe = self.process = self
        self.job, self.owner = job, owner_of(job)

    def send(self, method, *arguments):
        self.method, self.arguments = method, arguments

    def receive(self):
        try:
            return getattr(self.owner, self.method)(*self.arguments)
        except Exception as error:
            raise WorkerError(str(error)) from None

    def is_alive(self):
        return True

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Canned(Inline):
    """A worker that measures nothing: all models take 2.5 ms."""

    def __init__(self, job):
        self.pipe = self.process = self
        self.job = job

    def receive(self):
        if self.method == "measure":
            return (90.0, 9.0) if self.job.runtime == "limits" else [2.0, 3.0]
        return {"open": {}, "about": (1, "cpu")}[self.method]


def inline(patch, kind=Inline):
    """Let workers be of `kind`, and measure little."""
    patch.setattr(speed, "Worker", kind)
    patch.setattr(speed, "wait", lambda pipes: pipes)
    patch.setattr(speed, "WARM_UP", 0)
    patch.setattr(clock, "SHAPES", {"cpu": (512,)})
    patch.setattr(clock, "COPIED", 2**20)
