"""Draws of a search by TPE: from the trials so far, in rounds, each stored in the run before its trials begin.

By Optuna's ask and tell. Ray Tune's OptunaSearch lives inside one Tuner whose trials it starts and ends; ours are
planned ahead, share stages, are built in waves of several Tuners, and are known by their files after a crash.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

from ranksr import storage
from ranksr.ablation.trials import Listed, Search, Study, draws_of, rounded, trial_of
from ranksr.errors import UserError
from ranksr.report.ablation.records import Record
from ranksr.runs import Run

log = logging.getLogger(__name__)

DRAWS = "draws.json"


def with_draws(study: Study, name: str, run: Run) -> Study:
    """The study, with the draws that the run holds as further trials.

    Raises UserError where these are another search's, or Optuna is missing.
    """
    if study.search is None or study.search.sampler != "tpe":
        return study
    require_optuna()
    known = study.listed()
    found = dict.fromkeys(trial_of(values) for values in _stored(study.search, name, run))
    names = {trial.name for trial in known}
    more = [trial for trial in found if trial.name not in names]
    return study.model_copy(update={"trials": (*known, *more), "grid": {}})  # in the order in which they were drawn


def draw_more(study: Study, name: str, run: Run, records: Sequence[Record]) -> bool:
    """Store the next round of draws, where the search has not had all; returns whether there is one."""
    search = study.search
    if search is None or search.sampler != "tpe":
        return False
    stored = _stored(search, name, run)
    draws = [*draws_of(search), *stored]
    count = min(search.round, search.num_trials - len(draws))
    if count <= 0:
        return False
    drawn = ask(search, [(values, _value(trial_of(values), search, records)) for values in draws], count)
    storage.write_json(_path(name, run), {"search": _identity(search), "draws": [*stored, *drawn]})
    log.info(
        "ablation %s: TPE draws trials %d to %d of %d", name, len(draws) + 1, len(draws) + count, search.num_trials
    )
    return True


def ask(search: Search, told: Sequence[tuple[dict[str, Any], float | None]], count: int) -> list[dict[str, Any]]:
    """`count` draws after those of `told`, whose values are None where a trial failed. The same for the same input."""
    optuna = require_optuna()
    distributions = {key: _distribution(optuna, each) for key, each in search.space.items()}
    # Startup trials are ours, those of the random search.
    sampler = optuna.samplers.TPESampler(seed=search.seed + len(told), n_startup_trials=1, constant_liar=True)
    direction = "maximize" if search.metric == "psnr" else "minimize"
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction=direction, sampler=sampler)
        for values, value in told:
            if value is not None:
                params = {key: _to_param(search, key, distributions[key], values[key]) for key in distributions}
                study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=value))
        asked = [study.ask(distributions).params for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [rounded(search, {key: _from_param(search, key, params[key]) for key in distributions}) for params in asked]


def require_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "search.sampler=tpe needs optuna, which is not installed: pip install 'ranksr[optuna]', or take random"
        ) from error
    return optuna


def _path(name: str, run: Run) -> str:
    return run.path("ablation", name, DRAWS)


def _identity(search: Search) -> dict[str, Any]:
    """Settings that decide the draws; `num_trials` says how many of them there are."""
    return search.model_dump(mode="json", include={"seed", "space", "metric", "startup"})


def _stored(search: Search, name: str, run: Run) -> list[dict[str, Any]]:
    """The draws in the run behind those of the start, at most as many as are asked for."""
    path = _path(name, run)
    if not storage.exists(path):
        return []
    found = storage.read_json(path)
    now = _identity(search)
    if other := [key for key in now if now[key] != found["search"].get(key)]:
        raise UserError(
            f"ablation {name}: {path} holds draws of search.{other[0]}={found['search'].get(other[0])}, and the file "
            f"says {now[other[0]]}: take the old value, rename the file, or delete {path} to draw again"
        )
    return found["draws"][: max(0, search.num_trials - search.startup)]


def _value(trial: Listed, search: Search, records: Sequence[Record]) -> float | None:
    """Mean of the last validation over the seeds that are through."""
    through = [each for each in records if each.trial == trial.name and each.state in ("done", "stopped")]
    values = [each.validation[search.metric] for each in through if search.metric in each.validation]
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _distribution(optuna: Any, distribution: dict[Any, Any]) -> Any:
    ((kind, arguments),) = distribution.items()
    if kind == "choice":
        return optuna.distributions.CategoricalDistribution(tuple(range(len(arguments))))
    low, high = arguments[:2]
    if kind in ("randint", "lograndint"):  # without its end, as in Ray Tune
        return optuna.distributions.IntDistribution(low, high - 1, log=kind == "lograndint")
    return optuna.distributions.FloatDistribution(low, high, log="log" in kind)


def _to_param(search: Search, key: str, distribution: Any, value: Any) -> Any:
    ((kind, arguments),) = search.space[key].items()
    if kind == "choice":
        return arguments.index(value)
    return min(max(value, distribution.low), distribution.high)  # three digits may be just outside


def _from_param(search: Search, key: str, param: Any) -> Any:
    ((kind, arguments),) = search.space[key].items()
    if kind == "choice":
        return arguments[param]
    if kind in ("quniform", "qloguniform"):
        return round(param / arguments[2]) * arguments[2]
    return param
