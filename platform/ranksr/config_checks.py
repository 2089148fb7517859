"""What must hold between several keys of a config; every message names the keys. Called by `Config` itself."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ranksr.config import Config

STAGES = ("patches", "calibration", "calibration_niqe", "calibration_ma", "rank_dataset", "ranker", "evaluation")
"""Stages beside the trainings of the methods; each has a folder of its name in a run."""
OTHER_ENTRIES = ("ablation", "lock", "report", "run", "tensorboard")
"""What else lies in a run's folder."""
RESERVED_METHODS = ("lr", "hr", "bicubic", *STAGES, *OTHER_ENTRIES)
"""Names that no method may have: those of images without a network, and of what a run's folder holds."""


def check(config: "Config", scale: int) -> None:
    """Raise ValueError naming the keys that do not fit together. `scale`: the magnification of every generator."""
    _check_lists(config)
    _check_methods(config)
    _check_sizes(config, scale)
    _check_held_out(config)
    if config.ranker.train.ema_decay:
        raise ValueError(
            f"ranker.train.ema_decay={config.ranker.train.ema_decay}: only generators are averaged; set it to 0"
        )


def _check_held_out(config: "Config") -> None:
    """Validation images are cut from data.hr and choose the best weights: a test set must not be among them."""
    for key, trained in (("data.hr", config.data.hr), ("rank_dataset.hr", config.rank_dataset.hr)):
        for test_set in config.test_sets:
            if trained and (shared := _shared(_photographs(trained), _photographs(test_set.hr))):
                raise ValueError(
                    f"{key} and the test set {test_set.name} share {', '.join(sorted(shared))}: nothing that is "
                    "trained or validated on may be tested on; take other photographs for one of them"
                )


def _photographs(source: str) -> set[str]:
    """What can be told apart without listing: the names of the wheel's photographs, or where a folder or file is."""
    if source.startswith("skimage:"):
        return set(source.removeprefix("skimage:").split(","))
    scheme, separator, rest = source.partition("://")
    if separator:
        return {f"{scheme}://{os.path.normpath(rest)}"}
    return {os.path.realpath(os.path.expanduser(source))}


def _shared(one: set[str], other: set[str]) -> set[str]:
    """Places of either that are, or lie in, one of the other's."""
    return {a for a in one for b in other if _lies_in(a, b)} | {b for a in one for b in other if _lies_in(b, a)}


def _lies_in(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")


def _check_lists(config: "Config") -> None:
    lists: dict[str, Sequence[str]] = {
        "test_sets": [test_set.name for test_set in config.test_sets],
        "scoring.metrics": config.scoring.metrics,
        "evaluation.methods": config.evaluation.methods,
    }
    for key, names in lists.items():
        if not names:
            raise ValueError(f"{key} is empty: name at least one")
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{key} names {repeated} twice: remove one, or give them different names")


def _check_methods(config: "Config") -> None:
    for name in (*config.methods, *config.external):
        if name in RESERVED_METHODS:
            raise ValueError(
                f"{'methods' if name in config.methods else 'external'}.{name}: the name is taken by ranksr; "
                f"choose another than {', '.join(RESERVED_METHODS)}"
            )
    if both := config.methods.keys() & config.external.keys():
        raise ValueError(f"methods.{min(both)} and external.{min(both)} have one name: rename one of them")
    for name, method in config.methods.items():
        if not any(value > 0 for _, value in method.weights):
            raise ValueError(f"methods.{name}.weights are all 0: give at least one loss term a weight")
        _check_start(config, name)
    known = {*config.methods, *config.external, "bicubic", "hr"}
    for key, names in (
        ("rank_dataset.methods", config.rank_dataset.methods),
        ("evaluation.methods", config.evaluation.methods),
    ):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{key} names {unknown[0]!r}, which is none of {', '.join(sorted(known))}")
        if len(set(names)) != len(names):
            raise ValueError(f"{key} names a method twice: {', '.join(names)}")
    stored = {*config.rank_dataset.methods, "hr"}
    if unknown := [name for name in config.ranker.methods if name not in stored]:
        raise ValueError(
            f"ranker.methods names {unknown[0]!r}, which is not in rank_dataset.methods ({', '.join(sorted(stored))})"
        )
    gap = config.rank_dataset.gap
    if gap and (len({*gap.methods}) < 2 or not stored.issuperset(gap.methods)):
        raise ValueError(
            f"rank_dataset.gap.methods={', '.join(gap.methods)} must be two of those of rank_dataset.methods "
            f"({', '.join(sorted(stored))})"
        )
    if len(set(config.ranker.methods)) < 2:
        raise ValueError("ranker.methods needs at least two different methods to compare")
    for name in config.rank_dataset.methods:
        if _needs_ranker(config, name):
            raise ValueError(
                f"rank_dataset.methods names {name!r}, which needs the Ranker "
                f"(methods.{name}.weights.rank_content > 0), which needs the rank dataset: leave it out"
            )


def _check_start(config: "Config", name: str) -> None:
    chain = [name]
    while (start := config.methods[chain[-1]].start) in config.methods:
        if config.methods[start].generator != config.methods[chain[-1]].generator:
            raise ValueError(
                f"methods.{chain[-1]}.generator differs from methods.{start}.generator, from which it starts"
            )
        if start in chain:
            raise ValueError(f"methods.{name}.start leads back to itself: {' -> '.join([*chain, start])}")
        chain.append(start)
    if start is not None and "/" not in start and "." not in start:
        raise ValueError(
            f"methods.{chain[-1]}.start={start!r} is neither one of methods.* nor the path of a weights file"
        )


def _needs_ranker(config: "Config", name: str | None) -> bool:
    method = config.methods.get(name or "")
    return method is not None and (method.weights.rank_content > 0 or _needs_ranker(config, method.start))


def _check_sizes(config: "Config", scale: int) -> None:
    workers = config.compute.num_workers
    trainings = {f"methods.{name}": method.train for name, method in config.methods.items()} | {
        "ranker": config.ranker.train
    }
    for key, training in trainings.items():
        if training.batch_size % workers:
            raise ValueError(
                f"{key}.train.batch_size={training.batch_size} is not a multiple of compute.num_workers={workers}"
            )
    for key, size in (
        ("data.sub_image_px", config.data.sub_image_px),
        ("data.sub_image_stride_px", config.data.sub_image_stride_px),
    ):
        if size % scale:
            raise ValueError(f"{key}={size} is not a multiple of {scale}")
    for name, method in config.methods.items():
        size = method.hr_patch_px
        if size % scale or size > config.data.sub_image_px:
            raise ValueError(
                f"methods.{name}.hr_patch_px={size} must be a multiple of {scale} "
                f"and at most data.sub_image_px={config.data.sub_image_px}"
            )
        if (method.weights.adversarial > 0 or method.weights.rank_content > 0) and size < 32:
            raise ValueError(
                f"methods.{name}.hr_patch_px={size} is under 32, the smallest input of the discriminator and the Ranker"
            )
    if config.rank_dataset.patch_px < 32:
        raise ValueError(
            f"rank_dataset.patch_px={config.rank_dataset.patch_px} is under 32, the Ranker's smallest input"
        )
