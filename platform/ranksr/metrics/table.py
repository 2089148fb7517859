"""The METRICS table: each metric's direction and whether it needs a reference, said once."""

from typing import NamedTuple, TypeVar

import numpy as np

from ranksr.errors import UserError
from ranksr.metrics.learned import RANKER

PYIQA = "pyiqa:"


class Metric(NamedTuple):
    """Direction and needs of a metric."""

    name: str
    lower_is_better: bool
    needs_reference: bool
    best: float
    """Best value, where higher is better: `as_lower_better` subtracts from it (Ma: 10, as PI does)."""


METRICS = {
    metric.name: metric
    for metric in (
        Metric("niqe", lower_is_better=True, needs_reference=False, best=0),
        Metric("ma", lower_is_better=False, needs_reference=False, best=10),
        Metric("pi", lower_is_better=True, needs_reference=False, best=0),
        Metric("psnr", lower_is_better=False, needs_reference=True, best=0),
        Metric("ssim", lower_is_better=False, needs_reference=True, best=1),
    )
}


def metric_info(name: str) -> Metric:
    """The entry of `name`; `pyiqa:NAME` asks pyiqa, `ranker:RUN` is a Ranker's score. Raises UserError for another."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith(PYIQA):
        from ranksr.metrics.external import describe  # only here does pyiqa get imported

        lower_is_better, needs_reference = describe(name.removeprefix(PYIQA))
        return Metric(name, lower_is_better, needs_reference, best=0)
    if name.startswith(RANKER) and name != RANKER:
        return Metric(name, lower_is_better=True, needs_reference=False, best=0)
    raise UserError(f"metric {name!r} is unknown: use {', '.join(METRICS)}, {PYIQA}NAME or {RANKER}RUN")


def made_of(metric: str) -> tuple[str, ...]:
    """The scored metrics behind a metric: NIQE and Ma behind PI, every other metric itself."""
    return ("niqe", "ma") if metric == "pi" else (metric,)


T = TypeVar("T", float, np.ndarray)


def as_lower_better(metric: str, value: T) -> T:
    """`value` reflected so that lower is better: unchanged, or `best - value` (Ma enters as 10 - Ma). NaN stays."""
    info = metric_info(metric)
    return value if info.lower_is_better else info.best - value
