"""Rules between several keys of a config. Every message names the keys, their values and the remedy."""

import os
import posixpath
from collections.abc import Callable, Iterable, Sequence

from ranksr import SCALE
from ranksr.config.schema import Config, RankDataset, shown, snapshot
from ranksr.errors import UserError

IMAGES = ("lr", "hr", "bicubic")
"""Names of images shown beside those of the methods."""
SMALLEST_RANKED = 32
"""Sides of the smallest image that the discriminator and the Ranker take, in px."""


def check(config: Config) -> None:
    """Raise UserError naming the keys that do not fit together."""
    _check_lists(config)
    _check_names(config)
    _check_blends(config)
    _check_methods(config)
    for name in config.rank_datasets:
        _check_rank_dataset(config, name)
    for name in config.rankers:
        _check_ranker(config, name)
    _check_circles(config)
    _check_sizes(config)
    _check_steering(config)
    _check_held_out(config)


def _check_lists(config: Config) -> None:
    """Lists that are empty or repeat a name."""
    lists: dict[str, tuple[Sequence[str], str]] = {
        "test_sets": ([each.name for each in config.test_sets], "a test set, e.g. [{name: Set14, hr: /data/Set14}]"),
        "scoring.metrics": (config.scoring.metrics, "a metric, e.g. [niqe, psnr]"),
        "evaluation.methods": (config.evaluation.methods, "what the tables compare, e.g. [bicubic, srgan, hr]"),
    }
    for name, rank_dataset in config.rank_datasets.items():
        key = shown(f"rank_datasets.{name}.methods")
        lists[key] = (rank_dataset.methods, "what each location is shown by, e.g. [srresnet, srgan]")
    for name, ranker in config.rankers.items():
        lists[shown(f"rankers.{name}.methods")] = (ranker.methods, "what the Ranker compares, e.g. [srresnet, srgan]")
    for key, (names, example) in lists.items():
        if not names:
            raise UserError(f"{key}=[] is empty: name at least {example}")
        if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
            raise UserError(f"{key} names {repeated[0]!r} twice ({', '.join(names)}): every name must be another")


def _check_held_out(config: Config) -> None:
    """Validation images are cut from data.hr and choose the best weights: a test set must not be among them."""
    ranked = [(shown(f"rank_datasets.{name}.hr"), each.hr) for name, each in config.rank_datasets.items()]
    for key, trained in (("data.hr", config.data.hr), *ranked):
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


def _check_names(config: Config) -> None:
    """Every name is a column of a table or a folder of the run, so none may stand twice."""
    named: dict[str, str] = {}
    for section in ("methods", "blends", "external", "rank_datasets", "rankers"):
        for name in getattr(config, section):
            key = f"{section}.{name}"
            if name in IMAGES:
                raise UserError(f"{key}: the name is taken by ranksr; choose another than {', '.join(IMAGES)}")
            if name in named:
                raise UserError(f"{named[name]} and {key} have one name: rename one of them")
            named[name] = key


def _check_blends(config: Config) -> None:
    """Before all that asks for the architecture of a method, which a blend has from its own methods."""
    _refuse_circles(config.blends, lambda name: config.blends[name].methods if name in config.blends else ())
    for name, blend in config.blends.items():
        _require_known(config, f"blends.{name}.methods", blend.methods)
        one, other = (config.generator_of(each) for each in blend.methods)
        if one is None or one != other:
            raise UserError(
                f"blends.{name}.methods={', '.join(blend.methods)} must be networks of this config of one architecture"
            )


def _check_methods(config: Config) -> None:
    for name, method in config.methods.items():
        if not (any(value > 0 for key, value in method.weights if key != "rank_content") or method.uses_ranker):
            raise UserError(f"methods.{name}.weights are all 0: give at least one loss term a weight")
        _check_start(config, name)
        weight = method.weights.rank_content
        named = weight.keys() if isinstance(weight, dict) else config.steered_by(name).keys()
        if unknown := named - config.rankers.keys():
            raise UserError(
                f"methods.{name}.weights.rank_content names {min(unknown)!r}, which is none of rankers "
                f"({', '.join(config.rankers) or 'there are none'})"
            )
    _require_known(config, "evaluation.methods", config.evaluation.methods)


def _require_known(config: Config, key: str, names: Sequence[str]) -> None:
    known = {*config.methods, *config.blends, *config.external, "bicubic", "hr"}
    for name in names:
        method, step = snapshot(name)
        if step is not None and method in config.methods:
            steps = config.methods[method].train.steps
            if not 0 < step < steps:
                raise UserError(f"{key} names {name}: {method} trains {steps} steps, give one from 1 to {steps - 1}")
        elif name not in known:
            raise UserError(f"{key} names {name!r}, which is none of {', '.join(sorted(known))}")


def _stored(rank_dataset: RankDataset) -> set[str]:
    return {*rank_dataset.methods, "hr"}


