"""Identity of a stage: the settings that decide its result, and no more, which its fingerprint hashes.

A setting that changes only curves of a training is a remark: it is kept in stage.json, and a training is reused with
other ones. A change of what is hashed here raises `runs.IDENTITY`.
"""

import dataclasses
from typing import Any

from ranksr.config import Config
from ranksr.config.schema import shown, spelled_key
from ranksr.data.labels import raw_metrics
from ranksr.metrics import made_of
from ranksr.runs import Stage

SCORING_MODELS = {"niqe": "scoring.niqe_model", "ma": "scoring.ma_model"}
"""Metric to the key of the model by which it is computed."""


LATER = {
    "ranker.crop_px": None,
    "rank_content_loss.shift_px": 0,
    "rank_content_loss.refresh": None,
    "rank_content_loss.refresh.perturbed": 0,
    "rank_content_loss.refresh.standardise": False,
}
"""Keys that came after runs were made, and the value that means what there was before: with it they are no settings, so
that those runs are not refused."""


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
    """A training: `key` is `rankers.NAME` or `methods.NAME`, `models` the scoring models of its validations.

    Validations decide the weights only where the best are kept (checkpoint=best), and then only what `best_metric` is
    computed by. The name of a Ranker is no setting: it may change.
    """
    section, _, name = spelled_key(key).partition(".")
    method = config.methods[name] if section == "methods" else None
    settings = config.select("seed", key, *(method.sections if method else ()))
    if method is None:
        settings, key = _renamed(settings, shown(key), "ranker"), "ranker"
        settings.pop("ranker.rank_dataset")  # an input
    else:
        weight, steered = f"{key}.weights.rank_content", config.steered_by(name)
        settings = {each: value for each, value in settings.items() if not f"{each}.".startswith(f"{weight}.")}
        settings[weight] = next(iter(steered.values()), 0.0) if len(steered) < 2 else steered  # 0 has another hash
    settings = {each: value for each, value in settings.items() if LATER.get(each, "none of them") != value}
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


def _renamed(settings: dict[str, Any], key: str, other: str) -> dict[str, Any]:
    """Settings under `key` as those under `other`."""
    return {
        other + name.removeprefix(key) if name.startswith(f"{key}.") else name: value
        for name, value in settings.items()
    }


def rank_dataset(config: Config, name: str, inputs: dict[str, str], models: dict[str, str]) -> Identity:
    """The stage of a rank dataset. `models` are the scoring models; those of the metrics that are stored count."""
    key = shown(f"rank_datasets.{name}")
    settings = _renamed(config.select("seed", "scoring.profile", key, "data.val_fraction"), key, "rank_dataset")
    settings.pop("rank_dataset.hr")
    if (metric := config.gap_metric(name)) is not None:
        settings["rank_dataset.gap.metric"] = metric
    names = raw_metrics(config, name)
    return Identity({**settings, "metrics": list(names)}, {**inputs, **models_of(names, models)})


def holds_labels(config: Config, name: str, found: Stage, wanted: Stage) -> bool:
    """Whether a finished rank dataset that stores other metrics has the same locations and all that Rankers need."""
    asked = [config.rankers[ranker].metric for ranker in config.learners_of(name)]
    if (metric := config.gap_metric(name)) is not None:
        asked.append(metric)
    needed = {raw for metric in asked for raw in made_of(metric)}
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
