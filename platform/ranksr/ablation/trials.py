"""Ablation files and their trials: listed ones, grids and search spaces, each with every seed."""

import dataclasses
import itertools
import logging
import pathlib
import re
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic
import ray.tune

from ranksr import storage
from ranksr.config import Config, FileName, Section, Seed, files, with_overrides
from ranksr.errors import UserError
from ranksr.metrics import made_of
from ranksr.pipeline import require_known
from ranksr.preflight import require_niqe_of_validation
from ranksr.runs import STAGES

log = logging.getLogger(__name__)

Distribution = Literal["choice", "uniform", "quniform", "loguniform", "qloguniform", "randint", "lograndint"]


class Listed(Section):
    name: FileName
    overrides: tuple[str, ...] = ()
    """`key.path=value`, what this trial changes."""


class Search(Section):
    """Each trial draws a value for every key. Draws that agree with an earlier one make no trial of their own."""

    num_trials: Annotated[int, pydantic.Field(gt=0)]
    sampler: Literal["random", "tpe"] = "random"
    """random: the same draws whenever the file is read. tpe: from the trials before, by Optuna; stored in the run."""
    metric: Literal["niqe", "psnr", "pi"] = "niqe"
    """tpe: the validation metric of `method` that it improves, mean over seeds; pi only with scoring.ma_model."""
    startup: Annotated[int, pydantic.Field(gt=0)] = 8
    """tpe: the first draws, those of the random search."""
    round: Annotated[int, pydantic.Field(gt=0)] = 4
    """tpe: the trials that are drawn together, and so can run side by side."""
    seed: Seed = 0
    space: Annotated[dict[str, dict[Distribution, Any]], pydantic.Field(min_length=1)]
    """Key to one distribution of Ray Tune and its arguments, e.g. {loguniform: [0.003, 0.3]}, {choice: [1, 2]}."""

    @property
    def num_at_start(self) -> int:
        """Number of draws that need no result."""
        return self.num_trials if self.sampler == "random" else min(self.startup, self.num_trials)


class EarlyStopping(Section):
    """ASHA: a trial whose validation is among the worst at a rung ends there, without an evaluation."""

    metric: Literal["niqe", "psnr", "pi"]
    """A validation metric; pi only with scoring.ma_model."""
    grace_fraction: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.1
    """Part of the training that every trial is given; the rungs are at this fraction times powers of the factor."""
    reduction_factor: Annotated[float, pydantic.Field(gt=1)] = 3
    """At a rung, one of this many trials goes on."""


class Study(Section):
    """The file of an ablation."""

    about: str
    """One line on the purpose, e.g. the table of the paper that it reproduces."""
    method: str
    """The method whose scores the trials are compared by."""
    table: int | None = None
    """The table of the paper whose rows the trials repeat."""
    compared_to: str | None = None
    """The base trial, which early stopping spares; null: the first."""
    common: tuple[str, ...] = ()
    """Overrides of every trial. The evaluation of `method` alone need not be named."""
    seeds: Annotated[tuple[Seed, ...], pydantic.Field(min_length=1)] | None = None
    """Seeds of the trainings of the Ranker and of `method`: every trial runs with each. null: the run's own."""
    trials: tuple[Listed, ...] = ()
    grid: dict[str, tuple[Any, ...]] = pydantic.Field(default_factory=dict)
    """Key to values: a trial for every combination."""
    search: Search | None = None
    early_stopping: EarlyStopping | None = None

    @pydantic.model_validator(mode="after")
    def _trials_are_told_apart(self) -> Self:
        if self.seeds and len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} repeat themselves: give each once")
        if empty := [key for key, values in self.grid.items() if not values]:
            raise ValueError(f"grid.{empty[0]}=[] is empty: give the values to try, or remove the key")
        names = [trial.name for trial in self.listed()]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"trials need different names, at least one: {', '.join(names) or 'there is none'}")
        if self.compared_to is not None and self.compared_to not in names:
            raise ValueError(f"compared_to={self.compared_to} is no trial; choose from {', '.join(names)}")
        return self

    @property
    def base(self) -> str:
        """Name of the trial that the others are compared with."""
        return self.compared_to or self.listed()[0].name

    @property
    def watched(self) -> str | None:
        """The training whose curves early stopping compares."""
        return self.method if self.early_stopping else None

    def listed(self) -> list[Listed]:
        """The listed trials, those of the grid, those of the search."""
        return [*self.trials, *self._combined(), *self.drawn()]

    def _combined(self) -> list[Listed]:
        combinations = itertools.product(*self.grid.values()) if self.grid else ()
        return [trial_of(dict(zip(self.grid, values, strict=True))) for values in combinations]

    def drawn(self) -> list[Listed]:
        """The trials of the search that the file alone decides, each once and none of the others."""
        others = [*self.trials, *self._combined()]
        draws = dict.fromkeys(trial_of(values) for values in draws_of(self.search))
        return [trial for trial in draws if trial not in others]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial of a study with one seed."""

    study: str
    name: str
    seed: int
    overrides: list[str]
    """Every change to the run's config, seeds included."""
    config: Config

    @property
    def key(self) -> str:
        return f"{self.study}/{self.name}/{self.seed}"


