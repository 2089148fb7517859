"""Rules between several keys of a config. Every message names the keys, their values and the remedy."""

import os
import posixpath
from collections.abc import Sequence

from ranksr import SCALE
from ranksr.config.schema import Config
from ranksr.errors import UserError

IMAGES = ("lr", "hr", "bicubic")
"""Names of images shown beside those of the methods."""
SMALLEST_RANKED = 32
"""Sides of the smallest image that the discriminator and the Ranker take, in px."""


def check(config: Config) -> None:
    """Raise UserError naming the keys that do not fit together."""
    _check_lists(config)
    _check_methods(config)
    _check_sizes(config)
    _check_steering(config)
    _check_held_out(config)
    if config.ranker.train.ema_decay:
        raise UserError(
            f"ranker.train.ema_decay={config.ranker.train.ema_decay}: only generators are averaged; set it to 0"
        )


def _check_lists(config: Config) -> None:
    """Lists that are empty or repeat a name."""
    lists: dict[str, tuple[Sequence[str], str]] = {
        "test_sets": ([each.name for each in config.test_sets], "a test set, e.g. [{name: Set14, hr: /data/Set14}]"),
        "scoring.metrics": (config.scoring.metrics, "a metric, e.g. [niqe, psnr]"),
        "evaluation.methods": (config.evaluation.methods, "what the tables compare, e.g. [bicubic, srgan, hr]"),
        "rank_dataset.methods": (config.rank_dataset.methods, "what each location is shown by, e.g. [srresnet, srgan]"),
        "ranker.methods": (config.ranker.methods, "what the Ranker compares, e.g. [srresnet, srgan]"),
    }
    for key, (names, example) in lists.items():
        if not names:
            raise UserError(f"{key}=[] is empty: name at least {example}")
        if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
            raise UserError(f"{key} names {repeated[0]!r} twice ({', '.join(names)}): every name must be another")


def _check_held_out(config: Config) -> None:
    """Validation images are cut from data.hr and choose the best weights: a test set must not be among them."""
    for key, trained in (("data.hr", config.data.hr), ("rank_dataset.hr", config.rank_dataset.hr)):
        for test_set in config.test_sets:
            for tested in (test_set.hr, test_set.lr):
                if trained and tested and (shared := _shared(trained, tested)):
                    raise UserError(
                        f"{key} and the test set {test_set.name} share {shared} ({key}={trained}, and {tested}): "
                        "nothing trained or validated on may be tested on; take other photographs for one of them"
                    )


def _shared(one: str, other: str) -> str:
    """Photographs that two sources share, judged by name: names in the wheel, or the inner of two nested folders."""
    names, others = _wheel_names(one), _wheel_names(other)
    if names or others:
        return ", ".join(sorted(names & others))
    inner, outer = sorted((_place(one), _place(other)), key=len, reverse=True)
    return inner if (inner + "/").startswith(outer.rstrip("/") + "/") else ""


def _wheel_names(source: str) -> set[str]:
    wheel, separator, names = source.partition("skimage:")
    return set(names.split(",")) if separator and not wheel else set()


def _place(source: str) -> str:
    """The folder or file behind every way to write its path."""
    scheme, separator, path = source.partition("://")
    if separator:
        return f"{scheme}://{posixpath.normpath(path)}"
    return os.path.realpath(os.path.expanduser(source))


def _check_methods(config: Config) -> None:
    for name in (*config.methods, *config.external):
        if name in IMAGES:
            raise UserError(
                f"{'methods' if name in config.methods else 'external'}.{name}: the name is taken by ranksr; "
                f"choose another than {', '.join(IMAGES)}"
            )
    if both := config.methods.keys() & config.external.keys():
        raise UserError(f"methods.{min(both)} and external.{min(both)} have one name: rename one of them")
    for name, method in config.methods.items():
        if not any(value > 0 for _, value in method.weights):
            raise UserError(f"methods.{name}.weights are all 0: give at least one loss term a weight")
        _check_start(config, name)
    known = {*config.methods, *config.external, "bicubic", "hr"}
    for key, names in (
        ("rank_dataset.methods", config.rank_dataset.methods),
        ("evaluation.methods", config.evaluation.methods),
    ):
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"{key} names {unknown[0]!r}, which is none of {', '.join(sorted(known))}")
    stored = {*config.rank_dataset.methods, "hr"}
    if unknown := [name for name in config.ranker.methods if name not in stored]:
        raise UserError(
            f"ranker.methods names {unknown[0]!r}, which is not in rank_dataset.methods ({', '.join(sorted(stored))})"
        )
    gap = config.rank_dataset.gap
    if gap and (len({*gap.methods}) < 2 or not stored.issuperset(gap.methods)):
        raise UserError(
            f"rank_dataset.gap.methods={', '.join(gap.methods)} must be two of those of rank_dataset.methods "
            f"({', '.join(sorted(stored))})"
        )
    if len(set(config.ranker.methods)) < 2:
        raise UserError("ranker.methods needs at least two different methods to compare")
    for name in config.rank_dataset.methods:
        if _needs_ranker(config, name):
            raise UserError(
                f"rank_dataset.methods names {name!r}, which needs the Ranker "
                f"(methods.{name}.weights.rank_content > 0), which needs the rank dataset: leave it out"
            )