def _check_rank_dataset(config: Config, name: str) -> None:
    rank_dataset, key = config.rank_datasets[name], shown(f"rank_datasets.{name}")
    _require_known(config, f"{key}.methods", rank_dataset.methods)
    stored, gap = _stored(rank_dataset), rank_dataset.gap
    if gap and (len({*gap.methods}) < 2 or not stored.issuperset(gap.methods)):
        raise UserError(
            f"{key}.gap.methods={', '.join(gap.methods)} must be two of those of {key}.methods "
            f"({', '.join(sorted(stored))})"
        )
    if gap and gap.metric is None and len(config.learners_of(name)) != 1:
        raise UserError(f"{key}.gap.metric is null, and {key} is not of one Ranker: name the metric, e.g. niqe")
    if rank_dataset.patch_px < SMALLEST_RANKED:
        raise UserError(
            f"{key}.patch_px={rank_dataset.patch_px} is under {SMALLEST_RANKED}, the Ranker's smallest input"
        )


def _check_ranker(config: Config, name: str) -> None:
    ranker, key = config.rankers[name], shown(f"rankers.{name}")
    if ranker.rank_dataset is None and len(config.rank_datasets) != 1:
        raise UserError(
            f"{key}.rank_dataset is null, which takes the only one, and rank_datasets are "
            f"{', '.join(config.rank_datasets) or 'none'}: name one"
        )
    of = config.learns_from(name)
    if of not in config.rank_datasets:
        raise UserError(f"{key}.rank_dataset={of} is none of rank_datasets ({', '.join(config.rank_datasets)})")
    rank_dataset, shown_key = config.rank_datasets[of], shown(f"rank_datasets.{of}")
    stored = _stored(rank_dataset)
    if unknown := [each for each in ranker.methods if each not in stored]:
        raise UserError(
            f"{key}.methods names {unknown[0]!r}, which is not in {shown_key}.methods ({', '.join(sorted(stored))})"
        )
    if len(set(ranker.methods)) < 2:
        raise UserError(f"{key}.methods needs at least two different methods to compare")
    if ranker.crop_px is not None and ranker.crop_px > rank_dataset.patch_px:
        raise UserError(
            f"{key}.crop_px={ranker.crop_px} is larger than {shown_key}.patch_px={rank_dataset.patch_px}: lower it"
        )
    if ranker.train.ema_decay:
        raise UserError(f"{key}.train.ema_decay={ranker.train.ema_decay}: only generators are averaged; set it to 0")


def _check_circles(config: Config) -> None:
    """A method needs its start and its Rankers, a Ranker its rank dataset, and that its methods."""

    def needed(name: str) -> Sequence[str]:
        name = snapshot(name)[0]
        if name in config.methods:
            return [*config.steered_by(name), *([start] if (start := config.methods[name].start) else [])]
        if name in config.blends:
            return config.blends[name].methods
        if name in config.rankers:
            return [config.learns_from(name)]
        return config.rank_datasets[name].methods if name in config.rank_datasets else ()

    _refuse_circles((*config.methods, *config.blends), needed)


def _refuse_circles(names: Iterable[str], needed: Callable[[str], Sequence[str]]) -> None:
    """Raise UserError naming the first circle in what these names need, each once."""
    cleared: set[str] = set()

    def walk(chain: list[str]) -> None:
        for name in needed(chain[-1]):
            if name in chain:
                circle = " -> ".join([*chain[chain.index(name) :], name])
                raise UserError(f"{circle}: what is to be trained needs itself; take one out of the other's list")
            if name not in cleared:
                walk([*chain, name])
        cleared.add(chain[-1])

    for name in names:
        walk([name])


def _check_steering(config: Config) -> None:
    """Sizes and targets of shifts and refresh."""
    shift = config.rank_content_loss.shift_px
    for name, method in config.methods.items():
        if method.uses_ranker and method.hr_patch_px - shift < SMALLEST_RANKED:
            raise UserError(
                f"rank_content_loss.shift_px={shift} leaves less than {SMALLEST_RANKED} px of "
                f"methods.{name}.hr_patch_px={method.hr_patch_px} for the Ranker: lower it"
            )
    for name, ranker in config.rankers.items() if config.rank_content_loss.refresh is not None else ():
        if ranker.target == "method":
            key = shown(f"rankers.{name}.target")
            raise UserError(
                f"rank_content_loss.refresh needs a Ranker of a metric, and {key}=method learns the order of the "
                f"methods: set {key}=rank, or rank_content_loss.refresh=null"
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
    if start is not None and (made := config.generator_of(start)) is not None:
        _require_known(config, f"methods.{chain[-1]}.start", [start])
        if made != config.methods[chain[-1]].generator:
            raise UserError(f"methods.{chain[-1]}.generator differs from that of {start}, from which it starts")
    elif start is not None and "/" not in start and "." not in start:
        raise UserError(
            f"methods.{chain[-1]}.start={start!r} is neither one of methods.* nor the path of a weights file"
        )


def _check_sizes(config: Config) -> None:
    workers = config.compute.num_workers
    trainings = {f"methods.{name}": method.train for name, method in config.methods.items()} | {
        shown(f"rankers.{name}"): ranker.train for name, ranker in config.rankers.items()
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
