"""Checks of a config against the world outside it: metrics, validations, names in a run, images made elsewhere."""

import logging
from collections.abc import Callable, Collection, Iterable

from ranksr import checkpoints, metrics, storage
from ranksr.config import Config, RankDataset, Training
from ranksr.config.schema import shown
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
    needed = metrics.smallest_niqe_px(config.scoring.profile)
    for key, metric, of in _labels(config):
        patch_px = config.rank_datasets[of].patch_px
        if "niqe" in metrics.made_of(metric) and patch_px < needed:
            raise UserError(
                f"{shown(f'rank_datasets.{of}')}.patch_px={patch_px} is too small for {key}={metric}: "
                f"NIQE needs {needed} px under the profile {config.scoring.profile}"
            )
    for name, method in config.methods.items():
        _require_validated(config, f"methods.{name}.train", method.train, of_ranker=False)
    for name, ranker in config.rankers.items():
        _require_validated(config, f"{shown(f'rankers.{name}')}.train", ranker.train, of_ranker=True)


def _labels(config: Config) -> list[tuple[str, str, str]]:
    """Key, value and rank dataset of every metric that orders patches."""
    found = [
        (f"{shown(f'rankers.{name}')}.metric", ranker.metric, config.learns_from(name))
        for name, ranker in config.rankers.items()
    ]
    for name, rank_dataset in config.rank_datasets.items():
        if rank_dataset.gap and rank_dataset.gap.metric:
            found.append((f"{shown(f'rank_datasets.{name}')}.gap.metric", rank_dataset.gap.metric, name))
    return found


def require_metrics(config: Config) -> None:
    """Raise UserError for a metric that is unknown, lacks its model, or cannot do what it is asked for."""
    evaluated = [(f"scoring.metrics={name}", name) for name in config.scoring.metrics]
    labels = [(f"{key}={metric}", metric) for key, metric, _ in _labels(config)]
    for said, name in [*evaluated, *labels]:
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
    """Raise UserError where a name of the config is that of a folder of every run. `stages`: those without a name."""
    taken = [*stages, *(name.split(".")[0] for name in (*BESIDE_STAGES, STAGES))]
    for key in ("methods", "blends", "external", "rank_datasets", "rankers"):
        if both := [name for name in getattr(config, key) if name in taken]:
            raise UserError(
                f"{key}.{both[0]}: the name is taken by a part of every run; choose another than {', '.join(taken)}"
            )


def require_wheel(config: Config) -> None:
    """Raise UserError where a source names a photograph that scikit-image's wheel does not hold, or one twice."""
    ranked = (each.hr for each in config.rank_datasets.values())
    for source in (config.data.hr, *ranked, *(each.hr for each in config.test_sets)):
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
    if "niqe" in metrics.made_of(metric) and (lack := lacks_niqe(config)):
        raise UserError(f"{key}={metric}: {lack}, or choose psnr")


def require_matches(config: Config, photographs: Callable[[str], list[Photo]], stages: Collection[str]) -> None:
    """Match the images made elsewhere that these stages read with their photographs. Raises UserError.

    `photographs`: those of a source.
    """
    data = config.data
    folders = {name: path for name, path in config.external.items() if storage.is_folder(path)}
    for rank_dataset in _ranked(config, stages):
        photos = photographs(rank_dataset.hr or data.hr)
        most_missing = parts.most_bad(data.on_bad_image, data.max_bad_fraction, len(photos))
        for name in (name for name in rank_dataset.methods if name in folders):
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
        *(name for rank_dataset in _ranked(config, stages) for name in rank_dataset.methods),
        *(config.evaluation.methods if "evaluation" in stages else ()),
    ]
    for name, path in config.external.items():
        if name in used and not storage.is_folder(path):
            checkpoints.load_generator(storage.absolute(path))
    for method in filter(None, map(config.method_of, stages)):
        if method.start is not None and config.generator_of(method.start) is None:
            checkpoints.start_weights(storage.absolute(method.start), method.generator)


def _ranked(config: Config, stages: Collection[str]) -> list[RankDataset]:
    """The rank datasets among these stages."""
    return [rank_dataset for name, rank_dataset in config.rank_datasets.items() if name in stages]


def warn(config: Config) -> None:
    """Say what the validations of this config will not have."""
    if lack := lacks_niqe(config):
        log.warning("validations will have no NIQE: %s", lack)


def lacks_niqe(config: Config) -> str | None:
    """The reason why validations will have no NIQE, with the remedy; None where they will."""
    size, needed = config.data.sub_image_px, metrics.smallest_niqe_px(config.scoring.profile)
    if size >= needed:
        return None
    return (
        f"data.sub_image_px={size} is too small for it under the profile {config.scoring.profile}; "
        f"set it to {needed} or more"
    )