def _check_steering(config: Config) -> None:
    """Sizes and targets of a Ranker's crops, shifts and refresh."""
    crop, patch = config.ranker.crop_px, config.rank_dataset.patch_px
    if crop is not None and crop > patch:
        raise UserError(f"ranker.crop_px={crop} is larger than rank_dataset.patch_px={patch}: lower it")
    shift = config.rank_content_loss.shift_px
    for name, method in config.methods.items():
        if method.uses_ranker and method.hr_patch_px - shift < SMALLEST_RANKED:
            raise UserError(
                f"rank_content_loss.shift_px={shift} leaves less than {SMALLEST_RANKED} px of "
                f"methods.{name}.hr_patch_px={method.hr_patch_px} for the Ranker: lower it"
            )
    if config.rank_content_loss.refresh is not None and config.ranker.target == "method":
        raise UserError(
            "rank_content_loss.refresh needs a Ranker of a metric, and ranker.target=method learns the order of the "
            "methods: set ranker.target=rank, or rank_content_loss.refresh=null"
        )


def _check_start(config: Config, name: str) -> None:
    chain = [name]
    while (start := config.methods[chain[-1]].start) in config.methods:
        if config.methods[start].generator != config.methods[chain[-1]].generator:
            raise UserError(
                f"methods.{chain[-1]}.generator differs from methods.{start}.generator, from which it starts"
            )
        if start in chain:
            raise UserError(f"methods.{name}.start leads back to itself: {' -> '.join([*chain, start])}")
        chain.append(start)
    if start is not None and "/" not in start and "." not in start:
        raise UserError(
            f"methods.{chain[-1]}.start={start!r} is neither one of methods.* nor the path of a weights file"
        )


def _needs_ranker(config: Config, name: str | None) -> bool:
    method = config.methods.get(name or "")
    return method is not None and (method.uses_ranker or _needs_ranker(config, method.start))


def _check_sizes(config: Config) -> None:
    workers = config.compute.num_workers
    trainings = {f"methods.{name}": method.train for name, method in config.methods.items()} | {
        "ranker": config.ranker.train
    }
    for key, training in trainings.items():
        if training.batch_size % workers:
            raise UserError(
                f"{key}.train.batch_size={training.batch_size} is not a multiple of compute.num_workers={workers}"
            )
    for key, size in (
        ("data.sub_image_px", config.data.sub_image_px),
        ("data.sub_image_stride_px", config.data.sub_image_stride_px),
    ):
        if size % SCALE:
            raise UserError(f"{key}={size} is not a multiple of {SCALE}")
    for name, method in config.methods.items():
        size = method.hr_patch_px
        if size % SCALE or size > config.data.sub_image_px:
            raise UserError(
                f"methods.{name}.hr_patch_px={size} must be a multiple of {SCALE} "
                f"and at most data.sub_image_px={config.data.sub_image_px}"
            )
        if (method.uses_discriminator or method.uses_ranker) and size < SMALLEST_RANKED:
            raise UserError(
                f"methods.{name}.hr_patch_px={size} is under {SMALLEST_RANKED}, "
                "the smallest input of the discriminator and the Ranker"
            )
    if config.rank_dataset.patch_px < SMALLEST_RANKED:
        raise UserError(
            f"rank_dataset.patch_px={config.rank_dataset.patch_px} is under {SMALLEST_RANKED}, "
            "the Ranker's smallest input"
        )
