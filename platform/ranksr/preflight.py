"""Checks of a config against the world outside it: metrics, validations, names in a run, images made elsewhere."""

import logging
from collections.abc import Callable, Collection, Iterable

from ranksr import checkpoints, metrics, storage
from ranksr.config import Config, Training
from ranksr.data import parts, sources
from ranksr.data.sources import Photo
from ranksr.errors import UserError
from ranksr.metrics.learned import RANKER
from ranksr.runs import BESIDE_STAGES, STAGES
from ranksr.train.loop import validated_by

log = logging.getLogger(__name__)


def require_known(config: Config, stages: Iterable[str]) -> None:
    """Refuse at load what would fail after hours. `stages`: names of those that are no method's training.

    Raises UserError naming the key, its value and the remedy.
    """
    require_metrics(config)
    require_free_names(config, stages)
    require_wheel(config)
    patch_px, needed = config.rank_dataset.patch_px, metrics.smallest_niqe_px(config.scoring.profile)
    gap = config.rank_dataset.gap
    for key, metric in (("ranker.metric", config.ranker.metric), ("rank_dataset.gap.metric", gap and gap.metric)):
        if metric and "niqe" in metrics.made_of(metric) and patch_px < needed:
            raise UserError(
                f"rank_dataset.patch_px={patch_px} is too small for {key}={metric}: "
                f"NIQE needs {needed} px under the profile {config.scoring.profile}"
            )
    for name, method in config.methods.items():
        _require_validated(config, f"methods.{name}.train", method.train, of_ranker=False)
    _require_validated(config, "ranker.train", config.ranker.train, of_ranker=True)


def require_metrics(config: Config) -> None:
    """Raise UserError for a metric that is unknown, lacks its model, or cannot do what it is asked for."""
    gap = config.rank_dataset.gap
    shown = [(f"scoring.metrics={name}", name) for name in config.scoring.metrics]
    labels = [(f"ranker.metric={config.ranker.metric}", config.ranker.metric)]
    if gap and gap.metric:
        labels.append((f"rank_dataset.gap.metric={gap.metric}", gap.metric))
    for said, name in [*shown, *labels]:
        try:
            info = metrics.metric_info(name)
        except UserError as error:
            raise UserError(f"{error} ({said})") from error
        if name.startswith(RANKER):
            raise UserError(f"{said}: a Ranker's score is for `ranksr score` alone; choose another metric")
        if "ma" in metrics.made_of(name) and config.scoring.ma_model is None:
            raise UserError(f"{said}: metric {name!r} needs scoring.ma_model: published, fit, or a file")
        if info.needs_reference and (said, name) in labels:
            raise UserError(
                f"{said} needs a reference image, and what orders patches must do without: "
                "choose niqe, ma, pi or one of pyiqa's without reference"
            )


def require_free_names(config: Config, stages: Iterable[str]) -> None:
    """Raise UserError where a method would share its folder of the run. `stages`: those that are no method's."""
    taken = [*stages, *(name.split(".")[0] for name in (*BESIDE_STAGES, STAGES))]
    for key, names in (("methods", config.methods), ("external", config.external)):
        if both := [name for name in names if name in taken]:
            raise UserError(
                f"{key}.{both[0]}: the name is taken by a part of every run; choose another than {', '.join(taken)}"
            )


def require_wheel(config: Config) -> None:
    """Raise UserError where a source names a photograph that scikit-image's wheel does not hold, or one twice."""
    for source in (config.data.hr, config.rank_dataset.hr, *(each.hr for each in config.test_sets)):
        if source and source.startswith(sources.WHEEL):
            sources.list_photos(source)


def _require_validated(config: Config, key: str, training: Training, of_ranker: bool) -> None:
    """The metric that chooses a training's weights must be among those of its validations."""
    if training.best_metric is None:
        return
    known = validated_by(of_ranker, with_pi=config.scoring.ma_model is not None)
    if training.best_metric not in known:
        raise UserError(
            f"{key}.best_metric={training.best_metric} is not validated: choose from {', '.join(known)}"
            + (", and give scoring.ma_model for pi" if "ma" in metrics.made_of(training.best_metric) else "")
        )
    require_niqe_of_validation(config, f"{key}.best_metric", training.best_metric)


def require_niqe_of_validation(config: Config, key: str, metric: str) -> None:
    """Raise UserError where `metric`, of the setting `key`, needs the NIQE of sub-images that are too small for it."""
    if "niqe" in metrics.made_of(metric) and (lack := _lacks_niqe(config)):
        raise UserError(f"{key}={metric}: {lack}, or choose psnr")


def require_matches(config: Config, photographs: Callable[[str], list[Photo]], stages: Collection[str]) -> None:
    """Match the images made elsewhere that these stages read with their photographs. Raises UserError.

    `photographs`: those of a source.
    """
    data = config.data
    folders = {name: path for name, path in config.external.items() if storage.is_folder(path)}
    if "rank_dataset" in stages:
        photos = photographs(config.rank_dataset.hr or data.hr)
        most_missing = parts.most_bad(data.on_bad_image, data.max_bad_fraction, len(photos))
        for name in (name for name in config.rank_dataset.methods if name in folders):
            sources.match_images(name, folders[name], photos, most_missing)
    for test_set in config.test_sets if "evaluation" in stages else ():
        photos = photographs(test_set.hr)
        for name in (name for name in config.evaluation.methods if name in folders):
            sources.match_images(name, storage.join(folders[name], test_set.name), photos)
        if test_set.lr:
            sources.match_images("lr", test_set.lr, photos)


def require_networks(config: Config, stages: Collection[str]) -> None:
    """Load and try the weights made by others that these stages use. Raises UserError for those of no x4 network."""
    used = [
        *(config.rank_dataset.methods if "rank_dataset" in stages else ()),
        *(config.evaluation.methods if "evaluation" in stages else ()),
    ]
    for name, path in config.external.items():
        if name in used and not storage.is_folder(path):
            checkpoints.load_generator(storage.absolute(path))
    for name, method in config.methods.items():
        if name in stages and method.start is not None and method.start not in config.methods:
            checkpoints.start_weights(storage.absolute(method.start), method.generator)


def warn(config: Config) -> None:
    """Say what the validations of this config will not have."""
    if lack := _lacks_niqe(config):
        log.warning("validations will have no NIQE: %s", lack)


def _lacks_niqe(config: Config) -> str | None:
    size, needed = config.data.sub_image_px, metrics.smallest_niqe_px(config.scoring.profile)
    if size >= needed:
        return None
    return (
        f"data.sub_image_px={size} is too small for it under the profile {config.scoring.profile}; "
        f"set it to {needed} or more"
    )
