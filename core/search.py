"""Search over a few scalars before the descent, by Optuna's tree-structured Parzen estimators."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from core.hyperparameters import Layout, unconstrain
from core.records import Trial
from core.spec.meta import WarmStart


def suggest(asked: WarmStart, layouts: dict[str, Layout], past: Sequence[Trial]) -> dict[str, float]:
    """Unconstrained values to try next. A function of its arguments: a resumed search goes on as if never stopped.

    Args:
        asked: what is searched, and where.
        layouts: of all hyperparameters.
        past: trials so far. Those that diverged count as worse than all others.
    """
    distributions: dict[str, BaseDistribution] = {
        str(name): FloatDistribution(
            float(unconstrain(interval.low, layouts[name].transform)),
            float(unconstrain(interval.high, layouts[name].transform)),
        )
        for name, interval in sorted(asked.search.items())
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=len(past)))
    for trial in past:
        state = TrialState.PRUNED if trial.outer_loss is None else TrialState.COMPLETE
        study.add_trial(
            create_trial(state=state, value=trial.outer_loss, params=trial.values, distributions=distributions)
        )
    return dict(study.ask(distributions).params)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the lowest outer loss; None where all diverged."""
    done = [trial for trial in trials if trial.outer_loss is not None]
    return min(done, key=lambda trial: (trial.outer_loss, trial.number), default=None)
