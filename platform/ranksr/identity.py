"""Identity of a stage: the settings that decide its result, and no more, which its fingerprint hashes.

A setting that changes only curves of a training is a remark: it is kept in stage.json, and a training is reused with
other ones. A change of what is hashed here raises `runs.IDENTITY`.
"""

import dataclasses
from typing import Any

from ranksr.config import Config, with_overrides
from ranksr.data.labels import raw_metrics
from ranksr.metrics import made_of
from ranksr.runs import Stage

SCORING_MODELS = {"niqe": "scoring.niqe_model", "ma": "scoring.ma_model"}
"""Metric to the key of the model by which it is computed."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """A stage as a config asks for it."""

    settings: dict[str, Any]
    inputs: dict[str, str]
    remarks: dict[str, Any] = dataclasses.field(default_factory=dict)


def patches(config: Config) -> dict[str, Any]:
    """Settings of the stage `patches`. How many photographs make a part is none: the rows and their order stay."""
    return config.select("seed", "data.val_fraction", "data.sub_image_px", "data.sub_image_stride_px")


def models_of(metrics: tuple[str, ...], models: dict[str, str]) -> dict[str, str]:
    """The scoring models, by key, that these metrics need."""
    raw = {name for metric in metrics for name in made_of(metric)}
    return {key: models[key] for name, key in SCORING_MODELS.items() if name in raw and key in models}


def training(config: Config, key: str, inputs: dict[str, str], models: dict[str, str]) -> Identity:
    """A training: `key` is `ranker` or `methods.NAME`, `models` the scoring models of its validations.

    Validations decide the weights only where the best are kept (checkpoint=best), and then only what `best_metric` is
    computed by.
    """
    method = config.methods.get(key.removeprefix("methods."))
    settings = config.select("seed", key, *(method.sections if method else ()))
    own_seed = settings.pop(f"{key}.train.seed")
    if own_seed is not None:  # so that naming the run's seed changes nothing
        settings["seed"] = own_seed
    if method:
        settings.pop(f"{key}.start")  # an input: where a file is does not matter, what it holds does
        for unused in method.idle_keys:
            settings.pop(f"{key}.{unused}")
    for path in settings.keys() & inputs.keys():  # a file counts by its content
        settings.pop(path)
    when = {name: settings.pop(name) for name in (f"{key}.train.validate_every_steps", f"{key}.train.best_metric")}
    when |= config.select("validation")
    profile = config.select("scoring.profile") if models else {}
    scoring = {**profile, **models}
    if settings[f"{key}.train.checkpoint"] != "best":
        return Identity(settings, inputs, {**when, **scoring})
    deciding = models_of((when[f"{key}.train.best_metric"],), models)
    settings |= {**when, **(profile if deciding else {})}
    rest = {name: value for name, value in scoring.items() if name not in settings and name not in deciding}
    return Identity(settings, {**inputs, **deciding}, rest)


def watched(plain: Identity) -> Identity:
    """A training whose curve is compared with those of others: what changes its curve counts as well."""
    return dataclasses.replace(plain, settings={**plain.settings, **plain.remarks})


def is_made_as(found: Stage, wanted: Stage) -> bool:
    """Whether a finished training, whose curve did not count, has it as one that is `watched` asks for."""
    return {**found.settings, **found.remarks} == wanted.settings and found.inputs == wanted.inputs


def rank_dataset(config: Config, inputs: dict[str, str], models: dict[str, str]) -> Identity:
    """The stage `rank_dataset`. `models` are the scoring models; those of the metrics that are stored count."""
    gap = config.rank_dataset.gap
    if gap is not None and gap.metric is None:
        config = with_overrides(config, [f"rank_dataset.gap.metric={config.ranker.metric}"])
    settings = config.select("seed", "scoring.profile", "rank_dataset", "data.val_fraction")
    settings.pop("rank_dataset.hr")
    names = raw_metrics(config)
    return Identity({**settings, "metrics": list(names)}, {**inputs, **models_of(names, models)})


def holds_labels(config: Config, found: Stage, wanted: Stage) -> bool:
    """Whether a finished rank dataset that stores other metrics has the same locations and all that a Ranker needs."""
    needed = set(made_of(config.ranker.metric))
    if gap := config.rank_dataset.gap:
        needed |= set(made_of(gap.metric or config.ranker.metric))
    other = {key for name, key in SCORING_MODELS.items() if name not in needed}

    def reduced(settings: dict[str, Any], inputs: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in settings.items() if key != "metrics"},
            {key: value for key, value in inputs.items() if key not in other},
        ]

    same = reduced(found.settings, found.inputs) == reduced(wanted.settings, wanted.inputs)
    return same and needed <= set(found.settings["metrics"])


def evaluation(config: Config, inputs: dict[str, str], models: dict[str, str]) -> Identity:
    """The stage `evaluation`; of the scoring models, those of the metrics that are asked for count."""
    metrics = config.scoring.metrics
    settings = config.select("scoring.profile", "scoring.metrics", "evaluation")
    return Identity(settings, {**inputs, **models_of(metrics, models)})
