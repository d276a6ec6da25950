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
    from optuna.storages.journal import JournalFileBackend

    with quiet(optuna):
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
            sampler=optuna.samplers.TPESampler(n_startup_trials=RANDOM, seed=0),
            study_name="learning rate",
            direction="maximize",
            load_if_exists=True,
        )
        if not study.trials:
            study.enqueue_trial({"lr": default})
        rates: dict[str, Any] = {"lr": optuna.distributions.FloatDistribution(default / SPAN, default * SPAN, log=True)}
        complete = (optuna.trial.TrialState.COMPLETE,)
        stopped = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))  # of a process that has ended
        while len(study.get_trials(states=complete)) < count:
            if stopped:
                number, lr = stopped[0].number, stopped.pop(0).params["lr"]
            else:
                number, lr = (asked := study.ask(rates)).number, asked.params["lr"]
            study.tell(number, measure(lr))
        return {trial.params["lr"]: trial.value or 0.0 for trial in study.get_trials(states=complete)}


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's reports of single trials."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