def load_studies(path: str | pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> dict[str, Study]:
    """The studies of a file, by name: the file's own, or those of the files that its `studies:` names (relative to it).

    `above`: the files that led here. Raises UserError.
    """
    path = pathlib.Path(path)
    if path.resolve() in above:
        raise UserError(f"{path}: studies lead back to it through {' -> '.join(map(str, above))}; remove one of them")
    tree = files.read_yaml(path)
    if "studies" not in tree:
        study = files.checked(Study, tree, str(path))
        if study.search and (left := len(study.drawn())) < study.search.num_at_start:
            log.info(
                "%s: %d of %d trials of the search remain, the other draws repeat them",
                path,
                left,
                study.search.num_at_start,
            )
        return {_file_name(path): study}
    named = tree["studies"]
    if set(tree) != {"about", "studies"} or not isinstance(named, list) or not all(isinstance(f, str) for f in named):
        raise UserError(f"{path}: beside `studies:`, a list of files, it holds `about:` only, not {', '.join(tree)}")
    studies: dict[str, Study] = {}
    for file in named:
        found = load_studies(path.parent / file, (*above, path.resolve()))
        if both := studies.keys() & found.keys():
            raise UserError(f"{path}: studies names two files {min(both)}.yaml: rename one, or name it once")
        studies |= found
    if not studies:
        raise UserError(f"{path}: studies=[] is empty: name at least one file of an ablation")
    return studies


def _file_name(path: pathlib.Path) -> str:
    """The study's name, which is that of its folder in the run."""
    try:
        name = pydantic.TypeAdapter(FileName).validate_python(path.stem)
    except pydantic.ValidationError:
        raise UserError(f"{path}: use letters, digits, `_`, `-` and `.` only: its folder has this name") from None
    if name == STAGES:
        raise UserError(f"{path}: the name {STAGES} is taken, by the stages that trials build; rename the file")
    return name


def prepare(studies: dict[str, Study], config: Config) -> list[Trial]:
    """Every trial with its checked config. Raises UserError for an override that does not fit."""
    prepared = []
    for name, study in studies.items():
        if study.method not in config.methods:
            raise UserError(
                f"ablation {name}: method={study.method} is none of the config's: {', '.join(config.methods)}"
            )
        compared = {"early_stopping.metric": study.early_stopping.metric} if study.early_stopping else {}
        if study.search and study.search.sampler == "tpe":
            compared["search.metric"] = study.search.metric
        for key, metric in compared.items():
            if "ma" in made_of(metric) and config.scoring.ma_model is None:
                raise UserError(f"ablation {name}: {key}=pi needs scoring.ma_model; choose niqe or psnr")
        for listed in study.listed():
            for seed in study.seeds or (config.seed,):
                # First, so that a trial may say otherwise.
                given = [f"evaluation.methods={files.to_yaml([study.method])}", *study.common, *listed.overrides]
                try:
                    steered = with_overrides(config, given).steered_by(study.method)
                    trainings = [*(f"rankers.{each}" for each in steered), f"methods.{study.method}"]
                    seeded = [f"{training}.train.seed={seed}" for training in trainings]
                    changed = with_overrides(config, [*given, *seeded])
                    require_known(changed)
                    require_evaluated(changed, study.method)
                    for key, metric in compared.items():
                        require_niqe_of_validation(changed, key, metric)
                except UserError as error:
                    raise UserError(f"ablation {name}, trial {listed.name}: {error}") from error
                prepared.append(Trial(name, listed.name, seed, [*given, *seeded], changed))
    return prepared


def require_evaluated(config: Config, method: str) -> None:
    """Raise UserError where a trial's config does not evaluate the study's method."""
    if method not in config.evaluation.methods:
        raise UserError(
            f"evaluation.methods={', '.join(config.evaluation.methods)} leaves out {method}, the ablation's method, "
            f"by whose scores trials are compared: add {method}, or leave evaluation.methods as it is"
        )


def varied(trials: list[Trial]) -> dict[str, dict[str, Any]]:
    """Trial key -> the values of the settings in which the trials of one study differ, seeds left out."""
    dumps = {trial.key: _flat(trial.config) for trial in trials}
    keys = {key: None for flat in dumps.values() for key in flat if not key.endswith("train.seed")}
    differing = [key for key in keys if len({storage.digest_of([flat.get(key)]) for flat in dumps.values()}) > 1]
    return {trial: {key: flat.get(key) for key in differing} for trial, flat in dumps.items()}


def _flat(config: Config) -> dict[str, Any]:
    return config.select(*type(config).model_fields)


def trial_of(values: dict[str, Any]) -> Listed:
    """A trial named after the values that it takes, e.g. `rank_content_0.03`."""
    words = [f"{key.rpartition('.')[2]}_{_word(value)}" for key, value in values.items()]
    return Listed(
        name="-".join(words), overrides=tuple(f"{key}={files.to_yaml(value)}" for key, value in values.items())
    )


def _word(value: Any) -> str:
    text = "_".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)


