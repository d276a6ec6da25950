"""A small search for the learning rate of a model, by Optuna, whose journal lets an interrupted search continue."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featherbone.exporters.targets.target import require

SPAN = 10.0
"""Learning rates are from the default divided by this to the default times this."""
RANDOM = 3
"""Trials before the search learns from earlier ones; the first of them is the default."""


def search_rate(measure: Callable[[float], float], default: float, count: int, journal: Path) -> dict[float, float]:
    """The value of `measure`, the larger the better, for each of `count` learning rates around the `default`.

    Raises `MissingExtra` without Optuna.
    """
    require(("optuna",), "search")
    import optuna

    with quiet(optuna):
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            sampler=optuna.samplers.TPESampler(n_startup_trials=RANDOM, seed=0),
            study_name="learning rate",
            direction="maximize",
            load_if_exists=True,
        )
        if not study.trials:
            study.enqueue_trial({"lr": default})
        rates = {"lr": optuna.distributions.FloatDistribution(default / SPAN, default * SPAN, log=True)}
        running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))  # of a process that has ended
        done = len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
        for trial in running[: count - done]:
            study.tell(trial.number, measure(trial.params["lr"]))
        for _ in range(count - done - len(running)):
            trial = study.ask(rates)
            study.tell(trial, measure(trial.params["lr"]))
        complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        return {trial.params["lr"]: float(trial.value) for trial in complete}


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's reports of single trials."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