def draws_of(search: Search | None) -> list[dict[str, Any]]:
    """Random draws, as many as need no result."""
    if search is None:
        return []
    domains = {key: _domain(key, distribution) for key, distribution in search.space.items()}
    draws = []
    for number in range(search.num_at_start):
        rng = np.random.default_rng([search.seed, number])
        draws.append(rounded(search, {key: domain.sample(random_state=rng) for key, domain in domains.items()}))
    return draws


def rounded(search: Search, values: dict[str, Any]) -> dict[str, Any]:
    """Three digits say where a value is, and can be read in a trial's name; what was listed is taken as it is."""
    listed = {key for key, distribution in search.space.items() if "choice" in distribution}
    short = {key: float(f"{v:.3g}") for key, v in values.items() if isinstance(v, float) and key not in listed}
    return {**values, **short}


def _domain(key: str, distribution: dict[Distribution, Any]) -> Any:
    if len(distribution) != 1:
        raise ValueError(f"search.space.{key} needs one distribution, e.g. {{uniform: [0, 1]}}, not {distribution}")
    ((name, arguments),) = distribution.items()
    try:
        if not isinstance(arguments, list):
            raise TypeError("its arguments are a list")
        domain = ray.tune.choice(arguments) if name == "choice" else getattr(ray.tune, name)(*arguments)
        domain.sample()
    except (TypeError, ValueError, AssertionError, IndexError) as error:
        raise ValueError(
            f"search.space.{key}={{{name}: {arguments}}} is no distribution of Ray Tune: {error}"
        ) from error
    return domain
